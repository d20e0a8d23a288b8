"""The exported metrics, and the alerts and expressions that read them."""

import json
import re
from collections.abc import Mapping
from typing import Any

import yaml

from worker.telemetry.metrics import COUNTERS, GAUGES, HISTOGRAMS, exported_name
from worker.telemetry.page import PAGE

METRICS = {exported_name(one): one for one in (*COUNTERS, *GAUGES, *HISTOGRAMS)}
ALERTS = [
    rule
    for group in yaml.safe_load(PAGE.with_name("alerts.yaml").read_text())["groups"]
    for rule in group["rules"]
]
DASHBOARD = json.loads(PAGE.with_name("dashboard.json").read_text())


def expressions(dashboard: Mapping[str, Any]) -> list[str]:
    """Every expression of the panels, with Grafana's variables."""
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def written_out(expression: str, job: str = "provisioner", interval: str = "1m") -> str:
    """The expression with the variables replaced, as Grafana does it before it asks."""
    text = expression.replace("$job", job).replace("$__rate_interval", interval)
    if left := re.search(r"\$\w+", text):
        raise ValueError(f"{left[0]} is not known")
    return text
