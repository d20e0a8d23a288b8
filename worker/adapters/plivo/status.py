"""Maps Plivo's HTTP statuses to kinds of faults. No other module knows a status."""

from worker.core.judge import FaultKind

_KINDS = {
    400: FaultKind.REJECTED,
    401: FaultKind.LOGIN_REFUSED,
    402: FaultKind.NO_CREDIT,
    403: FaultKind.FORBIDDEN,
    404: FaultKind.NOT_FOUND,
    405: FaultKind.REJECTED,
    408: FaultKind.TIMED_OUT,
    409: FaultKind.CONFLICT,
    422: FaultKind.REJECTED,
    429: FaultKind.RATE_LIMITED,
}
_REDIRECTS = range(300, 400)
_FIRST_SERVER_ERROR = 500


def kind_of(status: int) -> FaultKind:
    """The kind of fault of an error response. Sources: Plivo's API errors and RFC 9110, section 15."""
    if status in _REDIRECTS:
        return FaultKind.REDIRECTED
    if status >= _FIRST_SERVER_ERROR:
        return FaultKind.SERVER_ERROR
    return _KINDS.get(status, FaultKind.UNEXPECTED)
