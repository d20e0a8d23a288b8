"""The name of a department's subaccount, the tag in that name, and the idempotency keys of its calls."""

import base64
import hashlib
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from pydantic_core import to_json

from contracts.subaccounts import NAMESPACE
from worker.core.decide import Delete, Step
from worker.core.model.causes import Cause, Reference
from worker.core.model.departments import Department
from worker.core.model.entry import Entry

TAG_LENGTH = 10
NO_EVENT = Reference("", "", "")
"""The reference if there is no event: for a recall of the entry alone, and for the key of a duty's call."""
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_TO_CROCKFORD = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", _CROCKFORD.encode())


def department_tag(owner: str, department: Department, incarnation: int) -> str:
    """The tag in a subaccount's name that identifies it: 10 characters of Crockford's base32.

    Source: https://www.crockford.com/base32.html
    """
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
    """A UUIDv5 (RFC 9562, 5.5); the same for all retries, restarts and replays of one event's call."""
    parts = [owner, department.tenant, department.id, incarnation, operation, auth_id, event.source, event.id]
    return str(uuid.uuid5(NAMESPACE, to_json(parts).decode()))


@dataclass(frozen=True, slots=True)
class NameTemplate:
    """The form of a subaccount's name; `longest` is the provider's limit in characters.

    Raises `ValueError` for a text without {tag}, or without room for a name.
    """

    text: str = "{name} [{tag}]"
    longest: int = 60

    def __post_init__(self) -> None:
        # Only plain fields: the additions of `{name!r}` or `{tag:12}` could not be parsed back.
        if sorted(re.findall(r"\{[^{}]*\}|[{}]", self.text)) not in (["{name}", "{tag}"], ["{tag}"]):
            raise ValueError("must hold {tag} once, {name} once or not at all, and no other braces")
        if not self.text.isprintable():
            raise ValueError("must consist of printable characters")
        if self._room() < 1:
            raise ValueError(f"leaves no room for a name within {self.longest} characters")

    def _room(self) -> int:
        return self.longest - len(self.text.format(name="", tag="")) - TAG_LENGTH

    def render(self, name: str, tag: str) -> str:
        """The name to send. A long name is cut, the tag never."""
        return self.text.format(name=name[: self._room()].rstrip(), tag=tag)

    def untagged(self, name: str) -> str:
        """The name to send for a subaccount without a tag. A long name is cut."""
        return name[: self.longest].rstrip()

    def tag_in(self, sent_name: str) -> str | None:
        """The tag of any deployment in a name from the provider; None without one."""
        match = _pattern(self.text).fullmatch(sent_name)
        return match["tag"] if match else None

    def name_in(self, sent_name: str) -> str:
        """A name from the provider without its tag, if it has one."""
        match = _pattern(self.text).fullmatch(sent_name)
        return match.groupdict().get("name", "") if match else sent_name

    def bears(self, sent_name: str, tag: str) -> bool:
        """Whether a name from the provider has this tag."""
        return self.tag_in(sent_name) == tag


@dataclass(frozen=True, slots=True)
class Names:
    """Derives the names, tags and idempotency keys of one deployment, `owner`."""

    owner: str
    template: NameTemplate

    def sent(self, name: str, entry: Entry) -> str:
        """The department's name as it is sent to the provider.

        A subaccount that keeps its name gets no tag, unless the new name would read as one.
        """
        untagged = self.template.untagged(name)
        if entry.keeps_name and self.template.tag_in(untagged) is None:
            return untagged
        return self.template.render(name, self.tag(entry))

    def on_record(self, entry: Entry) -> str:
        """The name of the subaccount on record, as the provider should show it."""
        return entry.kept_name or self.sent(entry.existing.name, entry)

    def bears_ours(self, sent_name: str, entry: Entry) -> bool:
        """Whether a name from the provider may be that of the subaccount on record, by its tag."""
        return entry.keeps_name or self.template.bears(sent_name, self.tag(entry))

    def tag(self, entry: Entry) -> str:
        """The tag of the entry's subaccount, in its incarnation."""
        return department_tag(self.owner, entry.department, entry.incarnation)

    def tags(self, department: Department, incarnations: range) -> Mapping[str, int]:
        """The department's tags, each with its incarnation."""
        return {department_tag(self.owner, department, number): number for number in incarnations}

    def key(self, step: Step, entry: Entry, event: Cause) -> str:
        """The idempotency key of the call that carries out this step for this event."""
        operation = type(step).__name__.lower()
        if isinstance(step, Delete) and step.cascade:
            operation += " cascade"
        return self._key(operation, entry, entry.auth_id, event.reference)

    def enabling_key(self, entry: Entry, auth_id: str, cause: Reference) -> str:
        """The key of the call that enables a subaccount once its credentials are published."""
        return self._key("enable", entry, auth_id, cause)

    def correction_key(self, finding: str, entry: Entry, auth_id: str, wish: Reference) -> str:
        """The key of the call that corrects a finding, the same at each try of the wish."""
        return self._key(f"correct {finding}", entry, auth_id, wish)

    def duty_key(self, duty: str, entry: Entry, auth_id: str) -> str:
        """The key of a call that no event asks for, the same at each try. Its cause is the event served."""
        claiming = entry.claim.event if entry.claim else None
        return self._key(duty, entry, auth_id, claiming or entry.newest or NO_EVENT)

    def _key(self, operation: str, entry: Entry, auth_id: str | None, cause: Reference) -> str:
        return idempotency_key(self.owner, entry.department, entry.incarnation, operation, auth_id, cause)


@cache
def _pattern(template: str) -> re.Pattern[str]:
    literal = re.escape(template.format(name="\0", tag="\1"))
    literal = literal.replace(re.escape("\0"), "(?P<name>.*)")
    return re.compile(literal.replace(re.escape("\1"), f"(?P<tag>[{_CROCKFORD}]{{{TAG_LENGTH}}})"), re.DOTALL)
