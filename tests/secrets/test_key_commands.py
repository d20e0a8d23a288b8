"""`provisioner keys` and `provisioner open`, run by a person or a script."""

import asyncio
import io
import json
import stat
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from rich.console import Console

from tests.support.builders import AUTH_ID, an_entry, owing
from tests.support.secrets_keys import TOKEN, clear
from worker.adapters import brokers
from worker.adapters.jose.key_files import read_keys, signing_key_made_once
from worker.adapters.jose.seal import JoseSealer, RecipientKeys
from worker.adapters.sqlite.ledger import sqlite_ledger
from worker.adapters.system import SystemClock
from worker.cli import terminal
from worker.cli.app import main
from worker.core.keyring import is_private


class CommandOutput(NamedTuple):
    stdout: str
    stderr: str


class Shell:
    """Runs commands in this process, with an own working folder."""

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.folder = folder
        self.environ = monkeypatch.setenv
        self._patch = monkeypatch
        self._capsys = capsys
        monkeypatch.chdir(folder)
        monkeypatch.setenv("AMQP_URL", "amqp://127.0.0.1:1/")  # nobody listens there

    def __call__(self, *arguments: str, expect: int = 0, stdin: str = "") -> CommandOutput:
        self._patch.setattr(sys, "argv", ["provisioner", *arguments])
        self._patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        with pytest.raises(SystemExit) as ended:
            main()
        output = CommandOutput(*self._capsys.readouterr())
        assert ended.value.code == expect, output.stderr
        self.never_prints_what_is_private(output.stdout + output.stderr)
        return output

    def never_prints_what_is_private(self, printed: str) -> None:
        for path in self.folder.iterdir():
            for key in read_keys(path) if "key" in path.name or "private" in path.name else ():
                for member in ("d", "p", "q"):
                    assert str(key.get(member, "-" * 20)) not in printed

    def private_key(self) -> Path:
        (path,) = self.folder.glob("crm.*.private.json")
        return path

    def check(self, expect: int = 0) -> dict[str, tuple[str, str]]:
        rows = json.loads(self("keys", "check", "--json", expect=expect).stdout)
        return {row["kid"] or row["for"]: (row["state"], row["detail"]) for row in rows}


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    monkeypatch.setattr(terminal, "OUT", Console(width=300))
    return Shell(tmp_path, monkeypatch, capsys)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


class TestNew:
    @pytest.mark.parametrize("kind", ["x25519", "p-256", "rsa"])
    def test_a_key_pair_for_a_recipient_is_created(self, shell: Shell, kind: str):
        output = shell("keys", "new", "crm", "--type", kind, "--add-to", "recipients.json")
        public = json.loads(output.stdout)
        (kept,) = read_keys(shell.private_key())
        (given,) = read_keys(shell.folder / "recipients.json")
        assert public == given
        assert is_private(kept)
        assert not is_private(given)
        assert kept["kid"] == given["kid"]
        assert mode(shell.private_key()) == 0o600
        assert "PROVISIONER_RECIPIENTS" not in output.stderr
        shell.environ("PROVISIONER_RECIPIENTS", "recipients.json")
        assert shell.check()[public["kid"]] == ("in use", "")

    def test_the_output_says_where_the_keys_belong(self, shell: Shell):
        output = shell("keys", "new", "crm")
        assert str(shell.private_key().name) in output.stderr
        assert "PROVISIONER_RECIPIENTS" in output.stderr

    def test_a_key_is_never_overwritten(self, shell: Shell):
        shell("keys", "new", "crm", "--out", "key.json")
        before = (shell.folder / "key.json").read_bytes()
        output = shell("keys", "new", "crm", "--out", "key.json", expect=1)
        assert output.stderr == "key.json is there already; a key is never overwritten\n"
        assert (shell.folder / "key.json").read_bytes() == before

    def test_a_new_signing_key_keeps_the_public_key_of_the_old_one(self, shell: Shell):
        shell("keys", "new", "--signing")
        first = json.loads(shell("keys", "public").stdout)["keys"]
        shell("keys", "new", "--signing", "--type", "p-256")
        both = json.loads(shell("keys", "public").stdout)["keys"]
        path = shell.folder / "provisioner.db.signing-key.json"
        assert [key["crv"] for key in both] == ["Ed25519", "P-256"]
        assert both[:1] == first
        assert [is_private(key) for key in read_keys(path)] == [False, True], "the old one signs no more"
        assert mode(path) == 0o600
        assert list(shell.folder.iterdir()) == [path]

    @pytest.mark.parametrize(
        "arguments",
        [
            (),
            ("crm", "--signing"),
            ("crm", "--type", "ed25519"),
            ("--signing", "--type", "rsa"),
            ("crm", "--type", "x"),
            ("a.b",),
            ("*",),
        ],
    )
    def test_invalid_arguments_create_no_key(self, shell: Shell, arguments: tuple[str, ...]):
        assert shell("keys", "new", *arguments, expect=2).stdout == ""
        assert list(shell.folder.iterdir()) == []

    def test_an_unwritable_folder_prints_one_line(self, shell: Shell):
        output = shell("keys", "new", "crm", "--out", "nowhere/key.json", expect=1)
        assert output.stderr == "nowhere/key.json cannot be written: No such file or directory\n"


