"""The kind of fault that the Plivo adapter gives to every HTTP status."""

import pytest

from worker.adapters.plivo.status import kind_of
from worker.core.judge import FaultKind

NAMED = {
    FaultKind.REJECTED: {400, 405, 422},
    FaultKind.LOGIN_REFUSED: {401},
    FaultKind.NO_CREDIT: {402},
    FaultKind.FORBIDDEN: {403},
    FaultKind.NOT_FOUND: {404},
    FaultKind.TIMED_OUT: {408},
    FaultKind.CONFLICT: {409},
    FaultKind.RATE_LIMITED: {429},
    FaultKind.REDIRECTED: set(range(300, 400)),
    FaultKind.SERVER_ERROR: set(range(500, 1000)),
}


@pytest.mark.parametrize("kind", NAMED)
def test_each_kind_has_its_statuses(kind):
    assert {status for status in range(1000) if kind_of(status) is kind} == NAMED[kind]


def test_all_other_statuses_are_unexpected():
    named = set().union(*NAMED.values())
    assert {kind_of(status) for status in set(range(1000)) - named} == {FaultKind.UNEXPECTED}
