"""One event without failures: the port calls the line makes, and their order."""

import json
from dataclasses import replace

import pytest
from pydantic import TypeAdapter
from structlog.testing import capture_logs

from contracts.departments import payload_digest
from contracts.envelope import Message, read
from contracts.topology import DEPARTMENTS
from tests.support.builders import (
    SALES,
    AnyDepartmentEvent,
    department_created,
    department_removed,
    department_renamed,
    event_of,
    owing,
)
from tests.support.entries import entries_of
from tests.support.world import World
from worker.core.decide import Policy, Removal, Superseding, UnknownRename
from worker.core.messages import Outgoing
from worker.core.model.answers import Answer
from worker.core.model.entry import Entry, Status
from worker.telemetry.logs import configure_logging

CREATED = department_created("Sales", sequence=1)
RENAMED = department_renamed("Marketing", sequence=2)
REMOVED = department_removed(sequence=3)
TOLD = "department_event_superseded"


async def steps(world: World, *events: AnyDepartmentEvent) -> list[str]:
    """The port calls that a worker makes for these events."""
    world.witness.journal.clear()
    await world.handle(*events)
    return world.witness.journal


async def test_a_create_makes_a_subaccount_and_publishes_its_credentials(world):
    assert await steps(world, CREATED) == [
        "recall",
        "record claimed",
        "create",
        "record active created",
        "publish secrets subaccount.credentials.issued",
        "publish results subaccount.created",
        "record active created confirmed",
        "ack",
    ]
    await world.has_one_live_subaccount("Sales")
    await world.has_issued_credentials()
    world.answered(CREATED, "created")


async def test_a_claim_records_its_time_event_and_idempotency_key(world):
    claims = []

    async def read_claim() -> None:
        claims.append((await world.entry()).claim)

    world.witness.before("create", read_claim)
    await world.handle(CREATED)
    claim = claims[0]
    assert claim.started_at == world.clock.now()
    assert claim.event == event_of(CREATED).reference
    assert [key for operation, _, key in world.provider.calls] == [claim.idempotency_key]
    assert (await world.entry()).claim is None


async def test_a_rename_updates_only_the_name(world):
    await world.handle(CREATED)
    assert await steps(world, RENAMED) == [
        "recall",
        "record active",
        "update name",
        "record active renamed",
        "publish results subaccount.renamed",
        "record answer renamed confirmed",
        "ack",
    ]
    await world.has_one_live_subaccount("Marketing")
    world.answered(RENAMED, "renamed")


@pytest.mark.parametrize("removal", [Removal.DISABLE, Removal.DISABLE_THEN_DELETE])
async def test_a_removal_disables_the_subaccount(removal):
    world = World(Policy(removal))
    await world.handle(CREATED)
    assert await steps(world, REMOVED) == [
        "recall",
        "record active",
        "update enabled",
        "record disabled disabled",
        "publish results subaccount.disabled",
        "record disabled disabled confirmed",
        "ack",
    ]
    await world.has_no_live_subaccount()
    world.answered(REMOVED, "disabled")


async def test_a_deletion_is_inspected_and_recorded_before_its_call():
    world = World(Policy(Removal.DELETE))
    await world.handle(CREATED)
    assert await steps(world, REMOVED) == [
        "recall",
        "get",
        "count numbers",
        "count applications",
        "count endpoints",
        "record deleting",
        "delete",
        "record removed removed",
        "publish results subaccount.removed",
        "record answer removed confirmed",
        "ack",
    ]
    assert world.provider.subaccounts == []
    world.answered(REMOVED, "removed")


async def test_removals_can_be_ignored():
    world = World(Policy(Removal.IGNORE))
    await world.handle(CREATED)
    assert [step for step in await steps(world, REMOVED) if step.startswith(("update", "delete"))] == []
    await world.has_one_live_subaccount("Sales")
    world.answered(REMOVED, "unchanged")


