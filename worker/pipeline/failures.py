"""Turns exceptions of the ports into failures, the values that `judge` makes a verdict of."""

from worker.core.judge import Failure, Transient, Unavailable, classify
from worker.ports import CallFailed, LedgerConflict, LedgerFailed, PublishFailed


def failure_of(error: Exception) -> Failure:
    """The failure that an exception stands for. An unknown type is a bug of ours; a retry may help."""
    match error:
        case CallFailed():
            return classify(error.fault)
        case PublishFailed() | LedgerFailed():
            return Unavailable(str(error))
        case LedgerConflict():
            return Transient(str(error))
        case _:
            return Transient(f"unexpected {type(error).__name__}")


def is_unexpected(error: Exception) -> bool:
    """Whether the exception is none that a port raises."""
    return not isinstance(error, CallFailed | PublishFailed | LedgerFailed | LedgerConflict)
