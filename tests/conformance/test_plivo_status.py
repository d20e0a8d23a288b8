"""The kind of fault that the Plivo adapter gives to every HTTP status."""

from typing import Any

import pytest

from worker.adapters.plivo.status import is_own_error, kind_of
from worker.core.judge import FaultKind

BY_ANYBODY = {
    FaultKind.LOGIN_REFUSED: {401},
    FaultKind.NO_CREDIT: {402},
    FaultKind.TIMED_OUT: {408},
    FaultKind.RATE_LIMITED: {429},
    FaultKind.SERVER_ERROR: set(range(500, 1000)),
}
BY_PLIVO = {
    FaultKind.REJECTED: {400, 405, 422},
    FaultKind.FORBIDDEN: {403},
    FaultKind.NOT_FOUND: {404},
    FaultKind.CONFLICT: {409},
}


@pytest.mark.parametrize("own", [True, False])
def test_each_kind_has_its_statuses(own):
    named = BY_ANYBODY | (BY_PLIVO if own else {})
    kinds: dict[FaultKind, set[int]] = {}
    for status in range(1000):
        kinds.setdefault(kind_of(status, own=own), set()).add(status)
    unexpected = kinds.pop(FaultKind.UNEXPECTED)
    assert kinds == named
    assert {407, 410, 413, 414, 418, 421, 425, 426, 431, 451, 495, 496, 497, *range(300, 400)} <= unexpected


PLIVOS: list[Any] = [
    {"api_id": "1", "error": "name is taken"},
    {"api_id": "1", "error": {"name": ["too long"]}},
    {"error": "not found"},
    {"error": "bad", "message": "name"},
]
OTHERS: list[Any] = [
    None,
    {},
    [],
    "not found",
    {"message": "no Route matched with those values"},  # Kong
    {"message": "Forbidden"},  # Amazon's API Gateway
    {"api_id": "1"},
    {"timestamp": "2026-11-28T15:00:00Z", "path": "/v1", "status": 400, "error": "Bad Request"},  # Spring
    {"error": {"code": 400, "message": "bad"}, "success": False},
]


@pytest.mark.parametrize("document", PLIVOS, ids=str)
def test_an_error_of_plivo_is_recognised(document):
    assert is_own_error(document)


@pytest.mark.parametrize("document", OTHERS, ids=str)
def test_an_error_of_something_else_is_not_taken_for_plivos(document):
    assert not is_own_error(document)
