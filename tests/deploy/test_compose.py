"""compose.yaml under docker-compose, and its parts: secrets, settings, PostgreSQL's role, Prometheus."""

import base64
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from yarl import URL

from tests.support.debian import debian_program
from tests.support.postgres_node import postgres_binaries
from worker.settings.load import load
from worker.settings.model import BrokerSettings, IntakeSettings, WorkerSettings
from worker.settings.tokens import Tokens

DEPLOY = Path(__file__).parents[2] / "deploy"
COMPOSE = DEPLOY / "compose.yaml"
MOUNTED = "/run/secrets/"

Service = Mapping[str, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of deploy/, with secrets drawn."""
    copy = tmp_path_factory.mktemp("compose") / "deploy"
    shutil.copytree(DEPLOY, copy, ignore=shutil.ignore_patterns(".secrets"))
    draw(copy)
    return copy


def draw(folder: Path) -> None:
    subprocess.run([folder / "compose/secrets"], check=True, capture_output=True)


@pytest.fixture(scope="module")
def system(folder: Path) -> Mapping[str, Any]:
    """The document as docker-compose understands it: merged, with defaults and absolute paths."""
    compose = debian_program("docker-compose", "docker-compose", "trixie")
    command = [
        str(compose),
        "--file",
        str(folder / "compose.yaml"),
        "--profile",
        "*",
        "config",
        "--format",
        "json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr.lower()
    document: Mapping[str, Any] = json.loads(done.stdout)
    return document


@pytest.fixture(scope="module")
def services(system: Mapping[str, Any]) -> Mapping[str, Service]:
    found: Mapping[str, Service] = system["services"]
    return found


def test_docker_compose_refuses_an_unknown_key(tmp_path: Path):
    compose = debian_program("docker-compose", "docker-compose", "trixie")
    (tmp_path / "compose.yaml").write_text(COMPOSE.read_text().replace("read_only:", "readonly:"))
    command = [str(compose), "--file", str(tmp_path / "compose.yaml"), "config", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode
    assert "readonly" in done.stderr


def test_all_parts_are_there(services: Mapping[str, Service]):
    there = {
        "rabbitmq",
        "postgres",
        "worker",
        "sandbox",
        "prometheus",
        "grafana",
        "topology",
        "producer",
        "intake",
    }
    assert set(services) == there


def test_every_container_is_hardened(services: Mapping[str, Service]):
    for name, one in services.items():
        assert one["read_only"] is True, name
        assert one["cap_drop"] == ["ALL"], name
        assert one["security_opt"] == ["no-new-privileges:true"], name
        assert not one.get("privileged"), name


def test_nothing_is_published_beyond_this_machine(services: Mapping[str, Service]):
    ports = [port for one in services.values() for port in one.get("ports", [])]
    assert ports
    assert {port["host_ip"] for port in ports} == {"127.0.0.1"}


def test_what_is_mounted_is_in_the_repository(system: Mapping[str, Any], folder: Path):
    mounts = [mount for one in system["services"].values() for mount in one.get("volumes", [])]
    files = [Path(mount["source"]) for mount in mounts if mount["type"] == "bind"]
    assert files
    assert all(file.is_relative_to(folder) and file.is_file() for file in files)
    assert all(Path(secret["file"]).is_file() for secret in system["secrets"].values())


def test_secrets_are_files_of_their_service_alone(system: Mapping[str, Any], folder: Path):
    drawn = {path.read_text().strip() for path in (folder / "compose/.secrets").iterdir()} - {"sandbox"}
    assert len(drawn) == 15
    assert not any(secret in json.dumps(system) for secret in drawn)
    users = {
        name: {one["source"] for one in service.get("secrets", [])}
        for name, service in system["services"].items()
    }
    assert users["worker"] == {"amqp_url_worker", "ledger_url", "plivo_auth_token"}
    assert users["intake"] == {"amqp_url_intake", "intake_tokens"}
    assert users["sandbox"] == users["prometheus"] == set()


def environment(service: Service, folder: Path) -> dict[str, str]:
    """Its environment, with the paths of secrets as they are outside the container."""
    return {
        name: value.replace(MOUNTED, f"{folder}/compose/.secrets/")
        for name, value in service["environment"].items()
    }


def test_the_settings_of_the_worker_are_valid(services: Mapping[str, Service], folder: Path):
    settings = load(WorkerSettings, environment(services["worker"], folder))
    known = {field.alias for field in WorkerSettings.model_fields.values()}
    assert {name.removesuffix("_FILE") for name in services["worker"]["environment"]} <= known
    assert settings.amqp_url[0].startswith("amqp://provisioner-worker:")
    assert settings.amqp_url[0].endswith("@rabbitmq:5672/")
    assert str(settings.ledger_url) == "postgresql://provisioner@postgres/provisioner"
    assert settings.plivo_api_url == "http://sandbox:8090"
    assert services["worker"]["stop_grace_period"] == "40s"
    assert settings.drain.total_seconds() < 40


def test_the_settings_of_the_intake_are_valid_beyond_loopback(services: Mapping[str, Service], folder: Path):
    settings = load(IntakeSettings, environment(services["intake"], folder))
    assert settings.amqp_url[0].startswith("amqp://provisioner-intake:")
    assert settings.intake_tokens is not None
    assert Tokens(settings.intake_tokens).names == ["hr"]
    token = (folder / "compose/.secrets/intake_token").read_text().strip()
    assert Tokens(settings.intake_tokens).prove(f"Bearer {token}").name == "hr"
    (port,) = services["intake"]["ports"]
    assert port["target"] == settings.intake.port
    known = {field.alias for field in IntakeSettings.model_fields.values()}
    assert {name.removesuffix("_FILE") for name in services["intake"]["environment"]} <= known


@pytest.mark.parametrize("name", ["topology", "producer"])
def test_the_settings_of_the_other_users_are_valid(services: Mapping[str, Service], folder: Path, name: str):
    settings = load(BrokerSettings, environment(services[name], folder))
    assert settings.amqp_url[0].startswith(f"amqp://provisioner-{name}:")


def test_secrets_that_are_there_stay(folder: Path):
    secrets = folder / "compose/.secrets"
    before = {path.name: path.read_bytes() for path in secrets.iterdir()}
    draw(folder)
    assert {path.name: path.read_bytes() for path in secrets.iterdir()} == before
    assert secrets.stat().st_mode & 0o777 == 0o700


def test_the_users_of_the_broker_have_the_drawn_passwords(folder: Path):
    """https://www.rabbitmq.com/docs/passwords: four bytes of salt, then SHA-256 of salt and password."""
    secrets = folder / "compose/.secrets"
    ours = json.loads((secrets / "rabbitmq_definitions").read_text())
    for user in ours["users"]:
        name = user["name"].removeprefix("provisioner-")
        if user["password_hash"]:
            password = (secrets / f"password_{name}").read_bytes().strip()
            salt, digest = (
                base64.b64decode(user["password_hash"])[:4],
                base64.b64decode(user["password_hash"])[4:],
            )
            assert hashlib.sha256(salt + password).digest() == digest
            assert password.decode() in (secrets / f"amqp_url_{name}").read_text()
    assert {user["name"] for user in ours["users"] if user["password_hash"]} == {
        f"provisioner-{name}" for name in ("topology", "worker", "intake", "producer")
    }
    for user in ours["users"]:
        user["password_hash"] = ""
    assert ours == json.loads((DEPLOY / "rabbitmq/definitions.json").read_text())


def test_the_worker_owns_its_database_and_nothing_else(folder: Path, postgres_url: str, tmp_path: Path):
    """The script of the image, with its path of secrets changed to ours."""
    script = tmp_path / "provisioner.sh"
    secrets = folder / "compose/.secrets"
    script.write_text((folder / "compose/postgres.sh").read_text().replace(MOUNTED, f"{secrets}/"))
    server = URL(postgres_url)
    environ = os.environ | {
        "PATH": f"{os.environ['PATH']}:{postgres_binaries()}",
        "PGHOST": str(server.host),
        "PGPORT": str(server.port),
        "PGUSER": str(server.user),
    }
    subprocess.run(["sh", script], env=environ, check=True, capture_output=True)
    url = (secrets / "ledger_url").read_text().strip().replace("@postgres/", f"@{server.host}:{server.port}/")
    with psycopg.connect(url) as connection:
        assert connection.execute(
            "SELECT rolsuper, rolcreatedb FROM pg_roles WHERE rolname = current_user"
        ).fetchall() == [(False, False)]
        connection.execute("CREATE TABLE of_the_worker ()")
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("DROP DATABASE provisioner")
        connection.execute("DROP ROLE provisioner")


def test_promtool_accepts_the_configuration_of_prometheus(folder: Path, tmp_path: Path):
    promtool = debian_program("promtool", "prometheus", "bookworm")
    for name in ("compose/prometheus.yml", "monitoring/alerts.yaml"):
        shutil.copy(folder / name, tmp_path)
    done = subprocess.run(
        [promtool, "check", "config", tmp_path / "prometheus.yml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "1 rule files found" in done.stdout


def test_grafana_finds_its_dashboard(services: Mapping[str, Service]):
    (provider,) = yaml.safe_load((DEPLOY / "compose/grafana-dashboards.yaml").read_text())["providers"]
    targets = [mount["target"] for mount in services["grafana"]["volumes"]]
    assert f"{provider['options']['path']}/provisioner.json" in targets
    (source,) = yaml.safe_load((DEPLOY / "compose/grafana-datasource.yaml").read_text())["datasources"]
    assert source["type"] == "prometheus"
