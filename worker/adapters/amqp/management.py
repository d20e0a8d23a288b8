"""Checks bindings, arguments, and policies that override them; AMQP shows no bindings and no policies.

Reads RabbitMQ's management API, which is a plugin, and writes nothing. See
https://www.rabbitmq.com/docs/management#http-api
"""

import re
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, Field, SecretStr, TypeAdapter, ValidationError
from yarl import URL

from contracts.topology import Binding, BrokerVersion, Exchange, Queue, Topology
from worker.adapters.amqp.topology import NO_ALTERNATE, TO_MAKE_IT, Finding
from worker.adapters.network import cause_of
from worker.core.losses import in_effect, losses
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


class _Queue(BaseModel):
    name: str


class _Depth(BaseModel):
    unacked: int = Field(alias="messages_unacknowledged")


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

    def fits(self, name: str, kinds: Container[str]) -> bool:
        """Whether the policy applies to an object of that name; `kinds`: what it may be applied to."""
        return self.apply_to in kinds and bool(re.search(self.pattern, name))


class _Object(BaseModel):
    name: str
    arguments: dict[str, Any]


QUEUE_KINDS = frozenset({"all", "queues", "quorum_queues"})
EXCHANGE_KINDS = frozenset({"all", "exchanges"})
ALTERNATE = "alternate-exchange"


@dataclass(frozen=True)
class InEffect:
    """The state in effect at the broker, as its management API shows it."""

    bindings: Sequence[_Binding]
    policies: Sequence[_Policy]
    operator_policies: Sequence[_Policy]
    queues: Mapping[str, Mapping[str, Any]]
    exchanges: Mapping[str, Mapping[str, Any]]

    def arguments(self, queue: str, broker: BrokerVersion) -> Mapping[str, Any]:
        """The arguments of a queue together with its policies; those of a missing queue are empty."""
        whole = self.queues.get(queue, {})
        for policy in self._policies_of(queue):
            whole = in_effect(whole, policy.definition, broker)
        return whole

    def adapted(self, topology: Topology) -> Topology:
        """The topology without the arguments of exchanges that a policy gives the same alternate exchange.

        A declaration with that argument would be refused.
        """
        return replace(topology, exchanges=tuple(map(self._adapted, topology.exchanges)))

    def _adapted(self, exchange: Exchange) -> Exchange:
        wanted, given = exchange.arguments.get(ALTERNATE), self.exchanges.get(exchange.name, {})
        by_policy = wanted is not None and ALTERNATE not in given and self._alternate(exchange.name) == wanted
        return replace(exchange, arguments={}) if by_policy else exchange

    def _alternate(self, exchange: str) -> object:
        given = self.exchanges.get(exchange, {}).get(ALTERNATE)
        return given or _definition(self.policies, exchange, EXCHANGE_KINDS).get(ALTERNATE)

    def findings(self, topology: Topology, broker: BrokerVersion) -> list[Finding]:
        """Bindings, missing objects, what loses messages, and policies that change a queue."""
        return [
            *_compare_bindings(self.bindings, topology),
            *chain.from_iterable(self._about_queue(queue, broker) for queue in topology.queues),
            *chain.from_iterable(self._about_exchange(exchange) for exchange in topology.exchanges),
        ]

    def _about_queue(self, queue: Queue, broker: BrokerVersion) -> Iterator[Finding]:
        if queue.name not in self.queues:
            yield Finding("queue", queue.name, "missing", TO_MAKE_IT)
            return
        policies, whole = self._policies_of(queue.name), self.arguments(queue.name, broker)
        by_argument, lost = losses(queue, self.queues[queue.name], broker), losses(queue, whole, broker)
        if here := [line for line in lost if line in by_argument]:
            yield Finding("queue", queue.name, "differs", "; ".join(here), loses=True)
        worse = [line for line in lost if line not in by_argument]
        for policy in policies:
            if harmful := sorted(HARMFUL_KEYS & policy.definition.keys()):
                detail = "; ".join([f"policy {policy.name} sets {', '.join(harmful)}", *worse])
                yield Finding("policy", queue.name, "differs", detail, loses=bool(worse))

    def _policies_of(self, queue: str) -> Sequence[_Policy]:
        """The policies in effect on a queue: at most one of users, and one of operators."""
        both = (_in_force(each, queue, QUEUE_KINDS) for each in (self.policies, self.operator_policies))
        return [policy for policy in both if policy]

    def _about_exchange(self, exchange: Exchange) -> Iterator[Finding]:
        if exchange.name not in self.exchanges:
            yield Finding("exchange", exchange.name, "missing", TO_MAKE_IT)
        elif (wanted := exchange.arguments.get(ALTERNATE)) and self._alternate(exchange.name) != wanted:
            yield Finding("exchange", exchange.name, "differs", NO_ALTERNATE, loses=True)


