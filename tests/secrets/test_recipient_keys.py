"""The recipients' file changes while the worker runs; nothing is ever sent unsealed."""

import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from contracts.envelope import Message
from tests.support.builders import NOW
from tests.support.secrets_keys import (
    TOKEN,
    KeyReports,
    a_day_later,
    clear,
    fresh_sealing_key,
    sealer_for,
    signing_key,
    write_keys,
)
from worker.adapters.jose.key_files import KeyFileError, signing_key_made_once
from worker.adapters.jose.open import open_message
from worker.adapters.jose.seal import JoseSealer, RecipientKeys, Unsealed
from worker.core.keyring import public_part
from worker.core.model.credentials import ANY_RECIPIENT
from worker.ports import NoRecipientKey

WORKER = signing_key()


@pytest.fixture
def reports() -> KeyReports:
    return KeyReports()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "recipients.json"


@pytest.fixture
def sealer(file: Path, reports: KeyReports) -> JoseSealer:
    return JoseSealer(RecipientKeys(file, ("crm", "billing"), reports), WORKER)


def opened_with(message: Message, *private: dict[str, str]) -> str:
    return open_message(message.body, private, [public_part(WORKER)]).opened_with


def refusal(sealer: JoseSealer, recipient: str = "crm") -> str:
    with pytest.raises(NoRecipientKey) as refused:
        sealer.seal(clear(recipient), recipient)
    assert TOKEN not in repr(refused.value)
    return str(refused.value)


def test_a_new_key_is_used_from_the_next_message(sealer: JoseSealer, file: Path, reports: KeyReports):
    old, new = fresh_sealing_key("crm.1"), fresh_sealing_key("crm.2")
    write_keys(file, old)
    assert opened_with(sealer.seal(clear(), "crm"), old, new) == "crm.1"
    write_keys(file, old, new)
    assert opened_with(sealer.seal(clear(), "crm"), old, new) == "crm.2"
    assert [line[:2] for line in reports.lines if line[0] == "crm"] == [("crm", "crm.1"), ("crm", "crm.2")]


def test_a_replaced_file_is_noticed_even_with_the_same_timestamp(sealer: JoseSealer, file: Path):
    """Kubernetes and `mv` replace the file, perhaps with the same size and time."""
    old, new = fresh_sealing_key("crm.1"), fresh_sealing_key("crm.2")
    write_keys(file, old)
    sealer.seal(clear(), "crm")
    before = file.stat()
    other = write_keys(file.with_name("other"), new)
    assert other.stat().st_size == before.st_size
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(file)
    assert opened_with(sealer.seal(clear(), "crm"), old, new) == "crm.2"


def test_without_a_key_nothing_is_sealed_until_one_is_added(
    sealer: JoseSealer, file: Path, reports: KeyReports
):
    crm, billing = fresh_sealing_key("crm.1"), fresh_sealing_key("billing.1")
    write_keys(file, crm | {"use": "sig"}, billing)
    for _ in range(3):
        assert "crm.1: use is sig" in refusal(sealer)
    sealer.seal(clear("billing"), "billing")
    write_keys(file, crm, billing)
    assert opened_with(sealer.seal(clear(), "crm"), crm) == "crm.1"
    assert [line[:2] for line in reports.lines if line[0] == "crm"] == [("crm", None), ("crm", "crm.1")]


def test_the_use_member_of_a_key_is_optional(sealer: JoseSealer, file: Path):
    key = fresh_sealing_key("crm.1")
    public = {name: value for name, value in public_part(key).items() if name != "use"}
    file.write_text(json.dumps({"keys": [public]}))
    assert opened_with(sealer.seal(clear(), "crm"), key) == "crm.1"


def test_an_unknown_recipient_has_no_key(sealer: JoseSealer, file: Path):
    write_keys(file, fresh_sealing_key("crm.1"))
    assert "none bears its name" in refusal(sealer, "hr")