async def test_a_disabled_department_is_restored_in_one_call(world):
    await world.handle(CREATED, department_removed(sequence=2))
    again = department_created("Sales and Service", sequence=3)
    assert await steps(world, again) == [
        "recall",
        "record disabled",
        "update name enabled",
        "record active restored",
        "publish results subaccount.restored",
        "record answer restored confirmed",
        "ack",
    ]
    await world.has_one_live_subaccount("Sales and Service")
    world.answered(again, "restored")


async def test_a_restore_under_the_same_name_does_not_send_the_name(world):
    await world.handle(CREATED, department_removed(sequence=2))
    assert "update enabled" in await steps(world, department_created("Sales", sequence=3))
    await world.has_one_live_subaccount("Sales")


async def test_a_create_after_a_deletion_starts_a_new_incarnation():
    world = World(Policy(Removal.DELETE))
    await world.handle(CREATED, department_removed(sequence=2), department_created("Sales", sequence=3))
    await world.has_one_live_subaccount("Sales")
    assert [published.data["generation"] for published in world.credentials()] == [1, 2]
    assert len({published.id for published in world.credentials()}) == 2
    names = {world.sent_name("Sales", incarnation=incarnation) for incarnation in (1, 2)}
    assert world.provider.subaccounts[0].name == world.sent_name("Sales", incarnation=2)
    assert len(names) == 2


async def test_a_rename_of_an_unknown_department_creates_it(world):
    await world.handle(RENAMED)
    await world.has_one_live_subaccount("Marketing")
    world.answered(RENAMED, "created")


async def test_a_rename_of_an_unknown_department_can_be_rejected():
    world = World(Policy(unknown_rename=UnknownRename.REJECT))
    await world.handle(RENAMED)
    assert world.provider.calls == []
    world.dead_lettered("invalid")
    world.answered(RENAMED, "failed")


@pytest.mark.parametrize("event", [CREATED, RENAMED, REMOVED], ids=lambda event: event.kind)
async def test_a_replay_causes_no_call_and_no_second_result(world, event):
    await world.handle(CREATED, RENAMED, REMOVED)
    assert await steps(world, event, event) == ["recall", "ack"] * 2
    assert len(world.results(event)) == 1


async def test_a_duplicate_in_binary_mode_with_another_trace_is_recognised(world):
    await world.handle(CREATED)
    binary = CREATED.model_copy(update={"traceparent": "00-1-1-00", "correlationid": "c"})
    await world.broker.publish(Outgoing(DEPARTMENTS, "department.created", Message.binary(binary)))
    assert await steps(world) == ["recall", "ack"]


async def test_an_event_that_changes_nothing_causes_no_call(world):
    await world.handle(CREATED)
    same = department_renamed("Sales", sequence=2)
    assert await steps(world, same) == [
        "recall",
        "record active unchanged",
        "publish results subaccount.unchanged",
        "record answer unchanged confirmed",
        "ack",
    ]
    world.answered(same, "unchanged")


async def test_an_older_event_is_superseded_without_a_call(world):
    await world.handle(RENAMED)
    calls = len(world.provider.calls)
    await world.handle(CREATED)
    assert len(world.provider.calls) == calls
    await world.has_one_live_subaccount("Marketing")
    world.answered(CREATED, "superseded")
    (published,) = world.results(CREATED)
    assert published.data["superseded_by"]["id"] == RENAMED.id


async def test_a_removal_that_overtakes_its_create_is_recorded(world):
    await world.handle(REMOVED, CREATED)
    assert world.provider.calls == []
    world.answered(REMOVED, "unchanged")
    world.answered(CREATED, "superseded")


async def test_an_unconfirmed_answer_is_published_again_under_its_id(world):
    await world.handle(CREATED)
    (first,) = world.results(CREATED)
    answer = (await world.ledger.answers(SALES))[0]
    await world.ledger.record(await world.entry(), replace(answer, confirmed=False))

    assert await steps(world, CREATED) == [
        "recall",
        "publish results subaccount.created",
        "record answer created confirmed",
        "ack",
    ]
    assert [published.id for published in world.results(CREATED)] == [first.id] * 2


