"""Changes at a test's broker over its management API: each `rabbitmqctl` takes a second of CPU time."""

from typing import Any

import aiohttp
from yarl import URL

from worker.demo.private_node import PrivateNode


async def put(node: PrivateNode, place: str, **content: Any) -> None:
    """Makes or changes the object at this place below /api/, whose parts are percent-encoded."""
    await _call("PUT", node, place, content)


async def delete(node: PrivateNode, place: str) -> None:
    """Removes the object at this place."""
    await _call("DELETE", node, place, None)


async def _call(method: str, node: PrivateNode, place: str, content: dict[str, Any] | None) -> None:
    url = URL(f"{node.management_url}/api/{place}", encoded=True)
    async with (
        aiohttp.ClientSession(raise_for_status=True) as http,
        http.request(method, url, json=content),
    ):
        return