@pytest.mark.parametrize("text", ["", "{", '{"keys": []}', None])
def test_an_unreadable_file_disables_all_keys(
    sealer: JoseSealer, file: Path, reports: KeyReports, text: str | None
):
    """The new file may have been meant to remove the old key."""
    key = fresh_sealing_key("crm.1")
    write_keys(file, key)
    sealer.seal(clear(), "crm")
    file.unlink() if text is None else file.write_text(text)
    assert refusal(sealer).startswith(f"no key to seal with: {file} ")
    assert refusal(sealer)
    assert reports.last() == ("crm", None)
    write_keys(file, key)
    sealer.seal(clear(), "crm")
    assert reports.last() == ("crm", "crm.1")
    assert len([line for line in reports.lines if line[0] == "crm"]) == 3


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ({"x": "AAAA"}, "x has 3 bytes, not 32"),
        ({"x": "%"}, "x is not base64url"),
        ({"x": 7}, "x is not base64url"),
        ({"kty": "EC", "crv": "P-256", "x": "A" * 43, "y": "A" * 43}, "it is damaged"),
        ({"key_ops": ["verify"]}, "key_ops is verify"),
    ],
)
def test_an_invalid_key_does_not_replace_a_valid_one(
    sealer: JoseSealer, file: Path, reports: KeyReports, damage: dict[str, object], reason: str
):
    older = fresh_sealing_key("crm.1")
    public = [public_part(older), public_part(fresh_sealing_key("crm.2")) | damage]
    file.write_text(json.dumps({"keys": public}))
    assert opened_with(sealer.seal(clear(), "crm"), older) == "crm.1"
    file.write_text(json.dumps({"keys": public[1:]}))
    assert f"crm.2: {reason}" in refusal(sealer)
    assert reports.last() == ("crm", None)


def test_a_recipient_added_later_is_not_reported_yet(sealer: JoseSealer, file: Path, reports: KeyReports):
    write_keys(file, fresh_sealing_key("crm.1"), fresh_sealing_key("hr.1"))
    sealer.seal(clear(), "crm")
    assert {line[:2] for line in reports.lines} == {("crm", "crm.1"), ("billing", None)}


def test_credentials_owed_to_any_recipient_are_not_sent_unsealed(sealer: JoseSealer, file: Path):
    write_keys(file, fresh_sealing_key("crm.1"))
    assert "from before PROVISIONER_RECIPIENTS was set" in refusal(sealer, ANY_RECIPIENT)


def test_credentials_owed_to_one_recipient_are_not_sent_unsealed():
    with pytest.raises(NoRecipientKey):
        Unsealed().seal(clear("crm"), "crm")
    assert TOKEN in Unsealed().seal(clear(ANY_RECIPIENT), ANY_RECIPIENT).body.decode()


def test_a_repr_shows_neither_keys_nor_tokens(tmp_path: Path):
    sealer = sealer_for(tmp_path, fresh_sealing_key(), signing=WORKER)
    message = sealer.seal(clear(), "crm")
    for thing in (sealer, message, sealer._recipients, sealer._signer):
        assert WORKER["d"] not in repr(thing)
        assert TOKEN not in repr(thing)
    assert WORKER["d"] not in json.dumps(json.loads(message.body))


class TestTheSigningKey:
    def test_the_signing_key_is_created_once(self, tmp_path: Path):
        path = tmp_path / "signing.json"
        first = signing_key_made_once(path, NOW)
        assert signing_key_made_once(path, a_day_later()) == first
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert list(tmp_path.iterdir()) == [path]

    def test_two_workers_starting_at_once_use_the_same_signing_key(self, tmp_path: Path):
        path = tmp_path / "signing.json"
        with ThreadPoolExecutor(8) as starts:
            made = list(starts.map(lambda _: signing_key_made_once(path, NOW), range(8)))
        assert made == [made[0]] * 8
        assert list(tmp_path.iterdir()) == [path]

    def test_a_failure_to_create_the_signing_key_is_one_line(self, tmp_path: Path):
        with pytest.raises(KeyFileError, match=r"cannot be written: No such file or directory$"):
            signing_key_made_once(tmp_path / "nowhere" / "signing.json", NOW)

    @pytest.mark.parametrize("text", ["", "{}", '{"keys": []}'])
    def test_an_invalid_signing_key_is_not_replaced(self, tmp_path: Path, text: str):
        path = tmp_path / "signing.json"
        path.write_text(text)
        with pytest.raises(KeyFileError, match=r"signing.json (is|holds)"):
            signing_key_made_once(path, NOW)
        assert path.read_text() == text
