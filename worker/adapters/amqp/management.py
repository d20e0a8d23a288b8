"""Checks bindings, and policies that override the arguments of a queue; AMQP shows neither.

Reads RabbitMQ's management API, which is a plugin, and writes nothing. See
https://www.rabbitmq.com/docs/management#http-api
"""

import re
from collections.abc import Sequence
from typing import Any, TypeVar
from urllib.parse import quote

import aiohttp
from pydantic import BaseModel, Field, SecretStr, TypeAdapter, ValidationError
from yarl import URL

from contracts.topology import Binding, Topology
from worker.adapters.amqp.topology import Finding
from worker.adapters.network import cause_of
from worker.ports import UserError

T = TypeVar("T")

TIMEOUT_SECONDS = 10
DEFAULT_EXCHANGE = ""

# Policy keys that could drop, expire or redirect our messages.
HARMFUL_KEYS = frozenset(
    {
        "dead-letter-exchange",
        "dead-letter-routing-key",
        "delivery-limit",
        "expires",
        "max-length",
        "max-length-bytes",
        "message-ttl",
        "overflow",
    }
)


class ManagementUnavailable(UserError):
    """The management API cannot be read."""


class _Binding(BaseModel):
    source: str
    destination: str
    destination_type: str
    routing_key: str


class _Policy(BaseModel):
    name: str
    pattern: str
    apply_to: str = Field(alias="apply-to")
    priority: int
    definition: dict[str, Any]

    def fits(self, queue: str) -> bool:
        """Whether the policy applies to a queue of that name."""
        return self.apply_to in {"all", "queues", "quorum_queues"} and bool(re.search(self.pattern, queue))


async def check_in_effect(url: SecretStr, vhost: str, topology: Topology) -> list[Finding]:
    """Reports missing and unexpected bindings, and policies that change our queues.

    Raises `ManagementUnavailable`.
    """
    place = quote(vhost, safe="")
    findings = _compare_bindings(await _read(url, f"api/bindings/{place}", list[_Binding]), topology)
    for kind in ("policies", "operator-policies"):
        policies = await _read(url, f"api/{kind}/{place}", list[_Policy])
        findings += [finding for queue in topology.queues for finding in _harm(policies, queue.name)]
    return findings


async def _read(url: SecretStr, path: str, shape: type[T]) -> T:
    address = URL(url.get_secret_value())
    shown = address.with_user(None)
    headers = {}
    if address.user is not None:
        headers["Authorization"] = aiohttp.encode_basic_auth(address.user, address.password or "")
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    try:
        async with aiohttp.ClientSession(timeout=timeout, raise_for_status=True) as http:
            target = URL(f"{str(shown).rstrip('/')}/{path}", encoded=True)
            async with http.get(target, headers=headers) as response:
                return TypeAdapter(shape).validate_json(await response.read())
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        why = getattr(error, "message", "") or cause_of(error) or f"no answer within {TIMEOUT_SECONDS} s"
        raise ManagementUnavailable(f"RabbitMQ's management API at {shown} cannot be read: {why}") from None
    except ValidationError:
        raise ManagementUnavailable(f"{shown} answers, but not as RabbitMQ's management API does") from None


def _compare_bindings(found: Sequence[_Binding], topology: Topology) -> list[Finding]:
    ours = {queue.name for queue in topology.queues}
    there = {
        Binding(one.source, one.destination, one.routing_key)
        for one in found
        if one.destination_type == "queue" and one.destination in ours and one.source != DEFAULT_EXCHANGE
    }
    wanted = set(topology.bindings)
    missing = [
        Finding("binding", _shown(one), "missing", "run `provisioner topology apply`")
        for one in topology.bindings
        if one not in there
    ]
    extra = [
        Finding("binding", _shown(one), "differs", "not of this project: unbind it")
        for one in sorted(there - wanted, key=_shown)
    ]
    good = [Finding("binding", _shown(one), "ok") for one in topology.bindings if one in there]
    return good + missing + extra


def _harm(policies: Sequence[_Policy], queue: str) -> list[Finding]:
    """Checks the policy in effect: of those that match a queue, the one with the highest priority."""
    fitting = [policy for policy in policies if policy.fits(queue)]
    if not fitting:
        return []
    policy = max(fitting, key=lambda policy: policy.priority)
    harmful = sorted(HARMFUL_KEYS & policy.definition.keys())
    if not harmful:
        return []
    return [Finding("policy", queue, "differs", f"policy {policy.name} sets {', '.join(harmful)}")]


def _shown(binding: Binding) -> str:
    return f"{binding.exchange} → {binding.queue} ({binding.routing_key})"
