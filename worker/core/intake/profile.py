"""A source profile: how to prove that a foreign payload is authentic, and how to map it to events."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from worker.core.intake.expressions import Expression
from worker.core.intake.pages import Pages

SECRET_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie"})
"""No expression sees them."""


EXPRESSIONS: Mapping[str, str] = {
    "each": "each",
    "ignore": "ignore",
    "removed_when": "removed_when",
    "id": "id",
    "name": "department_name",
    "parent": "parent",
    "tenant": "tenant",
    "time": "time",
    "sequence": "sequence",
    "event_id": "event_id",
    "cause": "cause",
}
"""The field of `Profile` for each key that is an expression."""


class ProfileInvalid(ValueError):
    """The profile has mistakes: `lines` has one `key: reason` for each. No line shows a secret."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = tuple(lines)


class Algorithm(StrEnum):
    """The hash of an HMAC."""

    SHA1 = "sha1"
    SHA256 = "sha256"
    SHA512 = "sha512"


class Encoding(StrEnum):
    """The spelling of a signature."""

    HEX = "hex"
    BASE64 = "base64"
    BASE64URL = "base64url"


class TimeFormat(StrEnum):
    """The spelling of `time`. Numbers may be text; `epoch-ms` also reads `/Date(ms)/` of OData."""

    RFC3339 = "rfc3339"
    DATE = "date"
    EPOCH_S = "epoch-s"
    EPOCH_MS = "epoch-ms"


class Unmappables(StrEnum):
    """The fate of an authentic payload that cannot be mapped: kept in a queue, or refused."""

    KEEP = "keep"
    REJECT = "reject"


class Handshakes(StrEnum):
    """The handshakes that senders begin; see `worker/core/intake/handshake.py`."""

    CLOUDEVENTS = "cloudevents"
    OKTA = "okta"
    EVENT_GRID = "event-grid"
    URL_VERIFICATION = "url-verification"
    GRAPH = "graph"


@dataclass(frozen=True, slots=True)
class Hmac:
    """The body is signed with a shared secret. Header names are in lower case.

    `signed` is what is signed: literals, and `{id}`, `{timestamp}`, `{body}`.
    """

    secret_file: str
    header: str
    algorithm: Algorithm = Algorithm.SHA256
    encoding: Encoding = Encoding.HEX
    prefix: str = ""
    signed: tuple[str, ...] = ("{body}",)
    timestamp_header: str | None = None
    id_header: str | None = None
    tolerance: timedelta = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Bearer:
    """The sender knows a token: in a header, or with `field` in the body."""

    secret_file: str
    header: str = "authorization"
    prefix: str = ""
    field: Expression | None = None


@dataclass(frozen=True, slots=True)
class NoProof:
    """Anybody may send: on loopback only."""


Auth = Hmac | Bearer | NoProof


@dataclass(frozen=True, slots=True)
class Sample:
    """A payload, and the events that it must map to: of each the given members are compared.

    `ignored` is the number of its items that must be ignored, None if that is not compared.
    """

    body: bytes
    events: tuple[Mapping[str, Any], ...]
    headers: Mapping[str, str]
    at: datetime
    ignored: int | None = None
    unmapped: int = 0


@dataclass(frozen=True, slots=True)
class Profile:
    """A parsed profile. Optional expressions are None where the document has none."""

    name: str
    auth: Auth
    id: Expression
    department_name: Expression
    samples: tuple[Sample, ...]
    handshakes: frozenset[Handshakes] = frozenset()
    each: Expression | None = None
    ignore: Expression | None = None
    removed_when: Expression | None = None
    parent: Expression | None = None
    tenant: Expression | None = None
    time: Expression | None = None
    time_format: TimeFormat = TimeFormat.RFC3339
    sequence: Expression | None = None
    event_id: Expression | None = None
    cause: Expression | None = None
    answer: int = 202
    on_unmappable: Unmappables = Unmappables.KEEP
    pages: Pages | None = None

    @property
    def expressions(self) -> Mapping[str, Expression]:
        """The expressions by their keys in the document."""
        found = {key: getattr(self, field) for key, field in EXPRESSIONS.items()}
        return {key: expression for key, expression in found.items() if expression is not None}

    @property
    def headers_read(self) -> frozenset[str]:
        """The headers that the expressions name, and those that are signed."""
        named = [expression.headers or frozenset() for expression in self.expressions.values()]
        return frozenset().union(*named, covered_headers(self.auth) or ())

    @property
    def source(self) -> str:
        """The `source` of the profile's events."""
        return f"/in/{self.name}"

    @property
    def needs_loopback(self) -> bool:
        """Whether nothing proves the sender."""
        return isinstance(self.auth, NoProof)

    @property
    def secret_file(self) -> str | None:
        """The file of the secrets, relative to that of the profile; None without a proof."""
        return None if isinstance(self.auth, NoProof) else self.auth.secret_file


def hidden_headers(auth: Auth) -> frozenset[str]:
    """The headers that no expression sees although the proof covers them: they hold secrets."""
    return SECRET_HEADERS | ({auth.header} if isinstance(auth, Bearer) else frozenset())


def covered_headers(auth: Auth) -> frozenset[str] | None:
    """The headers that the proof covers; None for all. A signature covers those signed with the body."""
    if not isinstance(auth, Hmac):
        return None
    covered = {"{timestamp}": auth.timestamp_header, "{id}": auth.id_header}
    return frozenset(header for part, header in covered.items() if part in auth.signed and header)
