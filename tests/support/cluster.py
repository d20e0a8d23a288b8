"""A private RabbitMQ cluster on one machine, and what can happen to its nodes.

The nodes share one folder as HOME, so one cookie and one keeper, and an epmd of their own. The first node is
started alone and the others join it, which is the quickest way (7 s on 3.10.8, 6 s on 4.3.6).
"""

import asyncio
import json
import os
import re
import secrets
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from worker.demo.private_node import (
    Installation,
    NodeUnavailable,
    Ports,
    PrivateNode,
    environment_of,
    furnish,
    keep,
    settings_of,
)

PARTITIONS = "cluster_partition_handling"
FORMED_SECONDS = 120.0
POLL_SECONDS = 0.2


class ClusterNode(PrivateNode):
    """A node of a cluster. It can be killed or frozen with all its processes."""

    def __init__(self, folder: Path, ports: Ports, environment: Mapping[str, str]) -> None:
        super().__init__(folder, ports, environment)
        self.name = environment["RABBITMQ_NODENAME"]

    async def kill(self) -> None:
        """Ends the node at once, as a loss of its machine does; `start` brings it back."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        await asyncio.to_thread(self._process.wait)
        self._process = None

    def freeze(self) -> None:
        """Stops the node in its tracks: its connections stay open and nothing answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets a frozen node go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, number)


@dataclass(frozen=True)
class Cluster:
    """Running nodes that hold every quorum queue together."""

    nodes: tuple[ClusterNode, ...]

    @property
    def urls(self) -> str:
        """All nodes, as in AMQP_URL."""
        return ",".join(node.url for node in self.nodes)

    async def leader(self, queue: str) -> ClusterNode:
        """The node that leads this quorum queue of the virtual host `/`. All nodes must run."""
        found = await self.nodes[0].rabbitmqctl("eval", f"ra:members({{'%2F_{queue}', node()}}).")
        leader = re.findall(r"'(r\d-[^']+)'", found)[-1]
        return next(node for node in self.nodes if node.name == leader)

    async def cut_off(self, node: ClusterNode) -> None:
        """Parts a node from the others, as a broken network does: it runs and answers clients."""
        for other in self._others(node):
            parted = f"erlang:set_cookie('{other}', wrong), erlang:disconnect_node('{other}')."
            await node.rabbitmqctl("eval", parted)

    async def join_again(self, node: ClusterNode) -> None:
        """Repairs what `cut_off` did."""
        for other in self._others(node):
            await node.rabbitmqctl("eval", f"erlang:set_cookie('{other}', erlang:get_cookie()).")

    def _others(self, node: ClusterNode) -> list[str]:
        return [other.name for other in self.nodes if other is not node]

    async def whole(self) -> None:
        """Returns once every node sees all nodes running."""
        for node in self.nodes:
            await self.joined(node)

    async def joined(self, node: ClusterNode) -> None:
        """Returns once this node sees all nodes running."""
        async with asyncio.timeout(FORMED_SECONDS):
            while len(await running_nodes(node)) < len(self.nodes):  # noqa: ASYNC110 - RabbitMQ tells no event
                await asyncio.sleep(POLL_SECONDS)


async def running_nodes(node: PrivateNode) -> list[str]:
    """The names of the running nodes as this one sees it; none while it does not answer."""
    try:
        status = json.loads(await node.rabbitmqctl("cluster_status", "--formatter", "json"))
    except NodeUnavailable:
        return []
    names: list[str] = status["running_nodes"]
    return names


@asynccontextmanager
async def private_cluster(
    size: int = 3, *, partitions: str = "autoheal", net_ticktime_seconds: int = 60
) -> AsyncIterator[Cluster]:
    """Runs a cluster for the time of the block. It leaves nothing behind, even if its owner is killed.

    `net_ticktime_seconds`: how long a silent node counts as running.
    """
    installation = Installation.chosen()
    installation.require()
    home = Path(tempfile.mkdtemp(prefix="private-rabbitmq-"))
    keeper = keep(home)
    _write_cookie(home)
    epmd_port = Ports.free().epmd
    epmd = _start_epmd(home, epmd_port, installation)
    nodes: list[ClusterNode] = []
    try:
        config = {PARTITIONS: partitions}
        for number in range(1, size + 1):
            name = f"r{number}-{epmd_port}@127.0.0.1"
            if nodes:
                config |= _joining(nodes[0].name, name)
            folder, ports = home / f"r{number}", Ports.free()
            folder.mkdir()
            furnish(folder, installation, settings_of(ports) | config)
            environment = environment_of(folder, ports, installation)
            environment |= _in_cluster(home, name, epmd_port, ports, net_ticktime_seconds)
            nodes.append(ClusterNode(folder, ports, environment))
        await nodes[0].start()
        async with asyncio.TaskGroup() as starting:
            for node in nodes[1:]:
                starting.create_task(node.start())
        cluster = Cluster(tuple(nodes))
        await cluster.whole()
        yield cluster
    finally:
        await asyncio.to_thread(keeper.communicate)
        for node in nodes:
            await node.stop()
        epmd.wait()


def _write_cookie(home: Path) -> None:
    cookie = home / ".erlang.cookie"
    cookie.touch(mode=0o600)
    cookie.write_text(secrets.token_hex())
    cookie.chmod(0o400)


def _start_epmd(home: Path, port: int, installation: Installation) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["epmd", "-port", str(port), "-address", "127.0.0.1"],
        env={"HOME": str(home), "PATH": installation.path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _joining(first: str, name: str) -> dict[str, str]:
    """The settings by which a node joins the first one."""
    formation = "cluster_formation"
    return {
        f"{formation}.peer_discovery_backend": "classic_config",
        f"{formation}.classic_config.nodes.1": first,
        f"{formation}.classic_config.nodes.2": name,
    }


def _in_cluster(
    home: Path, name: str, epmd_port: int, ports: Ports, net_ticktime_seconds: int
) -> dict[str, str]:
    kernel = f"-kernel inet_dist_use_interface {{127,0,0,1}} -kernel net_ticktime {net_ticktime_seconds}"
    return {
        "HOME": str(home),
        "RABBITMQ_NODENAME": name,
        "RABBITMQ_DIST_PORT": str(ports.distribution),
        "ERL_EPMD_PORT": str(epmd_port),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": kernel,
        "RABBITMQ_CTL_ERL_ARGS": "-dist_listen false",
    }
