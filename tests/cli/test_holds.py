"""The holds commands on a ledger beside no worker: what they show, leave, refuse, and how they exit."""

import asyncio
import os
import pty
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from contracts.subaccounts import ResultCode, ResultKind
from tests.support.builders import NOW, a_worker, an_entry, department_removed
from tests.support.commands import in_process, started
from worker.adapters.sqlite.ledger import sqlite_ledger
from worker.core.inventory import Counts
from worker.core.model.answers import Answer
from worker.core.model.causes import Cause, Event
from worker.core.model.departments import Department
from worker.core.model.holds import Hold, HoldReason, HoldState, Ruling
from worker.core.model.replace import replace
from worker.core.model.wishes import Approving
from worker.core.wishes import reference_of
from worker.ports import Beside

_EVENT = Event.of(department_removed(sequence=11), "department.removed.v1", "digest")
CAUSE = Cause(_EVENT.reference, _EVENT.payload_digest, _EVENT.version)
LIMIT, RESOURCES, DONE = "HAAAAAAAAAAA", "HBBBBBBBBBBB", "HCCCCCCCCCCC"
LONG = "a-department-of-some-length-and-more-1234567890"


def a_hold(id_: str, department: str, reason: HoldReason, **fields: Any) -> Hold:
    return Hold(
        id_,
        Department("default", department),
        reason,
        fields.pop("detail", "the removals of PROVISIONER_REMOVAL_LIMIT 10%/24h are used up"),
        CAUSE,
        f"SA{department.upper():0<18}"[:20],
        f"The name of {department}",
        fields.pop("held_at", NOW),
        **fields,
    )


HOLDS = [
    a_hold(LIMIT, LONG, HoldReason.LIMIT),
    a_hold(
        RESOURCES,
        "sales",
        HoldReason.RESOURCES,
        resources=Counts(2, 1, 0),
        detail="2 numbers, 1 application, 0 endpoints hang on it",
        held_at=NOW + timedelta(minutes=1),
        disabled=True,
    ),
    a_hold(DONE, "hr", HoldReason.MERGED, state=HoldState.DONE, ruling=Ruling("bob", NOW)),
]


@pytest.fixture
async def environ(tmp_path):
    async with sqlite_ledger(tmp_path / "ledger.db") as ledger:
        for hold in HOLDS:
            entry = replace(
                an_entry(auth_id=hold.auth_id, hold=hold if hold.is_open else None),
                department=hold.department,
                revision=0,
            )
            await ledger.record(entry, beside=Beside(holds=(hold,)))
        await ledger.bind("default", "MA1")
    return {"LEDGER_URL": f"sqlite:///{tmp_path}/ledger.db"}


def path_of(environ) -> Path:
    return Path(environ["LEDGER_URL"].removeprefix("sqlite:///"))


async def wishes(environ):
    async with sqlite_ledger(path_of(environ)) as ledger:
        return await ledger.wishes()


async def states(environ) -> dict[str, str]:
    listed = (await in_process(environ, "holds", "list", "--all", "--json")).json
    return {hold["id"]: hold["state"] for hold in listed}


async def test_the_json_of_the_list_is_as_promised(environ):
    first, second = (await in_process(environ, "holds", "list", "--json")).json
    assert first == {
        "id": LIMIT,
        "tenant": "default",
        "department_id": LONG,
        "name": f"The name of {LONG}",
        "auth_id": HOLDS[0].auth_id,
        "reason": "limit",
        "detail": HOLDS[0].detail,
        "state": "waiting",
        "event": {"source": "/hr", "id": "removed-11", "type": "department.removed.v1"},
        "held_at": "2026-11-21T12:00:00Z",
        "resources": None,
        "ruling": None,
    }
    assert second["resources"] == {"numbers": 2, "applications": 1, "endpoints": 0}


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        ((), [LIMIT, RESOURCES]),
        (("--all",), [LIMIT, DONE, RESOURCES]),
        (("--reason", "resources"), [RESOURCES]),
        (("--all", "--reason", "merged", "--reason", "limit"), [LIMIT, DONE]),
        (("--department", "sales"), [RESOURCES]),
        (("--tenant", "other"), []),
    ],
)
async def test_the_list_is_filtered(environ, options, ids):
    listed = (await in_process(environ, "holds", "list", "--json", *options)).json
    assert [hold["id"] for hold in listed] == ids


async def test_a_person_sees_whole_ids_and_what_to_do_next(environ):
    listed = await in_process(environ, "holds", "list")
    for word in (LIMIT, RESOURCES, LONG, "limit", "resources"):
        assert word in listed.out.split()
    assert "provisioner holds show ID" in listed.out
    assert DONE not in listed.out


async def test_nothing_held_is_said(environ):
    assert (await in_process(environ, "holds", "list", "--tenant", "x")).out == "no hold matches\n"


