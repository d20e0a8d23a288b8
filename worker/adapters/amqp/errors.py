"""Explains to the person who set AMQP_URL why the broker cannot be used.

asyncio and aiormq wrap OpenSSL's errors, so only the texts can be matched.
"""

import errno
import re

from worker.ports import UserError

_OURS_REFUSED = re.compile(r"alert (?:certificate (\w+)|(unknown ca)|(bad certificate))")
_THEIRS_REFUSED = re.compile(r"certificate verify failed: (.*?)\.? ?\(_ssl")

REFUSED = "connection refused"


class BrokerUnavailable(UserError):
    """There is no connection at the moment. The text holds no password."""


class BrokerRefuses(BrokerUnavailable):
    """The broker refuses a login, an operation, or an object that differs. Retrying does not help."""


class BrokerAbsent(BrokerUnavailable):
    """The connect was refused, or closed silently, as by a proxy whose broker is down."""


def explain(error: BaseException) -> str:
    """An error of the client library or the network in one line."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if errno.ECONNREFUSED in error.args or f"[Errno {errno.ECONNREFUSED}]" in str(error):
        return REFUSED
    return " ".join(str(error).split()) or type(error).__name__


def explain_tls(error: BaseException) -> str | None:
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
        return "that port does not speak TLS; write amqp:// or the port of amqps"
    return None


def hint(url: str, error: BaseException) -> str:
    """A suffix for a reset connection: a broker that misses a client certificate often sends no reason."""
    if url.startswith("amqps:") and "reset" in str(error):
        return "; does it want another client certificate (certfile and keyfile in AMQP_URL)?"
    return ""
