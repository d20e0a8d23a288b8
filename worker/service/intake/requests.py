"""The requests of the intake: who may send what, and what becomes of it.

The order is strict: size, content type, proof, rate, and only then the body is parsed. A fault of ours is
503, which every sender tries again; many senders never try again after a 4xx.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from aiohttp import web
from multidict import CIMultiDict
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from contracts import topology as names
from contracts.departments import DepartmentEvent
from contracts.envelope import STRUCTURED, Message, Mistake
from contracts.intake import EVENTS_PATH, PROFILE_PATH
from worker.core.intake.cloudevents import Broken, Mode, NotJson, TooMany, mode_of, read_events
from worker.core.intake.handshake import HandshakeAnswer, consent, handshake
from worker.core.intake.mapping import map_received
from worker.core.intake.profile import Handshakes, Profile, Unmappables
from worker.core.intake.proof import NotProven, verify
from worker.core.intake.received import Received
from worker.core.intake.unmapped import unmapped as kept
from worker.core.messages import Outgoing
from worker.operations.emit import inbound
from worker.ports import Clock
from worker.service.health import Response, health
from worker.service.intake.bodies import Bodies, check_length
from worker.service.intake.confirming import Confirming, NotConfirmed, Saturated
from worker.service.intake.rates import Rates
from worker.service.intake.replies import (
    Refused,
    Reply,
    accepted,
    mistaken,
    refused,
    try_again,
    unproven,
)
from worker.settings.sources import Secrets, SecretsMissing, Source
from worker.settings.tokens import Tokens
from worker.telemetry.events import Telemetry
from worker.telemetry.metrics import Refusal

MAX_IN_FLIGHT = 500
"""Requests whose body was read and that have no response yet."""
ANYBODY = "anybody"
"""The sender of CloudEvents where no tokens are set."""
ENDING = "the intake is ending"
_PROBES = ("/livez", "/readyz", "/metrics")
_HANDSHAKE_METHODS = {"OPTIONS": Handshakes.CLOUDEVENTS, "GET": Handshakes.OKTA}


class Requests:
    """Answers requests. The body of each one counts in `bodies` until it is answered.

    `answering` requests are under way, and `in_flight` of them have their body; `idle` is set while there are
    none. Once `ending` is true, each connection is closed after its response.
    """

    def __init__(
        self,
        *,
        confirming: Confirming,
        tokens: Tokens | None,
        sources: Mapping[str, Source],
        secrets: Mapping[str, Secrets],
        rates: Rates,
        bodies: Bodies,
        clock: Clock,
        telemetry: Telemetry,
        registry: CollectorRegistry,
    ) -> None:
        self.in_flight = 0
        self.answering = 0
        self.ending = False
        self.idle = asyncio.Event()
        self.idle.set()
        self._confirming = confirming
        self._tokens = tokens
        self._sources = sources
        self._secrets = secrets
        self._rates = rates
        self._bodies = bodies
        self._clock = clock
        self._telemetry = telemetry
        self._registry = registry

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answers one request; a handler of aiohttp's server."""
        self.answering += 1
        self.idle.clear()
        try:
            reply = await self._reply(request)
        finally:
            self.answering -= 1
            if not self.answering:
                self.idle.set()
        headers = CIMultiDict(_EVERY)
        headers.update(reply.headers)
        if reply.content_type is not None:
            headers["Content-Type"] = reply.content_type
        response = web.Response(status=reply.status, body=reply.body or None, headers=headers)
        if self.ending or reply.headers.get("Connection") == "close":
            response.force_close()
        return response

    async def problems(self) -> list[str]:
        """One line for each reason why no event could be accepted now. Empty when ready."""
        return [ENDING] if self.ending else await self._confirming.problems()

    async def _reply(self, request: web.BaseRequest) -> Reply:
        try:
            return await self._routed(request)
        except Refused as error:
            refusal = error
        except web.RequestPayloadError:
            refusal = refused(400, Refusal.UNREADABLE, "the body cannot be read: its chunks are malformed")
        except ConnectionError:  # the sender has left before its body was there
            raise
        except Exception as error:  # noqa: BLE001 - a bug must not take what it says to the sender or the log
            self._telemetry.step_crashed(error)
            refusal = try_again(503, Refusal.CRASHED, "an error of the intake; try again")
        told = {"path": request.path} if refusal.cause is not Refusal.UNKNOWN_PATH else {}
        self._telemetry.intake_refused(
            refusal.cause, refusal.detail, self._clock.monotonic(), refusal.sender, **told
        )
        return refusal.reply

    async def _routed(self, request: web.BaseRequest) -> Reply:
        path = request.path if request.path == "/" else request.path.rstrip("/")
        if path == EVENTS_PATH:
            return await self._events(request)
        if path in _PROBES:
            return await self._probe(request, path)
        name = path.removeprefix(PROFILE_PATH)
        source = self._sources.get(name) if path.startswith(PROFILE_PATH) else None
        if source is None or not source.is_enabled:
            raise refused(404, Refusal.UNKNOWN_PATH, "there is nothing at this path")
        return await self._foreign(request, source.profile)

    async def _probe(self, request: web.BaseRequest, path: str) -> Reply:
        if request.method not in {"GET", "HEAD"}:
            raise _not_allowed("GET, HEAD")
        match path:
            case "/livez":
                response = health("alive", "not alive", [])
            case "/readyz":
                response = health("ready", "not ready", await self.problems())
            case _:
                response = Response(200, CONTENT_TYPE_LATEST, generate_latest(self._registry))
        return Reply(response.status, response.body, response.content_type)

    async def _events(self, request: web.BaseRequest) -> Reply:
        """CloudEvents of those who have a token."""
        if request.method == "OPTIONS":
            return _shaken(consent(_lowered(request), self._rates.per_minute))
        if request.method != "POST":
            raise _not_allowed("POST, OPTIONS")
        check_length(request)
        content_type = request.headers.get("Content-Type")
        try:
            mode = self._mode(request, content_type)
            sender = self._token_name(request)
        except Refused:
            if request.content_length is None:  # the size comes first
                await self._bodies.measure(request)
            raise
        async with self._bodies.of(request) as body, _InFlight(self, sender):
            self._admit(sender)
            events, documents = _posted(mode, content_type, request, body, sender)
            messages = [_outgoing(event, document) for event, document in zip(events, documents, strict=True)]
            seconds = await self._publish(messages, sender)
        self._taken(sender, events, seconds)
        return accepted(202, events)

    def _mode(self, request: web.BaseRequest, content_type: str | None) -> Mode:
        _refuse_encoded(request)
        mode = mode_of(content_type, request.headers.items())
        if mode is None:
            raise refused(
                415,
                Refusal.CONTENT_TYPE,
                "send application/cloudevents+json, application/cloudevents-batch+json, or application/json"
                " with ce- headers",
            )
        return mode

    def _token_name(self, request: web.BaseRequest) -> str:
        if self._tokens is None:
            return ANYBODY
        given = request.headers.getall("Authorization", [])
        if len(given) > 1:
            raise unproven("two-headers")
        try:
            token = self._tokens.prove(given[0] if given else None)
        except NotProven as error:
            raise unproven(error.cause) from None
        self._telemetry.secret_used(token.name, token.place)
        return token.name

    async def _foreign(self, request: web.BaseRequest, profile: Profile) -> Reply:
        """A payload that a profile maps, or a handshake of its sender."""
        if request.method != "POST":
            answer = handshake(
                profile,
                request.method,
                _lowered(request),
                request.query,
                b"",
                per_minute=self._rates.per_minute,
            )
            if answer is None or answer.needs_proof:
                raise _not_allowed(", ".join(_methods(profile)))
            return _shaken(answer)
        check_length(request)
        try:
            _refuse_encoded(request)
        except Refused:
            if request.content_length is None:
                await self._bodies.measure(request)
            raise
        async with self._bodies.of(request) as body, _InFlight(self, profile.source):
            return await self._taken_by(profile, request, body)

    async def _taken_by(self, profile: Profile, request: web.BaseRequest, body: bytes) -> Reply:
        sender = profile.source
        received = Received(body, _lowered(request), self._clock.now())
        answer = handshake(
            profile,
            "POST",
            received.headers,
            request.query,
            body,
            per_minute=self._rates.per_minute,
        )
        if answer is not None and not answer.needs_proof:
            return _shaken(answer)
        self._prove(profile, received)
        if answer is not None:
            return _shaken(answer)
        self._admit(sender)
        mapped = map_received(profile, received)
        unmapped = mapped.unmappable
        if unmapped and profile.on_unmappable is Unmappables.REJECT:
            raise mistaken(
                422, Refusal.INVALID, list(_unmapped_mistakes(unmapped)), sender, "; ".join(unmapped[:3])
            )
        messages = [inbound(event) for event in mapped.events]
        if unmapped:
            messages.append(kept(profile, received, unmapped))
        seconds = await self._publish(messages, sender)
        self._taken(sender, mapped.events, seconds, ignored=mapped.ignored, unmapped=unmapped)
        return accepted(profile.answer, mapped.events, ignored=mapped.ignored, unmapped=len(unmapped))

    def _prove(self, profile: Profile, received: Received) -> None:
        secrets = self._secrets.get(profile.name)
        try:
            place = verify(profile.auth, secrets.current() if secrets else (), received)
        except NotProven as error:
            raise unproven(error.cause, profile.source) from None
        except SecretsMissing as error:
            refusal = try_again(503, Refusal.UNPROVABLE, "the secret cannot be read; try again")
            raise Refused(refusal.reply, refusal.cause, str(error), profile.source) from None
        if secrets is not None:
            self._telemetry.secret_used(profile.source, place + 1)

    def _admit(self, sender: str) -> None:
        if seconds := self._rates.wait_seconds(sender):
            raise try_again(429, Refusal.RATE, "too many requests", seconds=seconds, sender=sender)

    async def _publish(self, messages: Sequence[Outgoing], sender: str) -> float:
        """Returns the seconds until the last confirm; raises `Refused`."""
        began = self._clock.monotonic()
        try:
            await self._confirming.publish(messages)
        except Saturated:
            raise try_again(503, Refusal.BUSY, "too many messages are unconfirmed", sender=sender) from None
        except NotConfirmed as error:
            refusal = try_again(503, Refusal.UNCONFIRMED, "not accepted by the broker; try again")
            raise Refused(refusal.reply, refusal.cause, str(error), sender) from None
        return self._clock.monotonic() - began

    def _taken(
        self,
        sender: str,
        events: Sequence[DepartmentEvent],
        seconds: float,
        *,
        ignored: int = 0,
        unmapped: Sequence[str] = (),
    ) -> None:
        self._telemetry.intake_taken(
            sender,
            [event.id for event in events],
            ignored=ignored,
            unmapped=unmapped,
            now=self._clock.now(),
            confirm_seconds=seconds,
        )


