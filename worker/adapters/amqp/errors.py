"""What a failed TLS handshake, or a login by certificate, means for the person who set AMQP_URL.

The client library hands on OpenSSL's words in an error of its own, so words are all there is to tell by.
"""

import re

from aio_pika.exceptions import AuthenticationError, ProbableAuthenticationError

_OURS_REFUSED = re.compile(r"alert (?:certificate (\w+)|(unknown ca)|(bad certificate))")
_THEIRS_REFUSED = re.compile(r"certificate verify failed: (.*?)\.? ?\(_ssl")


def tls_refused(error: BaseException) -> str | None:
    """Why the two sides do not trust each other, and what to do; None for any other failure."""
    text = str(error)
    if found := _THEIRS_REFUSED.search(text):
        if "mismatch" in found[1]:
            return f"its certificate is for another name ({found[1]}); write that name in AMQP_URL"
        return f"its certificate is not trusted ({found[1]}); set cafile in AMQP_URL to its authority's"
    if found := _OURS_REFUSED.search(text):
        why = next(part for part in found.groups() if part)
        return f"it refuses the certificate in certfile of AMQP_URL ({why})"
    if "WRONG_VERSION_NUMBER" in text:
        return "nobody speaks TLS at that port; write amqp:// or the port of amqps"
    return None


def hint(url: str, error: BaseException) -> str:
    """A broker that misses a client certificate often breaks off without a word."""
    if url.startswith("amqps:") and "reset" in str(error):
        return "; does it want another client certificate (certfile and keyfile in AMQP_URL)?"
    return ""


def mechanism_refused(error: AuthenticationError | ProbableAuthenticationError) -> str | None:
    """Where the broker does not offer the way of login that `auth` in AMQP_URL asks for."""
    match error.args:
        case (str(offered), [*_]):
            return f"it offers {', '.join(offered.split())}, and not what auth in AMQP_URL asks for"
        case _:
            return None
