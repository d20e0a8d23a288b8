"""Draws the dashboard from a real run: `python -m tests.monitoring.picture [--seconds 240]`.

A worker and an intake on a RabbitMQ node of their own, with the sandbox, take events while things go wrong:
a Plivo that fails for everybody, a producer's bad messages, a wiped org chart. Prometheus scrapes both. Every
panel of `dashboard.json` is then asked of Prometheus, with the panel's own expressions, and drawn as SVG.
Grafana itself is not used, since no package registry has it that the tests may use.
"""

import argparse
import asyncio
import html
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aio_pika
import aiohttp

from contracts import topology as names
from tests.monitoring.exported import DASHBOARD, written_out
from tests.support.prometheus import Prometheus, running_prometheus
from worker.adapters.system import SystemClock
from worker.bootstrap.running import running_worker
from worker.demo.private_node import Ports, private_node
from worker.sandbox import Rule, Sandbox, fault, running_sandbox
from worker.service.intake.serve import running_intake
from worker.service.probes import Probes, serving
from worker.settings.load import load
from worker.settings.model import IntakeSettings, WorkerSettings
from worker.settings.parse import Address
from worker.telemetry.events import Telemetry
from worker.telemetry.logs import configure_logging
from worker.telemetry.metrics import Process
from worker.telemetry.page import PAGE

COLUMN, ROW, GAP = 50, 32, 8
COLOURS = ("#73bf69", "#f2cc0c", "#5794f2", "#ff780a", "#b877d9", "#f2495c", "#8ab8ff", "#96d98d")
BACKGROUND, PANEL, TEXT, DIM = "#111217", "#181b1f", "#d8d9da", "#8e8e8e"
STEP_SECONDS = 2.0


@dataclass(frozen=True)
class Curve:
    """One series of a panel; None where there is no value."""

    legend: str
    points: Sequence[tuple[float, float]]


# The run


async def run(seconds: float, folder: Path) -> str:
    """The picture of a run of so many seconds."""
    telemetry = Telemetry()
    probes = Probes(telemetry, None)
    async with (
        private_node() as node,
        running_sandbox(rate_limit="off", faults=[Rule("*", fault("slow", delay_seconds=0.04))]) as sandbox,
    ):
        environ = {
            "AMQP_URL": node.url,
            "PLIVO_AUTH_ID": sandbox.auth_id,
            "PLIVO_AUTH_TOKEN": sandbox.auth_token,
            "PLIVO_API_URL": sandbox.url,
            "LEDGER_URL": f"sqlite:///{folder / 'ledger.db'}",
            "PROVISIONER_PLAINTEXT_SECRETS": "true",
            "PROVISIONER_RATE_LIMIT": "60/5s",
        }
        async with (
            serving(probes, Address("127.0.0.1", 0)) as address,
            running_worker(load(WorkerSettings, environ), telemetry) as running,
            running_intake(_of_intake(node.url), Telemetry(process=Process.INTAKE), {}) as intake,
            running_prometheus(
                folder, [f"127.0.0.1:{one.port}" for one in (address, intake.server.address)]
            ) as prometheus,
            await aio_pika.connect(node.url) as connection,
            aiohttp.ClientSession(f"http://127.0.0.1:{intake.server.address.port}") as http,
        ):
            telemetry.started("0.1.0", SystemClock().now(), {})
            with probes.watching(running):
                begun = time.time()
                await _play(await connection.channel(), http, sandbox, seconds)
                picture = await drawn(prometheus, begun, time.time())
                await running.drain()
                return picture


def _of_intake(amqp_url: str) -> IntakeSettings:
    return load(
        IntakeSettings, {"AMQP_URL": amqp_url, "PROVISIONER_INTAKE": f"127.0.0.1:{Ports.free().amqp}"}
    )