_EVERY = {"X-Content-Type-Options": "nosniff", "Server": "provisioner"}


class _InFlight:
    """A request whose body was read, for the time of the block. Raises `Refused` if there are too many."""

    def __init__(self, requests: Requests, sender: str) -> None:
        self._requests = requests
        self._sender = sender

    async def __aenter__(self) -> None:
        if self._requests.in_flight >= MAX_IN_FLIGHT:
            raise try_again(503, Refusal.BUSY, "too many requests are in flight", sender=self._sender)
        self._requests.in_flight += 1

    async def __aexit__(self, *_error: object) -> None:
        self._requests.in_flight -= 1


def _posted(
    mode: Mode, content_type: str | None, request: web.BaseRequest, body: bytes, sender: str
) -> tuple[Sequence[DepartmentEvent], Sequence[bytes]]:
    try:
        posted = read_events(mode, content_type, request.headers.items(), body)
    except NotJson as error:
        wrong = [(0, Mistake("body", str(error)))]
        raise mistaken(400, Refusal.NOT_JSON, wrong, sender, "the body is not JSON") from None
    except TooMany as error:
        raise refused(413, Refusal.TOO_LARGE, str(error), sender=sender) from None
    except Broken as error:
        known = f"{len(error.mistakes)} mistakes"
        raise mistaken(422, Refusal.INVALID, error.mistakes, sender, known) from None
    return [each.event for each in posted], [each.document for each in posted]


