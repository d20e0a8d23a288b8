"""Exceptions of the ports become failures: values that `judge` can turn into a verdict."""

from worker.core.judge import Failure, Transient, Unavailable, classify
from worker.ports import CallFailed, LedgerConflict, LedgerFailed, PublishFailed


def failure_of(error: Exception) -> Failure:
    """The failure an exception stands for. One of an unknown type is a fault of ours, and worth a retry."""
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
    """Whether no port raises it."""
    return not isinstance(error, CallFailed | PublishFailed | LedgerFailed | LedgerConflict)