async def _play(
    channel: aio_pika.abc.AbstractChannel, http: aiohttp.ClientSession, sandbox: Sandbox, seconds: float
) -> None:
    """Sends some events a second, some over HTTP. Plivo fails from a third of the time on for a sixth."""
    exchange = await channel.get_exchange(names.DEPARTMENTS, ensure=False)
    chance = random.Random(7)
    begun, number, slow = time.monotonic(), 0, Rule("*", fault("slow", delay_seconds=0.04))
    down, wiped = False, False
    while (part := (time.monotonic() - begun) / seconds) < 1:
        if (1 / 3 <= part < 1 / 2) is not down:
            down = not down
            sandbox.faults.replace_rules([Rule("*", fault("error", status=503)) if down else slow])
        if part > 0.7 and not wiped:
            wiped = True
            for department in range(30):
                await _send(exchange, "removed", department, 10_000 + department)
        kind = "created" if number < 60 or chance.random() < 0.5 else "renamed"
        if number % 3:
            await _send(exchange, kind, number % 200, number)
        else:
            await _post(http, _event(kind, number % 200, number))
        if chance.random() < 0.02:
            await exchange.publish(aio_pika.Message(b'{"name": "Sales"}'), "department.created")
            await _post(http, {"name": "Sales"})
        number += 1
        await asyncio.sleep(chance.expovariate(1 / 0.15))


async def _send(exchange: aio_pika.abc.AbstractExchange, kind: str, department: int, number: int) -> None:
    body = json.dumps(_event(kind, department, number)).encode()
    await exchange.publish(aio_pika.Message(body), f"department.{kind}")


async def _post(http: aiohttp.ClientSession, event: dict[str, Any]) -> None:
    headers = {"Content-Type": "application/cloudevents+json"}
    async with http.post("/v1/events", data=json.dumps(event), headers=headers) as response:
        await response.read()


def _event(kind: str, department: int, number: int) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": f"{kind}-{number}",
        "source": "/hr",
        "type": f"department.{kind}.v1",
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "sequence": number,
        "data": {"department_id": f"d-{department}", "name": f"Department {number}"},
    }


# The picture


async def drawn(prometheus: Prometheus, start: float, end: float) -> str:
    """All panels as one SVG."""
    panels = DASHBOARD["panels"]
    width = 24 * COLUMN
    height = max(one["gridPos"]["y"] + one["gridPos"]["h"] for one in panels) * ROW
    font = f'font-family="sans-serif" font-size="11" fill="{TEXT}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {font}>',
        f'<rect width="{width}" height="{height}" fill="{BACKGROUND}"/>',
    ]
    for panel in panels:
        curves = [
            Curve(_legend(target["legendFormat"], series["metric"]), _points(series["values"]))
            for target in panel["targets"]
            for series in await prometheus.query_range(
                written_out(target["expr"], interval="15s"), start, end, STEP_SECONDS
            )
        ]
        place = panel["gridPos"]
        x, y = place["x"] * COLUMN + GAP / 2, place["y"] * ROW + GAP / 2
        inner = (place["w"] * COLUMN - GAP, place["h"] * ROW - GAP)
        parts.append(f'<g transform="translate({x},{y})">')
        parts += (
            _stat(panel, curves, *inner)
            if panel["type"] == "stat"
            else _chart(panel, curves, *inner, start, end)
        )
        parts.append("</g>")
    return "\n".join([*parts, "</svg>", ""])


def _stat(panel: dict[str, Any], curves: Sequence[Curve], width: float, height: float) -> Iterator[str]:
    defaults = panel["fieldConfig"]["defaults"]
    value = curves[0].points[-1][1] if curves and curves[0].points else 0.0
    steps = defaults["thresholds"]["steps"]
    colour = next(one["color"] for one in reversed(steps) if one["value"] is None or value >= one["value"])
    options = {name: text for one in defaults.get("mappings", ()) for name, text in one["options"].items()}
    shown = options.get(f"{value:g}", {"text": f"{value:g}"})["text"]
    fill = {"green": "#37872d", "orange": "#c4620a", "red": "#c4162a"}[colour]
    yield f'<rect width="{width}" height="{height}" rx="3" fill="{fill}"/>'
    yield f'<text x="8" y="18">{html.escape(panel["title"])}</text>'
    at = f'x="{width / 2}" y="{height - 22}"'
    yield f'<text {at} font-size="30" text-anchor="middle">{html.escape(shown)}</text>'


