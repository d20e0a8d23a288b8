"""Maps Plivo's HTTP responses to kinds of faults. No other module knows a status."""

from worker.core.judge import FaultKind

_BY_ANYBODY = {
    401: FaultKind.LOGIN_REFUSED,
    402: FaultKind.NO_CREDIT,
    408: FaultKind.TIMED_OUT,
    429: FaultKind.RATE_LIMITED,
}
"""These say the same whether Plivo or a gateway sends them: nothing was done, or that is not known."""
_BY_PLIVO = {
    400: FaultKind.REJECTED,
    403: FaultKind.FORBIDDEN,
    404: FaultKind.NOT_FOUND,
    405: FaultKind.REJECTED,
    409: FaultKind.CONFLICT,
    422: FaultKind.REJECTED,
}
_FIRST_SERVER_ERROR = 500
_PLAIN_ERROR = {"error", "message"}


def is_own_error(document: object) -> bool:
    """Whether the JSON document of an error response is Plivo's.

    Plivo documents `{"api_id", "error"}`, and some of its errors lack `api_id`. Gateways write other members:
    Spring's has `error` with `status`, `path` and `timestamp`, those of Kong and AWS only `message`.
    """
    if not isinstance(document, dict) or "error" not in document:
        return False
    return "api_id" in document or document.keys() <= _PLAIN_ERROR


def kind_of(status: int, *, own: bool = True) -> FaultKind:
    """The kind of fault of an error response; `own`: Plivo wrote it, not something on the way.

    Sources: Plivo's API errors and RFC 9110, section 15. Everything that Plivo does not document is
    unexpected, redirects too.
    """
    if status >= _FIRST_SERVER_ERROR:
        return FaultKind.SERVER_ERROR
    by_plivo = _BY_PLIVO if own else {}
    return (_BY_ANYBODY | by_plivo).get(status, FaultKind.UNEXPECTED)