async def read_in_effect(url: SecretStr, vhost: str) -> InEffect:
    """Reads what is in effect in a virtual host. Raises `ManagementUnavailable`."""
    place = quote(vhost, safe="")
    return InEffect(
        await _read(url, f"api/bindings/{place}", list[_Binding]),
        await _read(url, f"api/policies/{place}", list[_Policy]),
        await _read(url, f"api/operator-policies/{place}", list[_Policy]),
        await _arguments(url, f"api/queues/{place}"),
        await _arguments(url, f"api/exchanges/{place}"),
    )


async def _arguments(url: SecretStr, path: str) -> dict[str, Mapping[str, Any]]:
    found = await _read(url, f"{path}?columns=name,arguments", list[_Object])
    return {one.name: one.arguments for one in found}


async def queue_names(url: SecretStr, vhost: str) -> list[str]:
    """The names of all queues of a virtual host; raises `ManagementUnavailable`."""
    place = quote(vhost, safe="")
    return [one.name for one in await _read(url, f"api/queues/{place}?columns=name", list[_Queue])]


async def unacked(url: SecretStr, vhost: str, queue: str) -> int:
    """The messages of a queue that its consumers hold unacked; raises `ManagementUnavailable`."""
    place = f"{quote(vhost, safe='')}/{quote(queue, safe='')}"
    return (await _read(url, f"api/queues/{place}?columns=messages_unacknowledged", _Depth)).unacked


async def server_date(url: SecretStr) -> str | None:
    """The `Date` header of a response of the broker; None without one. Raises `ManagementUnavailable`."""
    _, date = await _response(url, "api/whoami")
    return date


async def _read(url: SecretStr, path: str, shape: type[T]) -> T:
    body, _ = await _response(url, path)
    try:
        return TypeAdapter(shape).validate_json(body)
    except ValidationError:
        shown = URL(url.get_secret_value()).with_user(None)
        raise ManagementUnavailable(f"{shown} answers, but not as RabbitMQ's management API does") from None


async def _response(url: SecretStr, path: str) -> tuple[bytes, str | None]:
    """The body and the `Date` header of a response. Raises `ManagementUnavailable`."""
    import aiohttp  # noqa: PLC0415 - a quarter of the start of each command, and few ask this API

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
                return await response.read(), response.headers.get("Date")
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        why = getattr(error, "message", "") or cause_of(error) or f"no answer within {TIMEOUT_SECONDS} s"
        raise ManagementUnavailable(f"RabbitMQ's management API at {shown} cannot be read: {why}") from None


def _compare_bindings(found: Sequence[_Binding], topology: Topology) -> list[Finding]:
    ours = {queue.name for queue in topology.queues}
    there = {
        Binding(one.source, one.destination, one.routing_key)
        for one in found
        if one.destination_type == "queue" and one.destination in ours and one.source != DEFAULT_EXCHANGE
    }
    wanted = set(topology.bindings)
    missing = [
        Finding("binding", _shown(one), "missing", TO_MAKE_IT)
        for one in topology.bindings
        if one not in there
    ]
    extra = [
        Finding("binding", _shown(one), "differs", "not of this project: unbind it")
        for one in sorted(there - wanted, key=_shown)
    ]
    good = [Finding("binding", _shown(one), "ok") for one in topology.bindings if one in there]
    return good + missing + extra


def _definition(policies: Sequence[_Policy], name: str, kinds: Container[str]) -> Mapping[str, Any]:
    policy = _in_force(policies, name, kinds)
    return policy.definition if policy else {}


def _in_force(policies: Sequence[_Policy], name: str, kinds: Container[str]) -> _Policy | None:
    """The policy in effect: of those that match an object, the one with the highest priority."""
    fitting = [policy for policy in policies if policy.fits(name, kinds)]
    return max(fitting, key=lambda policy: policy.priority, default=None)


def _shown(binding: Binding) -> str:
    return f"{binding.exchange} → {binding.queue} ({binding.routing_key})"