async def test_owed_credentials_are_published_with_the_next_event(world):
    await world.handle(CREATED)
    (first,) = world.credentials()
    entry = await world.entry()
    await world.ledger.record(replace(entry, debt=owing(*world.policy.recipients)))

    assert await steps(world, RENAMED) == [
        "recall",
        "record active",
        "update name",
        "record active renamed",
        "get",
        "publish secrets subaccount.credentials.issued",
        "publish results subaccount.renamed",
        "record active renamed confirmed",
        "ack",
    ]
    _, again = world.credentials()
    assert again.id == first.id
    assert again.data == first.data | {"name": "Marketing"}
    await world.has_issued_credentials()


async def test_owed_credentials_are_published_with_a_replay(world):
    await world.handle(CREATED)
    await world.ledger.record(replace(await world.entry(), debt=owing(*world.policy.recipients)))
    await world.handle(CREATED)
    assert len(world.credentials()) == 2
    assert len(world.results(CREATED)) == 1
    await world.has_issued_credentials()


async def test_credentials_of_a_disabled_department_are_not_published(world):
    await world.handle(CREATED, department_removed(sequence=2))
    await world.ledger.record(replace(await world.entry(), debt=owing(*world.policy.recipients)))
    await world.handle(department_removed(sequence=3))
    assert len(world.credentials()) == 1
    again = department_created(sequence=4)
    await world.handle(again)
    assert len(world.credentials()) == 2
    await world.has_issued_credentials()


async def test_another_payload_under_an_answered_id_is_dead_lettered(world):
    await world.handle(CREATED)
    other = department_created("Other", sequence=1)
    calls = len(world.provider.calls)
    await world.handle(other)
    letter = world.dead_lettered("conflicting-duplicate")
    assert read(letter.message).data["name"] == "Other"
    assert len(world.provider.calls) == calls
    await world.has_one_live_subaccount("Sales")
    world.answered(CREATED, "created", "failed")
    assert payload_digest(read(letter.message)) != (await world.ledger.answers(SALES))[0].payload_digest


async def test_one_department_id_in_two_tenants_is_two_departments(world):
    other = department_created("Sales", tenant="globex", id="other")
    await world.handle(CREATED, other)
    await world.has_one_live_subaccount("Sales")
    await world.has_one_live_subaccount("Sales", SALES._replace(tenant="globex"))
    assert len(world.provider.subaccounts) == 2


async def test_published_messages_carry_trace_and_cause(world):
    traced = department_created(traceparent="00-1-2-01", tracestate="a=b", correlationid="c-1")
    await world.handle(traced)
    for published in (*world.results(traced), *world.credentials()):
        assert (published.traceparent, published.tracestate, published.correlationid) == (
            "00-1-2-01",
            "a=b",
            "c-1",
        )
        assert (published.causationid, published.subject) == (traced.id, SALES.id)
        assert published.source == "/subaccount-provisioner/default"


async def test_each_change_has_its_own_reproducible_idempotency_key():
    keys = []
    for world in (World(Policy(Removal.DELETE)), World(Policy(Removal.DELETE))):
        await world.handle(CREATED, RENAMED, REMOVED)
        keys.append([key for _, _, key in world.provider.calls if key])
    assert keys[0] == keys[1]
    assert len(set(keys[0])) == 3


async def test_the_token_is_only_in_its_credentials_message(world, capsys):
    configure_logging("json", "debug")
    world.witness.fail("publish secrets", RuntimeError("unexpected"))
    await world.handle(CREATED, RENAMED, department_removed(sequence=3), department_created(sequence=4))
    await world.send_raw(b"{}")
    await world.handle()
    configure_logging("json", "error")

    token = world.provider.subaccounts[0].auth_token.get_secret_value()
    assert token in str([published.data for published in world.credentials()])
    entries = TypeAdapter(list[Entry]).dump_json(list(await entries_of(world.ledger)))
    answers = TypeAdapter(list[Answer]).dump_json(list(await world.ledger.answers(SALES)))
    published = [
        outgoing
        for queue in ("test.results", "provisioner.dead-letters")
        for outgoing in world.broker.ready(queue)
    ]
    sent = [(outgoing.message.body, outgoing.message.headers, outgoing.routing_key) for outgoing in published]
    headers = [
        (one.message.headers, one.routing_key, repr(one)) for one in world.broker.ready("provisioner.secrets")
    ]
    logged = capsys.readouterr()
    assert "department_event_answered" in logged.err
    assert token not in f"{entries!r} {answers!r} {sent} {headers} {logged.out} {logged.err}"


