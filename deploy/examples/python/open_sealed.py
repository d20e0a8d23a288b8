"""Opens sealed credentials. The code is that of contracts/README.md."""

import json

from joserfc import jwe, jws
from joserfc.jwk import KeySet


def open_sealed(body, private_jwks, worker_jwks, me):
    message = json.loads(body)
    ours, workers = KeySet.import_key_set(private_jwks), KeySet.import_key_set(worker_jwks)
    opened = jwe.decrypt_compact(message["data"], ours, ["ECDH-ES+A256KW", "RSA-OAEP-256", "A256GCM"])
    signed = jws.deserialize_compact(opened.plaintext, workers, ["Ed25519", "ES256"])
    content = json.loads(signed.payload)
    ties = {"aud": me, "iss": message["source"], "sub": message["subject"], "jti": message["id"]}
    if any(content[claim] != value for claim, value in ties.items()):
        raise ValueError("these credentials were sealed for another message or recipient")
    return content
