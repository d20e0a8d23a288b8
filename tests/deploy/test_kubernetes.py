"""Both overlays, rendered with Kustomize: against the schemas of Kubernetes, and what they promise."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from contracts import topology
from tests.support.debian import debian_program
from tests.support.secrets_keys import sealing_key, signing_key, write_keys
from worker.cli.app import command_line
from worker.settings.load import load
from worker.settings.model import IntakeSettings, SnapshotSettings, TopologySettings, WorkerSettings
from worker.settings.parse import Address

KUBERNETES = Path(__file__).parents[2] / "deploy/kubernetes"
OVERLAYS = ("staging", "production")
VERSIONS = ("1.31", "1.37")
SECRETS = "/run/secrets/provisioner"
MOUNTED = {"secrets", "sources"}
INTAKE = "provisioner-intake"

Document = Mapping[str, Any]

# The fields used here, as KEDA 2.17 accepts them: https://keda.sh/docs/2.17/reference/scaledobject-spec/
_SPEC_OF_KEDA: Mapping[str, Any] = {
    "ScaledObject": {
        "required": ["scaleTargetRef", "triggers"],
        "properties": {
            "scaleTargetRef": {"required": ["name"], "properties": {"name": {"type": "string"}}},
            "minReplicaCount": {"type": "integer", "minimum": 0},
            "maxReplicaCount": {"type": "integer", "minimum": 1},
            "pollingInterval": {"type": "integer"},
            "cooldownPeriod": {"type": "integer"},
            "advanced": {"properties": {"horizontalPodAutoscalerConfig": {}}, "additionalProperties": False},
            "fallback": {
                "required": ["failureThreshold", "replicas"],
                "properties": {"failureThreshold": {"type": "integer"}, "replicas": {"type": "integer"}},
            },
            "triggers": {
                "minItems": 1,
                "items": {
                    "required": ["type", "metadata"],
                    "properties": {
                        "type": {"const": "rabbitmq"},
                        "metadata": {
                            "required": ["queueName", "mode", "value", "protocol"],
                            "properties": {
                                "mode": {"const": "QueueLength"},
                                "protocol": {"enum": ["amqp", "http"]},
                            },
                            "additionalProperties": {"type": "string"},
                        },
                        "authenticationRef": {"required": ["name"]},
                    },
                    "additionalProperties": False,
                },
            },
        },
        "additionalProperties": False,
    },
    "TriggerAuthentication": {
        "required": ["secretTargetRef"],
        "properties": {
            "secretTargetRef": {
                "items": {
                    "required": ["parameter", "name", "key"],
                    "additionalProperties": {"type": "string"},
                }
            }
        },
        "additionalProperties": False,
    },
}


def overlay_with_snapshots(folder: Path) -> Path:
    """The overlay for production with the nightly list of an HR system, as deploy/README.md has it."""
    there = {part: os.path.relpath(KUBERNETES / part, folder) for part in ("overlays/production", "snapshot")}
    wanted = {"resources": [there["overlays/production"]], "components": [there["snapshot"]]}
    images = yaml.safe_load((KUBERNETES / "overlays/production/kustomization.yaml").read_text())["images"]
    (folder / "kustomization.yaml").write_text(
        yaml.safe_dump({"namespace": "provisioner", "images": images, **wanted})
    )
    return folder


@pytest.fixture(scope="module", params=[*OVERLAYS, "snapshots"])
def rendered(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of an overlay's documents, as `kubectl apply --kustomize` sends them."""
    overlay = KUBERNETES / "overlays" / request.param
    if request.param not in OVERLAYS:
        overlay = overlay_with_snapshots(tmp_path_factory.mktemp("overlay"))
    if shutil.which("kubectl"):
        command = ["kubectl", "kustomize", str(overlay)]
    else:
        command = [str(debian_program("kustomize", "kustomize", "trixie")), "build", str(overlay)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # Kustomize warns of what it will not know any more
    file = tmp_path_factory.mktemp("kubernetes") / f"{request.param}.yaml"
    file.write_text(done.stdout)
    return file


@pytest.fixture(scope="module")
def documents(rendered: Path) -> Sequence[Document]:
    return list(yaml.safe_load_all(rendered.read_text()))


def named(documents: Sequence[Document], kind: str, name: str = "provisioner") -> Document:
    (found,) = (one for one in documents if one["kind"] == kind and one["metadata"]["name"] == name)
    return found


def templates(documents: Sequence[Document]) -> Iterator[Document]:
    """The templates of all pods."""
    for one in documents:
        spec = one.get("spec", {}).get("jobTemplate", one).get("spec", {})
        if "template" in spec:
            yield spec["template"]


def validated(file: Path, version: str) -> str:
    """Everything that kubernetes-validate says."""
    command = [
        str(Path(sys.executable).with_name("kubernetes-validate")),
        "--strict",
        "-k",
        version,
        str(file),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.mark.parametrize("version", VERSIONS)
def test_the_schemas_of_kubernetes_accept_it(rendered: Path, documents: Sequence[Document], version: str):
    said = validated(rendered, version).splitlines()
    own = [one for one in documents if not one["apiVersion"].startswith("keda.sh/")]
    assert len([line for line in said if " passed for resource " in line]) == len(own)
    assert len(said) == len(documents), said  # one line each, and for those of KEDA that there is no schema


def test_they_refuse_a_key_that_kubernetes_does_not_know(rendered: Path, tmp_path: Path):
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(rendered.read_text().replace("readOnlyRootFilesystem", "readOnlyRootFileSystem"))
    assert "readOnlyRootFileSystem" in validated(wrong, VERSIONS[0])


def test_keda_accepts_its_documents(documents: Sequence[Document]):
    of_keda = [one for one in documents if one["apiVersion"] == "keda.sh/v1alpha1"]
    assert sorted(one["kind"] for one in of_keda) == sorted(_SPEC_OF_KEDA)
    for one in of_keda:
        jsonschema_rs.validator_for(_SPEC_OF_KEDA[one["kind"]]).validate(one["spec"])


def test_workers_scale_with_the_length_of_the_work_queue(documents: Sequence[Document]):
    spec = named(documents, "ScaledObject")["spec"]
    assert spec["scaleTargetRef"]["name"] == named(documents, "Deployment")["metadata"]["name"]
    (trigger,) = spec["triggers"]
    assert trigger["metadata"]["queueName"] == topology.WORK_QUEUE
    named(documents, "TriggerAuthentication", trigger["authenticationRef"]["name"])
    assert "replicas" not in named(documents, "Deployment")["spec"]  # each apply would undo the scaling


def test_no_pod_is_root_or_writes_its_root(documents: Sequence[Document]):
    for template in templates(documents):
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 10001  # the user of the image
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert "/var/lib/provisioner" in [mount["mountPath"] for mount in container["volumeMounts"]]
            assert container["image"].startswith("registry.example.com/provisioner:")


def environment(documents: Sequence[Document], template: Document, files: Path) -> dict[str, str]:
    """The container's environment, with the mounted secrets read from `files`."""
    (container,) = template["spec"].get("initContainers", template["spec"]["containers"])
    found = {one["name"]: one["value"] for one in container.get("env", [])}
    for source in container.get("envFrom", []):
        found |= named(documents, "ConfigMap", source["configMapRef"]["name"])["data"]
    folders = [mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] in MOUNTED]
    for folder in folders:
        found = {name: value.replace(folder, str(files)) for name, value in found.items()}
    return found


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """The files of the secret, which deploy/README.md says how to make."""
    write_keys(tmp_path / "recipients.json", sealing_key())
    (tmp_path / "signing-key.json").write_text(json.dumps(signing_key()))
    (tmp_path / "amqp-url").write_text("amqps://provisioner-worker:secret@rabbit.example.com/")
    (tmp_path / "ledger-url").write_text("postgresql://provisioner:secret@db.example.com/provisioner")
    (tmp_path / "plivo-auth-token").write_text("secret")
    return tmp_path


def test_the_settings_are_valid_and_secrets_are_files(documents: Sequence[Document], secrets: Path):
    worker = named(documents, "Deployment")["spec"]["template"]
    environ = environment(documents, worker, secrets)
    known = {field.alias for field in WorkerSettings.model_fields.values()}
    assert {name.removesuffix("_FILE") for name in environ} <= known
    settings = load(WorkerSettings, environ)
    assert set(settings.files) == {"AMQP_URL", "LEDGER_URL", "PLIVO_AUTH_TOKEN"}
    assert settings.recipient_names == ("crm",)
    assert settings.http == Address("0.0.0.0", 8080)  # noqa: S104 - of a pod alone
    assert settings.drain.total_seconds() < worker["spec"]["terminationGracePeriodSeconds"]
    job = named(documents, "Job", "provisioner-topology")["spec"]["template"]
    assert load(TopologySettings, environment(documents, job, secrets)).recipient_names == ("crm",)
    assert not [one for one in documents if one["kind"] == "Secret"]
    assert "secretKeyRef" not in str(documents)


def test_the_nightly_list_has_the_settings_of_its_commands(
    rendered: Path, documents: Sequence[Document], secrets: Path
):
    jobs = [one for one in documents if one["kind"] == "CronJob"]
    assert len(jobs) == (rendered.stem == "snapshots")
    for job in jobs:
        check_snapshot(job["spec"]["jobTemplate"]["spec"]["template"], documents, secrets)


def check_snapshot(spec: Document, documents: Sequence[Document], secrets: Path) -> None:
    settings = load(SnapshotSettings, environment(documents, spec, secrets))
    assert set(settings.files) == {"AMQP_URL", "LEDGER_URL"}
    (plan,), (apply,) = (spec["spec"][kind] for kind in ("initContainers", "containers"))
    for container in (plan, apply):
        assert {"secrets", "sources", "work"} == {mount["name"] for mount in container["volumeMounts"]}
        group, command, *words = container["args"]
        known = command_line(["snapshot"]).commands[group].commands[command].params
        options = {option for parameter in known for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options
    assert plan["args"][-1] == apply["args"][-1], "the plan that is written is the one that is applied"


def test_the_probes_ask_what_the_worker_serves(documents: Sequence[Document]):
    (worker,) = named(documents, "Deployment")["spec"]["template"]["spec"]["containers"]
    paths = {name: worker[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}
    assert paths == {"startup": "/livez", "liveness": "/livez", "readiness": "/readyz"}
    assert worker["ports"] == [{"name": "http", "containerPort": 8080}]


def test_the_intake_has_its_own_secret_and_settings(documents: Sequence[Document], tmp_path: Path):
    template = named(documents, "Deployment", INTAKE)["spec"]["template"]
    (tmp_path / "amqp-url").write_text("amqps://provisioner-intake:secret@rabbit.example.com/")
    (tmp_path / "intake-tokens").write_text("hr: secret\n")
    environ = environment(documents, template, tmp_path)
    settings = load(IntakeSettings, environ)
    assert settings.intake == Address("0.0.0.0", 8082)  # noqa: S104 - of a pod alone
    assert settings.sources == tmp_path
    known = {field.alias for field in IntakeSettings.model_fields.values()}
    assert {name.removesuffix("_FILE") for name in environ} <= known
    secrets = [one["secret"]["secretName"] for one in template["spec"]["volumes"] if "secret" in one]
    assert secrets == [INTAKE]
    pause = 5
    assert settings.drain.total_seconds() + pause < template["spec"]["terminationGracePeriodSeconds"]


@pytest.mark.parametrize(("name", "component"), [("provisioner", "worker"), (INTAKE, "intake")])
@pytest.mark.parametrize(
    ("kind", "path"),
    [("PodDisruptionBudget", ("selector", "matchLabels")), ("Service", ("selector",))],
)
def test_selectors_choose_their_pods_alone(
    documents: Sequence[Document], kind: str, path: Sequence[str], name: str, component: str
):
    wanted = named(documents, kind, name)["spec"]
    for step in path:
        wanted = wanted[step]
    chosen = [
        template["metadata"]["labels"]["app.kubernetes.io/component"]
        for template in templates(documents)
        if wanted.items() <= template["metadata"]["labels"].items()
    ]
    assert chosen == [component]


def test_the_network_policy_covers_every_pod_and_names_each_peer(documents: Sequence[Document]):
    spec = named(documents, "NetworkPolicy")["spec"]
    chosen = spec["podSelector"]["matchLabels"].items()
    assert all(chosen <= template["metadata"]["labels"].items() for template in templates(documents))
    (but,) = spec["podSelector"]["matchExpressions"]
    assert but == {"key": "app.kubernetes.io/component", "operator": "NotIn", "values": ["intake"]}
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    ports = {port["port"] for rule in spec["egress"] for port in rule["ports"]}
    assert ports - {8090} == {53, 5671, 5672, 5432, 443}
    assert all(rule["ports"] for rule in [*spec["egress"], *spec["ingress"]])
    assert all(rule["from"] for rule in spec["ingress"])


def test_the_intake_reaches_names_and_rabbitmq_alone(documents: Sequence[Document]):
    """Policies add up, so no other may choose its pods."""
    spec = named(documents, "NetworkPolicy", INTAKE)["spec"]
    assert spec["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "intake"
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert {port["port"] for rule in spec["egress"] for port in rule["ports"]} == {53, 5671, 5672}
    (rule,) = spec["ingress"]
    assert [port["port"] for port in rule["ports"]] == [8082]
    assert all("namespaceSelector" in one for one in rule["from"])