class TestCheck:
    def test_each_key_is_listed_with_the_reason_if_unused(self, shell: Shell):
        for _ in range(2):
            shell("keys", "new", "crm", "--add-to", "recipients.json")
        keys = read_keys(shell.folder / "recipients.json")
        old, new = (str(key["kid"]) for key in keys)
        shell.environ("PROVISIONER_RECIPIENTS", "recipients.json")
        assert shell.check() == {
            old: ("older", ""),
            new: ("in use", ""),
            "signing": ("made at the first start", "provisioner.db.signing-key.json"),
        }
        unusable = {"keys": [dict(key) | {"use": "sig"} for key in keys]}
        (shell.folder / "recipients.json").write_text(json.dumps(unusable))
        assert shell.check(expect=1)[new] == ("unusable", "use is sig: it must be enc, or left out")

    def test_a_damaged_key_is_reported(self, shell: Shell):
        shell("keys", "new", "crm", "--add-to", "recipients.json")
        (key,) = read_keys(shell.folder / "recipients.json")
        (shell.folder / "recipients.json").write_text(json.dumps({"keys": [{**key, "x": "AAAA"}]}))
        shell.environ("PROVISIONER_RECIPIENTS", "recipients.json")
        assert shell.check(expect=1)[key["kid"]] == ("unusable", "x has 3 bytes, not 32")

    def test_a_signing_key_readable_by_others_is_reported(self, shell: Shell):
        shell("keys", "new", "--signing")
        path = shell.folder / "provisioner.db.signing-key.json"
        path.chmod(0o644)
        ((state, detail),) = shell.check(expect=1).values()
        assert (state, "chmod 600" in detail) == ("unsafe", True)

    def test_beside_a_database_there_is_no_place_for_a_signing_key(self, shell: Shell):
        shell.environ("LEDGER_URL", "postgresql://127.0.0.1:1/nobody-listens")
        assert shell.check() == {"signing": ("not needed", "PROVISIONER_RECIPIENTS is not set")}
        for command in (("keys", "public"), ("keys", "new", "--signing")):
            assert "PROVISIONER_SIGNING_KEY is not set: with a PostgreSQL" in shell(*command, expect=2).stderr
        shell("keys", "new", "crm", "--add-to", "recipients.json")
        shell.environ("PROVISIONER_RECIPIENTS", "recipients.json")
        assert "`provisioner keys new --signing --out FILE`" in shell("keys", "check", expect=2).stderr

        shell("keys", "new", "--signing", "--out", "signing.json")
        shell.environ("PROVISIONER_SIGNING_KEY", "signing.json")
        assert shell.check().popitem()[1] == ("in use", "")
        assert len(json.loads(shell("keys", "public").stdout)["keys"]) == 1

    def test_the_public_option_needs_a_key(self, shell: Shell):
        assert "keys new --signing" in shell("keys", "public", expect=1).stderr


