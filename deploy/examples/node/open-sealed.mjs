// Opens sealed credentials. The code is that of contracts/README.md.
import { compactDecrypt, createLocalJWKSet, decodeProtectedHeader, importJWK, jwtVerify } from "jose";

export async function openSealed(body, privateJwks, workerJwks, me) {
  const message = JSON.parse(body);
  const { kid } = decodeProtectedHeader(message.data);
  const jwk = privateJwks.keys.find((key) => key.kid === kid);
  const alg = jwk.kty === "RSA" ? "RSA-OAEP-256" : "ECDH-ES+A256KW";
  const { plaintext } = await compactDecrypt(message.data, await importJWK(jwk, alg), {
    keyManagementAlgorithms: [alg], contentEncryptionAlgorithms: ["A256GCM"],
  });
  const { payload } = await jwtVerify(plaintext, createLocalJWKSet(workerJwks), {
    audience: me, issuer: message.source, subject: message.subject, algorithms: ["Ed25519", "ES256"],
  });
  if (payload.jti !== message.id) throw new Error("these credentials were sealed for another message");
  return payload;
}
