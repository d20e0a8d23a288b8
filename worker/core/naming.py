"""How a department's subaccount is named at the provider, and the keys and tags derived from who it is."""

import base64
import hashlib
import re
import uuid
from dataclasses import dataclass
from functools import cache

from pydantic_core import to_json

from contracts.subaccounts import NAMESPACE
from worker.core.model import Department, Reference

TAG_LENGTH = 10
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_TO_CROCKFORD = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", _CROCKFORD.encode())


def department_tag(owner: str, department: Department, incarnation: int) -> str:
    """The mark in a subaccount's name by which it is found again: 10 characters of Crockford base32."""
    digest = hashlib.sha256(to_json([owner, department.tenant, department.id, incarnation])).digest()
    return base64.b32encode(digest[:TAG_LENGTH])[:TAG_LENGTH].translate(_TO_CROCKFORD).decode()


def idempotency_key(
    owner: str,
    department: Department,
    incarnation: int,
    operation: str,
    auth_id: str | None,
    event: Reference,
) -> str:
    """The same over retries, restarts and replays of one event's call: UUIDv5."""
    parts = [owner, department.tenant, department.id, incarnation, operation, auth_id, event.source, event.id]
    return str(uuid.uuid5(NAMESPACE, to_json(parts).decode()))


@dataclass(frozen=True, slots=True)
class NameTemplate:
    """`{name} [{tag}]`, and the provider's limit in characters. Raises `ValueError` where it cannot work."""

    text: str = "{name} [{tag}]"
    longest: int = 60

    def __post_init__(self) -> None:
        # Whole, not by format's grammar: what `{name!r}` or `{tag:12}` add would not be found again.
        if sorted(re.findall(r"\{[^{}]*\}|[{}]", self.text)) not in (["{name}", "{tag}"], ["{tag}"]):
            raise ValueError("must hold {tag} once, {name} once or not at all, and no other braces")
        if not self.text.isprintable():
            raise ValueError("must consist of printable characters")
        if self._room() < 1:
            raise ValueError(f"leaves no room for a name within {self.longest} characters")

    def _room(self) -> int:
        return self.longest - len(self.text.format(name="", tag="")) - TAG_LENGTH

    def render(self, name: str, tag: str) -> str:
        """The name to send: cut where it is too long, the tag never."""
        return self.text.format(name=name[: self._room()].rstrip(), tag=tag)

    def tag_in(self, sent_name: str) -> str | None:
        """The tag that stands in its place in a name read back from the provider, whoever's it is."""
        match = _pattern(self.text).fullmatch(sent_name)
        return match["tag"] if match else None

    def name_in(self, sent_name: str) -> str:
        """The name read back without its tag; whole where it bears none."""
        match = _pattern(self.text).fullmatch(sent_name)
        return match.groupdict().get("name", "") if match else sent_name

    def bears(self, sent_name: str, tag: str) -> bool:
        """Whether this tag stands in its place in a name read back from the provider."""
        return self.tag_in(sent_name) == tag


@cache
def _pattern(template: str) -> re.Pattern[str]:
    literal = re.escape(template.format(name="\0", tag="\1"))
    literal = literal.replace(re.escape("\0"), "(?P<name>.*)")
    return re.compile(literal.replace(re.escape("\1"), f"(?P<tag>[{_CROCKFORD}]{{{TAG_LENGTH}}})"), re.DOTALL)