@pytest.mark.parametrize(
    ("id_", "words"),
    [
        (LIMIT, ["10%/24h", "disables subaccount", "30 days", "stays active", f"holds approve {LIMIT}"]),
        (
            RESOURCES,
            ["2 numbers, 1 application, 0 endpoints", f"--cascade {RESOURCES}=3", "stays disabled"],
        ),
        (DONE, ["done", "bob"]),
    ],
)
async def test_show_says_what_an_approval_does(environ, id_, words):
    shown = (await in_process(environ, "holds", "show", id_)).out
    assert [word for word in words if word not in shown] == []
    assert ("to approve" in shown) == (id_ != DONE)


async def test_show_as_json_has_the_consequences_and_the_audit(environ):
    await in_process(environ, "holds", "reject", LIMIT, "--no-wait", "--as", "ada")
    document = (await in_process(environ, "holds", "show", LIMIT, "--json")).json
    assert document["state"] == "waiting"
    assert document["approval"].startswith("disables subaccount")
    assert [(line["by"], line["action"], line["outcome"]) for line in document["audit"]] == [
        ("ada", "reject", "asked for")
    ]


async def test_an_unknown_hold_is_one_line(environ):
    shown = await in_process(environ, "holds", "show", "H0")
    assert (shown.code, shown.err.count("\n")) == (1, 1)


async def test_without_a_worker_the_approval_stays_and_the_hold_shows_it(environ):
    done = await in_process(environ, "holds", "approve", LIMIT, "--as", "ada")
    assert (done.code, done.out) == (1, "")
    assert f"hold {LIMIT}: not done: no worker runs on this ledger" in done.err
    assert (await states(environ))[LIMIT] == "approved"
    assert [hold["id"] for hold in (await in_process(environ, "holds", "list", "--json")).json] == [RESOURCES]
    (wish,) = await wishes(environ)
    assert (wish.asked_by, wish.asks) == ("ada", Approving(LIMIT))


async def test_with_no_wait_it_is_left_and_well(environ):
    done = await in_process(
        environ, "holds", "approve", LIMIT, RESOURCES, "--cascade", f"{RESOURCES}=3", "--no-wait"
    )
    assert done.code == 0
    assert [wish.asks for wish in await wishes(environ)] == [Approving(LIMIT), Approving(RESOURCES, 3)]


async def test_ids_that_are_not_taken_are_named_and_the_others_left(environ):
    done = await in_process(environ, "holds", "approve", "H0", DONE, LIMIT, LIMIT, "--no-wait")
    assert done.code == 1
    assert done.err.splitlines() == [
        "hold H0: not taken: there is no hold of this id",
        f"hold {DONE}: not taken: it was carried out already",
    ]
    assert [wish.asks for wish in await wishes(environ)] == [Approving(LIMIT)]
    again = await in_process(environ, "holds", "reject", "H0", LIMIT, "--no-wait", "--json")
    assert again.code == 1
    assert [(one["id"], one["ending"]) for one in again.json] == [("H0", "not-taken"), (LIMIT, "left")]


@pytest.mark.parametrize(
    "cascade", ["3", f"{RESOURCES}=", f"{RESOURCES}=many", f"{RESOURCES}=0", f"{RESOURCES}=-1", f"{LIMIT}=3"]
)
async def test_a_cascade_that_is_none_is_a_usage_error(environ, cascade):
    refused = await in_process(environ, "holds", "approve", RESOURCES, "--cascade", cascade)
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert await wishes(environ) == []


async def test_two_counts_for_one_id_are_a_usage_error(environ):
    options = ("--cascade", f"{RESOURCES}=3", "--cascade", f"{RESOURCES}=4")
    assert (await in_process(environ, "holds", "approve", RESOURCES, *options)).code == 2


async def test_a_running_worker_is_waited_for(environ):
    """The worker is played: it approves, and carries the removal out."""
    async with sqlite_ledger(path_of(environ)) as ledger:
        await ledger.announce(a_worker())
        process = await started(environ, "holds", "approve", LIMIT, "--as", "ada")
        while not (left := await ledger.wishes()):
            await asyncio.sleep(0.05)
            await ledger.announce(a_worker())
        entry = (await ledger.recall(left[0].department, CAUSE.reference)).entry
        done = replace(HOLDS[0], state=HoldState.DONE, ruling=Ruling("ada", NOW))
        answer = Answer(
            left[0].department,
            reference_of(left[0]),
            left[0].id,
            ResultKind.UNCHANGED,
            ResultCode.UNCHANGED,
            NOW,
            confirmed=True,
        )
        await ledger.record(replace(entry, hold=None), answer, Beside(holds=(done,)))
        await ledger.close_wish(left[0].id)
        out, err = await process.communicate()
    assert (process.returncode, err.decode()) == (0, "")
    assert LIMIT in out.decode()


async def test_a_no_at_the_terminal_leaves_nothing(environ):
    ours, theirs = pty.openpty()
    process = await started(environ, "holds", "approve", LIMIT, stdin=theirs)
    os.write(ours, b"n\n")
    _, err = await process.communicate()
    os.close(ours)
    os.close(theirs)
    assert process.returncode == 1
    assert f"Approve the removal held under {LIMIT}?" in err.decode()
    assert await wishes(environ) == []