class TestOpen:
    @pytest.fixture
    def message(self, shell: Shell) -> str:
        shell("keys", "new", "crm", "--add-to", "recipients.json")
        signing = signing_key_made_once(shell.folder / "provisioner.db.signing-key.json", SystemClock().now())
        (shell.folder / "worker.json").write_text(shell("keys", "public").stdout)
        keys = RecipientKeys(shell.folder / "recipients.json", (), lambda *_: None)
        return JoseSealer(keys, signing).seal(clear(), "crm").body.decode()

    def open(self, shell: Shell, stdin: str, *more: str, expect: int = 0) -> Any:
        key = str(shell.private_key())
        return shell("open", "--key", key, "--worker-keys", "worker.json", *more, stdin=stdin, expect=expect)

    def test_the_token_is_printed_only_on_request(self, shell: Shell, message: str):
        output = self.open(shell, message)
        assert AUTH_ID in output.stdout
        assert TOKEN not in output.stdout + output.stderr
        output = self.open(shell, message, "--json")
        assert json.loads(output.stdout) == {
            "tenant": "acme",
            "department_id": "sales",
            "name": "Sales",
            "auth_id": AUTH_ID,
            "auth_token": TOKEN,
            "generation": 1,
        }

    def queue(
        self, shell: Shell, monkeypatch: pytest.MonkeyPatch, *bodies: str
    ) -> Callable[..., CommandOutput]:
        """A command that reads these messages from the recipient's queue."""

        @asynccontextmanager
        async def waiting_messages(_urls: Any, queue: str) -> AsyncIterator[AsyncIterator[Any]]:
            assert queue == "provisioner.secrets.crm"

            async def each() -> AsyncIterator[Any]:
                for body in bodies:
                    yield body.encode(), lambda: None

            yield each()

        monkeypatch.setattr(brokers, "waiting_messages", waiting_messages)
        key = str(shell.private_key())
        command = ("open", "--key", key, "--worker-keys", "worker.json", "--queue")
        return lambda *more, expect=0: shell(*command, *more, expect=expect)

    def test_an_empty_queue_is_said(self, shell: Shell, message: str, monkeypatch: pytest.MonkeyPatch):
        assert message
        read = self.queue(shell, monkeypatch)
        assert read().stdout == "nothing waits in the queue provisioner.secrets.crm\n"
        output = read("--json")
        assert (output.stdout, output.stderr) == ("", "nothing waits in the queue provisioner.secrets.crm\n")

    def test_a_queue_is_shown_in_one_table(self, shell: Shell, message: str, monkeypatch: pytest.MonkeyPatch):
        read = self.queue(shell, monkeypatch, message, message)
        shown = read().stdout
        assert (shown.count("generation"), shown.count(AUTH_ID)) == (1, 2)
        assert TOKEN not in shown
        assert len(read("--json", "--take").stdout.splitlines()) == 2

    def test_a_forged_message_in_the_queue_does_not_hide_the_others(
        self, shell: Shell, message: str, monkeypatch: pytest.MonkeyPatch
    ):
        forged = message.replace("sales", "legal")
        output = self.queue(shell, monkeypatch, forged, message)(expect=1)
        assert output.stdout.count(AUTH_ID) == 1
        assert output.stderr.startswith("sub inside the seal")
        output = self.queue(shell, monkeypatch, forged)(expect=1)
        assert "nothing waits" not in output.stdout + output.stderr

    def test_several_messages_are_given_one_per_line(self, shell: Shell, message: str):
        output = self.open(shell, f"{message}\n\n{message}\n", "--json")
        assert len(output.stdout.splitlines()) == 2

    def test_a_single_message_may_span_lines(self, shell: Shell, message: str):
        assert AUTH_ID in self.open(shell, json.dumps(json.loads(message), indent=2)).stdout

    def test_a_forged_message_prints_one_line_and_exits_1(self, shell: Shell, message: str):
        output = self.open(shell, message.replace("sales", "legal"), "--json", expect=1)
        assert output.stdout == ""
        assert output.stderr.startswith("sub inside the seal is not that of the message")
        assert output.stderr.count("\n") == 1

    def test_wrong_files_print_one_line_each(self, shell: Shell, message: str):
        for key in ("recipients.json", "missing.json"):
            output = shell("open", "--key", key, "--worker-keys", "worker.json", stdin=message, expect=1)
            assert output.stderr.startswith(f"{key} ")
            assert output.stderr.count("\n") == 1

    def test_the_token_cannot_be_taken_without_being_printed(self, shell: Shell, message: str):
        assert "--take goes with" in self.open(shell, message, "--take", expect=2).stderr

    def test_printing_a_token_on_a_terminal_warns(
        self, shell: Shell, message: str, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(terminal, "OUT", Console(force_terminal=True, width=300))
        output = self.open(shell, message, "--json")
        assert "do not leave it on the screen" in output.stderr
        assert TOKEN in output.stdout
        assert "do not leave" not in self.open(shell, message).stderr


class TestWhoNeedsAKey:
    """Recipients that are owed credentials, or have a queue, need a key as well as those of the file."""

    @pytest.fixture
    def shell(self, shell: Shell) -> Shell:
        shell("keys", "new", "billing", "--add-to", "recipients.json")
        shell.environ("PROVISIONER_RECIPIENTS", "recipients.json")
        return shell

    def ledger(self, shell: Shell, *owed_to: str, served: tuple[str, ...] = ()) -> None:
        async def write() -> None:
            async with sqlite_ledger(shell.folder / "provisioner.db") as ledger:
                await ledger.record(an_entry(revision=0, debt=owing(*owed_to)))
                for recipient in served:
                    await ledger.note_sealed(recipient)

        asyncio.run(write())

    def test_a_recipient_that_is_owed_credentials_needs_one(self, shell: Shell):
        self.ledger(shell, "crm", "billing")
        assert shell.check(expect=1)["crm"] == (
            "missing",
            "no key bears its name; owed credentials of 1 department",
        )
        assert "crm" in shell("keys", "check", expect=1).stdout
        shell("keys", "new", "crm", "--add-to", "recipients.json")
        shell.check()

    def test_a_recipient_that_was_served_and_has_no_queue_needs_none(self, shell: Shell):
        self.ledger(shell, "billing", served=("crm",))
        shell.check()

    def test_credentials_owed_to_anyone_need_none(self, shell: Shell):
        self.ledger(shell, "")
        shell.check()

    def test_without_recipients_those_that_are_owed_are_missing(self, shell: Shell):
        self.ledger(shell, "crm")
        shell.environ("PROVISIONER_RECIPIENTS", "")
        assert shell.check(expect=1)["crm"][0] == "missing"

    def test_what_could_not_be_looked_at_is_said(self, shell: Shell):
        output = shell("keys", "check", "--json")
        assert "not looked at: who is owed credentials (there is no ledger at provisioner.db" in output.stderr
        assert "not looked at: queues of recipients (RabbitMQ at amqp://127.0.0.1:1" in output.stderr
        assert {row["for"] for row in json.loads(output.stdout)} == {"billing", "signing"}

    def test_a_key_of_nobody_is_listed(self, shell: Shell):
        (key,) = read_keys(shell.folder / "recipients.json")
        nameless = {name: value for name, value in key.items() if name != "kid"}
        (shell.folder / "recipients.json").write_text(json.dumps([key, nameless]))
        assert shell.check(expect=1)["(nobody)"] == (
            "unusable",
            "kid is missing: write the recipient's name there",
        )
