"""alerts.yaml under promtool: each alert fires on its incident, and none on a healthy worker."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.monitoring.exported import ALERTS as ALERT_RULES
from tests.support.prometheus import prometheus_folder
from worker.telemetry.page import PAGE

ALERTS, TESTS = PAGE.with_name("alerts.yaml"), PAGE.with_name("alerts.test.yaml")
TESTS_OVER_DAYS = PAGE.with_name("alerts.days.test.yaml")


@pytest.fixture(scope="module")
def promtool() -> Path:
    return prometheus_folder() / "promtool"


def test_promtool_accepts_the_alerts(promtool: Path):
    done = subprocess.run([promtool, "check", "rules", ALERTS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_passes_the_tests_of_the_alerts(promtool: Path):
    command = (promtool, "test", "rules", TESTS, TESTS_OVER_DAYS)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_notices_an_alert_that_never_fires(promtool: Path, tmp_path: Path):
    """The tests would fail on a wrong rule: here one with another limit."""
    rules = ALERTS.read_text()
    assert "(provisioner_unrouted_messages) > 0" in rules
    (tmp_path / "alerts.yaml").write_text(rules.replace("(provisioner_unrouted_messages) > 0", "(up) > 9"))
    document = yaml.safe_load(TESTS.read_text())
    document["tests"] = [one for one in document["tests"] if "routing key" in one["name"]]
    (tmp_path / "alerts.test.yaml").write_text(yaml.safe_dump(document))
    done = subprocess.run(
        [promtool, "test", "rules", tmp_path / "alerts.test.yaml"], capture_output=True, check=False
    )
    assert done.returncode == 1
    assert b"ProvisionerUnrouted" in done.stderr + done.stdout


def test_each_alert_has_a_test_in_which_it_fires_and_one_in_which_it_does_not():
    alerts = set(re.findall(r"- alert: (\w+)", ALERTS.read_text()))
    tests = [one for file in (TESTS, TESTS_OVER_DAYS) for one in yaml.safe_load(file.read_text())["tests"]]
    fired = set(re.findall(r'alertname="(\w+)"', str([one.get("promql_expr_test") for one in tests])))
    assert fired == alerts
    assert all(
        any(not check["exp_samples"] for check in one["promql_expr_test"])
        for one in tests
        if "promql_expr_test" in one and "schema" not in one["name"]
    )


def test_each_increase_of_a_counter_is_seen_from_the_start_of_a_worker_on():
    """`increase()` misses the value of a new series at its first scrape. Rates over minutes lose nothing."""
    found = [rule["expr"] for rule in ALERT_RULES if "increase(" in rule["expr"]]
    assert found
    for expression in found:
        (counter,) = {*re.findall(r"increase\((\w+)", expression)}
        (window,) = {*re.findall(r"\[(\d+)m\]", expression.replace("[1h]", "[60m]"))}
        young = rf"\S+_started_timestamp_seconds > time\(\) - {60 * int(window)}\)"
        assert re.search(rf"\({counter}\S*\s+and on \(job, instance\) {young}", expression), expression
