"""Warnings about files that others can read or write, and about deployments of one owner."""

import json
import os
from pathlib import Path
from typing import NamedTuple

import pytest

from worker.settings.load import load
from worker.settings.model import WorkerSettings
from worker.settings.warnings import warnings_about

CRM = {"kty": "OKP", "crv": "X25519", "x": "AAAA", "use": "enc", "kid": "crm"}
SIGNER = {"kty": "OKP", "crv": "Ed25519", "x": "AAAA", "d": "AAAA", "kid": "provisioner.1"}


def warnings_of(folder: Path, **environ: str) -> list[str]:
    given = {
        "PLIVO_AUTH_ID": "MA1",
        "PLIVO_AUTH_TOKEN": "token",
        "LEDGER_URL": f"sqlite:///{folder / 'ledger.db'}",
    } | environ
    given = {name: value for name, value in given.items() if value}
    return warnings_about(load(WorkerSettings, given), given)


def file(path: Path, mode: int, content: str = "content") -> Path:
    path.write_text(content)
    path.chmod(mode)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tmp_path.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, False), (0o644, True), (0o604, True)])
def test_a_secret_file_warns_only_if_everybody_can_read_it(folder: Path, mode: int, warned: bool):  # noqa: FBT001
    path = file(folder / "token", mode)
    lines = warnings_of(folder, PLIVO_AUTH_TOKEN="", PLIVO_AUTH_TOKEN_FILE=str(path))
    expected = f"PLIVO_AUTH_TOKEN_FILE can be read by everybody on this machine: chmod 600 {path}"
    assert lines == ([expected] if warned else [])


def test_a_readable_file_without_secrets_does_not_warn(folder: Path):
    path = file(folder / "owner", 0o644, "default")
    assert warnings_of(folder, PROVISIONER_OWNER_FILE=str(path)) == []


def test_private_keys_readable_by_others_warn(folder: Path):
    signing = file(folder / "signing.json", 0o644, json.dumps(SIGNER))
    certificate, key = file(folder / "worker.pem", 0o644), file(folder / "worker.key", 0o644)
    url = f"amqps://localhost/?certfile={certificate}&keyfile={key}"
    lines = warnings_of(folder, PROVISIONER_SIGNING_KEY=str(signing), AMQP_URL=url)
    assert lines == [
        f"the keyfile of AMQP_URL can be read by everybody on this machine: chmod 600 {key}",
        f"the signing key can be read by everybody on this machine: chmod 600 {signing}",
    ]


def test_recipient_keys_writable_by_others_warn(folder: Path):
    own = folder / "keys"
    own.mkdir(mode=0o755)
    recipients = file(own / "recipients.json", 0o644, json.dumps({"keys": [CRM]}))
    assert warnings_of(folder, PROVISIONER_RECIPIENTS=str(recipients)) == []
    recipients.chmod(0o646)
    own.chmod(0o777)
    assert warnings_of(folder, PROVISIONER_RECIPIENTS=str(recipients)) == [
        f"everybody on this machine may make themselves a recipient: chmod o-w {recipients}",
        f"everybody on this machine may make themselves a recipient: chmod o-w {own}",
    ]


def test_a_folder_of_a_read_only_mount_is_written_to_by_nobody(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Kubernetes mounts secrets so: the folder has mode 1777."""
    recipients = file(folder / "recipients.json", 0o644, json.dumps({"keys": [CRM]}))
    folder.chmod(0o1777)
    real = os.statvfs
    monkeypatch.setattr(os, "statvfs", lambda path: Mounted(real(path).f_flag | os.ST_RDONLY))
    assert warnings_of(folder, PROVISIONER_RECIPIENTS=str(recipients)) == []


class Mounted(NamedTuple):
    f_flag: int


def test_a_ledger_or_folder_readable_by_others_warns(folder: Path):
    assert warnings_of(folder) == []
    ledger = file(folder / "ledger.db", 0o644)
    folder.chmod(0o777)
    assert warnings_of(folder) == [
        f"everybody on this machine may put files beside the ledger: chmod o-w {folder}",
        f"the ledger can be read by everybody on this machine: chmod 600 {ledger}",
    ]


def test_a_namespace_without_an_owner_warns(folder: Path):
    (line,) = warnings_of(folder, PROVISIONER_NAMESPACE="staging")
    assert line.startswith("PROVISIONER_NAMESPACE is set and PROVISIONER_OWNER is not: ")
    assert warnings_of(folder, PROVISIONER_NAMESPACE="staging", PROVISIONER_OWNER="staging") == []