def _chart(
    panel: dict[str, Any], curves: Sequence[Curve], width: float, height: float, start: float, end: float
) -> Iterator[str]:
    left, top, right, bottom = 48.0, 28.0, width - 10, height - 44
    unit = panel["fieldConfig"]["defaults"]["unit"]
    highest = max((value for one in curves for _, value in one.points), default=0.0) * 1.1 or 1.0
    yield f'<rect width="{width}" height="{height}" rx="3" fill="{PANEL}"/>'
    yield f'<text x="8" y="18" font-weight="bold">{html.escape(panel["title"])}</text>'
    for line in range(5):
        at = bottom - (bottom - top) * line / 4
        yield f'<line x1="{left}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}" stroke="#2c3235"/>'
        label = _with_unit(highest * line / 4, unit)
        yield f'<text x="{left - 5}" y="{at + 4:.1f}" text-anchor="end" fill="{DIM}">{label}</text>'
    for line in range(5):
        at = left + (right - left) * line / 4
        label = f"{(end - start) * line / 4:.0f} s"
        yield f'<text x="{at:.1f}" y="{bottom + 14}" text-anchor="middle" fill="{DIM}">{label}</text>'
    legend_x, legend_y = 8.0, height - 18
    for number, curve in enumerate(curves):
        colour = COLOURS[number % len(COLOURS)]
        for stretch in _stretches(curve.points):
            path = " ".join(
                f"{left + (right - left) * (at - start) / (end - start):.1f},"
                f"{bottom - (bottom - top) * value / highest:.1f}"
                for at, value in stretch
            )
            yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.4"/>'
        if legend_x + 14 + 6.2 * len(curve.legend) > width:
            legend_x, legend_y = 8.0, legend_y + 13
        yield f'<rect x="{legend_x:.0f}" y="{legend_y - 4:.0f}" width="10" height="3" fill="{colour}"/>'
        legend = html.escape(curve.legend)
        yield f'<text x="{legend_x + 14:.0f}" y="{legend_y:.0f}" fill="{DIM}">{legend}</text>'
        legend_x += 28 + 6.2 * len(curve.legend)


def _stretches(points: Sequence[tuple[float, float]]) -> Iterator[list[tuple[float, float]]]:
    """The points without a hole between them."""
    stretch: list[tuple[float, float]] = []
    for at, value in points:
        if stretch and at - stretch[-1][0] > 1.5 * STEP_SECONDS:
            yield stretch
            stretch = []
        stretch.append((at, value))
    if stretch:
        yield stretch


def _points(values: Sequence[tuple[float, str]]) -> Sequence[tuple[float, float]]:
    return [(at, float(value)) for at, value in values if value not in {"NaN", "+Inf", "-Inf"}]


def _legend(template: str, labels: dict[str, str]) -> str:
    for name, value in labels.items():
        template = template.replace("{{" + name + "}}", value)
    return template


def _with_unit(value: float, unit: str) -> str:
    match unit:
        case "s" if value < 1:
            return f"{value * 1000:.3g} ms"
        case "s":
            return f"{value:.3g} s"
        case "percentunit":
            return f"{value * 100:.0f} %"
        case "ops" | "reqps":
            return f"{value:.2g}/s"
        case _:
            return f"{value:.3g}"


def main() -> None:
    """Draws the picture beside the dashboard."""
    parser = argparse.ArgumentParser(prog="python -m tests.monitoring.picture", description=__doc__)
    parser.add_argument("--seconds", type=float, default=240.0, help="how long the run takes")
    seconds: float = parser.parse_args().seconds
    configure_logging("json", "error")
    with tempfile.TemporaryDirectory() as folder:
        picture = asyncio.run(run(seconds, Path(folder)))
    PAGE.with_name("dashboard.svg").write_text(picture)
    sys.stdout.write(f"{PAGE.with_name('dashboard.svg')}\n")


if __name__ == "__main__":
    main()