async def test_result_and_credentials_have_the_contents_of_the_contract(world):
    await world.handle(CREATED)
    (published,) = world.results(CREATED)
    auth_id = world.provider.subaccounts[0].auth_id
    assert published.type == "subaccount.created.v1"
    assert published.data == {
        "tenant": "acme",
        "department_id": "sales",
        "name": "Sales",
        "auth_id": auth_id,
        "outcome": "created",
        "code": "created",
        "event": {"source": "/hr", "id": CREATED.id, "type": "department.created.v1"},
    }
    (issued,) = world.credentials()
    assert json.loads(json.dumps(issued.data)) == {
        "tenant": "acme",
        "department_id": "sales",
        "name": "Sales",
        "auth_id": auth_id,
        "auth_token": world.provider.subaccounts[0].auth_token.get_secret_value(),
        "generation": 1,
    }
    assert (await world.entry()).status is Status.ACTIVE


# Superseded events whose producer may not expect it


def told(logs):
    return [(line["log_level"], line["why"], line["event_id"]) for line in logs if line["event"] == TOLD]


async def told_of(world, *events):
    """The log lines and the counts by reason, once a worker has handled these events."""
    configure_logging("json", "info")
    with capture_logs() as logs:
        async with world.working() as running:
            for event in events:
                await world.send(event)
                await world.run_until_done()
            value = running.telemetry.registry.get_sample_value
            counts = {why: value("provisioner_events_superseded_total", {"why": why}) for why in Superseding}
    return told(logs), {why: count for why, count in counts.items() if count}


async def test_a_tie_is_told(world):
    first = department_renamed("First", sequence=None, id="b")
    second = department_renamed("Second", sequence=None, id="a")
    lines, counts = await told_of(world, first, second, second)
    assert (lines, counts) == ([("warning", "tie", "a")], {"tie": 1})
    (published,) = world.results(second)
    assert (published.data["code"], published.data["reason"]) == ("tie", "tie: same time, no sequence")
    assert published.data["superseded_by"]["id"] == "b"


async def test_a_removal_and_a_creation_of_one_time_are_a_tie(world):
    again = department_created("Sales", sequence=None, id="again")
    await world.handle(department_removed(sequence=None, id="gone"), again)
    (published,) = world.results(again)
    assert (published.data["outcome"], published.data["code"]) == ("superseded", "tie")


async def test_a_sequence_that_began_again_is_told(world):
    old = department_created("Sales", sequence=48213, source="/hr/old")
    new = [department_renamed(f"Name {n}", sequence=n, source="/hr/new", id=f"new-{n}") for n in (1, 2)]
    without = department_renamed("Other", sequence=None, source="/hr/new", id="without")
    lines, counts = await told_of(world, old, *new, without)
    assert lines == [
        ("warning", "lower-sequence", "new-1"),
        ("info", "lower-sequence", "new-2"),
        ("warning", "no-sequence", "without"),
    ], "a warning per minute and pair of sources"
    assert counts == {"lower-sequence": 2, "no-sequence": 1}
    for event in (*new, without):
        (published,) = world.results(event)
        assert published.data["reason"] == "superseded by sequence 48213 of /hr/old"
        assert published.data["code"] == "superseded"


async def test_an_event_that_is_late_is_only_counted(world):
    assert await told_of(world, RENAMED, CREATED) == ([], {"older": 1})
    (published,) = world.results(CREATED)
    assert "reason" not in published.data