def _outgoing(event: DepartmentEvent, document: bytes) -> Outgoing:
    """The event as it was sent, in structured mode."""
    return Outgoing(names.DEPARTMENTS, f"department.{event.kind}", Message(document, STRUCTURED))


def _unmapped_mistakes(reasons: Sequence[str]) -> Iterator[tuple[int, Mistake]]:
    for index, reason in enumerate(reasons):
        field, colon, error = reason.partition(": ")
        yield index, Mistake(field, error) if colon else Mistake("body", reason)


def _refuse_encoded(request: web.BaseRequest) -> None:
    encoding = request.headers.get("Content-Encoding", "").strip().lower()
    if encoding not in {"", "identity"}:
        raise refused(415, Refusal.CONTENT_TYPE, "send the body without Content-Encoding")


def _methods(profile: Profile) -> list[str]:
    more = [method for method, kind in _HANDSHAKE_METHODS.items() if kind in profile.handshakes]
    return ["POST", *more]


def _not_allowed(methods: str) -> Refused:
    return refused(405, Refusal.METHOD, f"the methods of this path are {methods}", headers={"Allow": methods})


def _shaken(answer: HandshakeAnswer) -> Reply:
    return Reply(answer.status, answer.body, answer.content_type, answer.headers)


def _lowered(request: web.BaseRequest) -> dict[str, str]:
    """The headers under names in lower case; values of one name are joined (RFC 9110, section 5.3)."""
    found: dict[str, Any] = {}
    for name, value in request.headers.items():
        key = name.lower()
        found[key] = f"{found[key]}, {value}" if key in found else value
    return found
