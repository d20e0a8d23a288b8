"""The recipients' file while the worker runs: keys come, go and are mended, and nothing is sent unsealed."""

import json
import os
from pathlib import Path

import pytest
from secrets_keys import TOKEN, Told, clear, fresh_sealing_key, sealer_for, signing_key, write_keys

from contracts.envelope import Message
from worker.adapters.opening import open_message
from worker.adapters.sealing import JoseSealer, RecipientKeys, Unsealed
from worker.core.keyring import public_part
from worker.core.model import EVERYBODY
from worker.ports import NoRecipientKey

WORKER = signing_key()


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "recipients.json"


@pytest.fixture
def sealer(file: Path, told: Told) -> JoseSealer:
    return JoseSealer(RecipientKeys(file, told), WORKER)


def opened_with(message: Message, *private: dict[str, str]) -> str:
    return open_message(message.body, private, [public_part(WORKER)]).opened_with


def refusal(sealer: JoseSealer, recipient: str = "crm") -> str:
    with pytest.raises(NoRecipientKey) as refused:
        sealer.seal(clear(recipient), recipient)
    assert TOKEN not in repr(refused.value)
    return str(refused.value)


def test_a_new_key_is_used_from_the_next_message_on(sealer: JoseSealer, file: Path, told: Told):
    old, new = fresh_sealing_key("crm.1"), fresh_sealing_key("crm.2")
    write_keys(file, old)
    assert opened_with(sealer.seal(clear(), "crm"), old, new) == "crm.1"
    write_keys(file, old, new)
    assert opened_with(sealer.seal(clear(), "crm"), old, new) == "crm.2"
    assert [line[:2] for line in told.lines] == [("crm", "crm.1"), ("crm", "crm.2")]


def test_a_file_put_in_its_place_is_noticed_whatever_its_time(sealer: JoseSealer, file: Path):
    """Kubernetes and `mv` bring another file under the same name, of the same size and time perhaps."""
    old, new = fresh_sealing_key("crm.1"), fresh_sealing_key("crm.2")
    write_keys(file, old)
    sealer.seal(clear(), "crm")
    before = file.stat()
    other = write_keys(file.with_name("other"), new)
    assert other.stat().st_size == before.st_size
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(file)
    assert opened_with(sealer.seal(clear(), "crm"), old, new) == "crm.2"


def test_without_a_key_nothing_is_sealed_until_one_comes(sealer: JoseSealer, file: Path, told: Told):
    crm, billing = fresh_sealing_key("crm.1"), fresh_sealing_key("billing.1")
    write_keys(file, crm | {"use": "sig"}, billing)
    for _ in range(3):
        assert 'crm.1: its "use" is not "enc"' in refusal(sealer)
    sealer.seal(clear("billing"), "billing")
    write_keys(file, crm, billing)
    assert opened_with(sealer.seal(clear(), "crm"), crm) == "crm.1"
    assert [line[:2] for line in told.lines if line[0] == "crm"] == [("crm", None), ("crm", "crm.1")]


def test_a_recipient_nobody_has_heard_of_has_no_key(sealer: JoseSealer, file: Path):
    write_keys(file, fresh_sealing_key("crm.1"))
    assert "none bears its name" in refusal(sealer, "hr")


@pytest.mark.parametrize("text", ["", "{", '{"keys": []}', None])
def test_a_file_that_cannot_be_read_holds_no_key_any_more(
    sealer: JoseSealer, file: Path, told: Told, text: str | None
):
    """What it was to say may be that the old key is not to be used."""
    key = fresh_sealing_key("crm.1")
    write_keys(file, key)
    sealer.seal(clear(), "crm")
    file.unlink() if text is None else file.write_text(text)
    assert refusal(sealer).startswith(f"no key to seal with: {file} ")
    assert refusal(sealer)
    assert told.last == ("crm", None)
    write_keys(file, key)
    sealer.seal(clear(), "crm")
    assert told.last == ("crm", "crm.1")
    assert len(told.lines) == 3


def test_a_key_that_looks_right_and_is_not_is_found_when_it_is_used(
    sealer: JoseSealer, file: Path, told: Told
):
    write_keys(file, fresh_sealing_key("crm.1") | {"x": "AAAA"})
    assert "crm.1" in refusal(sealer)
    assert told.last == ("crm", None)


def test_what_is_owed_to_nobody_in_particular_is_not_sent_unsealed(sealer: JoseSealer, file: Path):
    write_keys(file, fresh_sealing_key("crm.1"))
    assert "from before PROVISIONER_RECIPIENTS was set" in refusal(sealer, EVERYBODY)


def test_what_is_owed_to_one_recipient_is_not_sent_to_everybody():
    with pytest.raises(NoRecipientKey):
        Unsealed().seal(clear("crm"), "crm")
    assert TOKEN in Unsealed().seal(clear(EVERYBODY), EVERYBODY).body.decode()


def test_neither_keys_nor_tokens_show_in_a_repr(tmp_path: Path):
    sealer = sealer_for(tmp_path, fresh_sealing_key(), signing=WORKER)
    message = sealer.seal(clear(), "crm")
    for thing in (sealer, message, sealer._recipients, sealer._signer):
        assert WORKER["d"] not in repr(thing)
        assert TOKEN not in repr(thing)
    assert WORKER["d"] not in json.dumps(json.loads(message.body))
