"""Words for the errors of sockets, DNS and TLS, for all adapters that connect.

The libraries wrap the error of the operating system, and some under its number: the innermost cause counts.
"""

import errno
import re
import socket
import ssl
from collections.abc import Iterator

REFUSED = "connection refused"
RESET = "connection reset"
NOT_TLS = "that port does not speak TLS"

_DNS = {
    socket.EAI_NONAME: "name not known (DNS)",
    socket.EAI_NODATA: "name has no address (DNS)",
    socket.EAI_AGAIN: "no answer from the name server (DNS)",
    socket.EAI_FAIL: "the name server failed (DNS)",
}
_OS = {
    errno.ECONNREFUSED: REFUSED,
    errno.ECONNRESET: RESET,
    errno.ECONNABORTED: RESET,
    errno.EPIPE: RESET,
    errno.ENETUNREACH: "network unreachable",
    errno.EHOSTUNREACH: "host unreachable (no route)",
    errno.ETIMEDOUT: "timeout while connecting",
    errno.EMFILE: "too many open files in this process",
    errno.EACCES: "forbidden by a firewall of this machine",
    errno.EPERM: "forbidden by a firewall of this machine",
}
# OpenSSL's numbers: https://docs.openssl.org/3.0/man3/X509_STORE_CTX_get_error/
_NOT_YET_VALID, _EXPIRED = 9, 10
_OTHER_NAME = frozenset({62, 64})  # host name, IP address
_PLAIN_TEXT = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE"})
_VERSIONS = frozenset({"UNSUPPORTED_PROTOCOL", "NO_PROTOCOLS_AVAILABLE", "TLSV1_ALERT_PROTOCOL_VERSION"})
_ALERT = re.compile(r"(?:SSLV3|TLSV1|TLSV13)_ALERT_(\w+)")
_ERRNO = re.compile(r"\[Errno (\d+)\]")


def cause_of(error: BaseException) -> str | None:
    """The cause in words, without the address; None for an error of another kind."""
    return next((words for one in reversed(list(_chain(error))) if (words := _words(one))), None)


def certificate_problem(error: BaseException) -> ssl.SSLCertVerificationError | None:
    """The error of a certificate of the other side that we refuse; None for any other failure."""
    return next((one for one in _chain(error) if isinstance(one, ssl.SSLCertVerificationError)), None)


def is_other_name(problem: ssl.SSLCertVerificationError) -> bool:
    """Whether the certificate is valid, but for another host."""
    return problem.verify_code in _OTHER_NAME


def host_and_port(host: str | None, port: int | None) -> str:
    """`api.plivo.com:443`; an IPv6 address gets its brackets."""
    shown = f"[{host}]" if host and ":" in host else str(host)
    return f"{shown}:{port}" if port else shown


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and its causes; a wrapper of aiohttp has the cause in `os_error`."""
    one: BaseException | None = error
    while one is not None:
        yield one
        one = one.__cause__ or getattr(one, "os_error", None)


def _words(error: BaseException) -> str | None:
    match error:
        case socket.gaierror():
            return _DNS.get(error.errno or 0, "name cannot be looked up (DNS)")
        case ssl.SSLCertVerificationError():
            return _certificate(error)
        case ssl.SSLError():
            return _tls(error.reason or "")
        case OSError():
            return _OS.get(error.errno or _shared_errno(str(error)))
        case _:
            return None


def _certificate(error: ssl.SSLCertVerificationError) -> str:
    if is_other_name(error):
        return f"its TLS certificate is for another name ({error.verify_message.rstrip('.')})"
    match error.verify_code:
        case code if code == _EXPIRED:
            return "its TLS certificate has expired"
        case code if code == _NOT_YET_VALID:
            return "its TLS certificate is not valid yet; is the clock of this machine right?"
        case _:
            return f"its TLS certificate is of an unknown authority ({error.verify_message})"


def _tls(reason: str) -> str:
    if reason in _PLAIN_TEXT:
        return NOT_TLS
    if reason in _VERSIONS:
        return "no TLS version in common"
    if alert := _ALERT.fullmatch(reason):
        return f"it refuses TLS with us ({alert[1].lower().replace('_', ' ')})"
    return f"TLS failed ({reason.lower().replace('_', ' ') or 'no reason given'})"


def _shared_errno(text: str) -> int:
    """The error number that a failure at several addresses of one host quotes first; 0 if there is none."""
    found = _ERRNO.search(text)
    return int(found[1]) if found else 0
