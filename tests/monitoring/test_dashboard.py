"""dashboard.json: each expression is PromQL over metrics and labels that the worker exports."""

import html
import re
from collections.abc import Iterator
from typing import Any

import promql_parser as promql
import pytest

from tests.monitoring.exported import ALERTS, DASHBOARD, METRICS, expressions, written_out
from worker.telemetry.metrics import HISTOGRAMS, exported_name
from worker.telemetry.page import PAGE

OF_PROMETHEUS = {"job", "instance", "le"}
SERIES = METRICS | {
    f"{exported_name(one)}_{part}": one for one in HISTOGRAMS for part in ("bucket", "sum", "count")
}
"""Each series by its name, with the metric that it is of."""


def selectors(expression: str) -> Iterator[Any]:
    """The selectors of an expression. Raises `ValueError` if it is no PromQL."""
    found: list[Any] = []
    promql.walk(promql.parse(written_out(expression)), found.append)
    return (node for node in found if isinstance(node, promql.VectorSelector))


@pytest.mark.parametrize("expression", expressions(DASHBOARD) + [rule["expr"] for rule in ALERTS])
def test_each_expression_names_exported_metrics_and_their_labels(expression: str):
    named = list(selectors(expression))
    assert named
    for selector in named:
        metric = SERIES[selector.name]
        labels = {matcher.name for matcher in selector.matchers.matchers}
        assert labels <= {*metric.labels, *OF_PROMETHEUS}, expression


@pytest.mark.parametrize("wrong", ["rate(provisioner_consuming)", "sum by (job", "rate(x[1m]) >"])
def test_what_is_no_promql_is_noticed(wrong: str):
    with pytest.raises(ValueError, match=r"."):
        list(selectors(wrong))


def test_each_panel_has_a_place_of_its_own():
    places = set[tuple[int, int]]()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + dx, at["y"] + dy) for dx in range(at["w"]) for dy in range(at["h"])}
        assert not cells & places, panel["title"]
        places |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_the_picture_shows_every_panel():
    picture = PAGE.with_name("dashboard.svg").read_text()
    texts = {html.unescape(text) for text in re.findall(r"<text[^>]*>([^<]+)</text>", picture)}
    assert {panel["title"] for panel in DASHBOARD["panels"]} <= texts
    assert picture.count("<polyline") > len(DASHBOARD["panels"])
