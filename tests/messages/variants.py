"""Events as careless producers write them: from valid ones, with hard values in some places."""

import json
import random
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

KINDS = {
    "created": ("created",),
    "renamed": ("renamed", "updated"),
    "removed": ("removed", "deleted"),
}
_SPACES = [
    "",
    "",
    "",
    " ",
    "\t",
    "\n",
    "\r\n",
    "\x0b",
    "\x85",
    "\u00a0",
    "\u2003",
    "\u2028",
    "\u3000",
    "\x1c",
]
_CHARACTERS = [
    *("a", "Z", "7", "-", "_", ".", "/", " ", "  ", "\t", "\n", "\x00", "\x1b", "\x1f", "\x7f", "\x85"),
    *(
        "\x9f",
        "\u00a0",
        "\u00ad",
        "\u00e9",
        "e\u0301",
        "\u0301",
        "a\u0323\u0307",
        "\u034f",
        "\u0378",
        "\u0600",
    ),
    *("\u061c", "\u06dd", "\u0958", "\u115f", "\u1100\u1161\u11a8", "\u17b4", "\u180e", "\u200b", "\u200d"),
    *("\u200e", "\u2028", "\u2029", "\u202e", "\u2060", "\u2065", "\u206f", "\u2126", "\u212b", "\u2800"),
    *("\u3000", "\u3164", "\u4e2d", "\uac00", "\ue000", "\uf900", "\ufb1d", "\ufdfa", "\ufdd0", "\ufe0f"),
    *("\ufeff", "\uffa0", "\ufff0", "\ufff9", "\ufffc", "\ufffd", "\uffff", "\U00010348", "\U000110bd"),
    *("\U00013430", "\U0001343f", "\U0001d159", "\U0001d15e", "\U0001d173", "\U0001f469", "\U0002f800"),
    *("\U000e0001", "\U000e0020", "\U000e0100", "\U000f0000", "\U0010ffff"),
]
_LENGTHS = [0, 1, 2, 127, 128, 129, 200, 255, 256, 257, 512, 1023, 1024, 1025]
_DATES = [
    *("2026-11-21", "2024-02-29", "2023-02-29", "2026-04-31", "2026-13-01", "2026-00-10", "2026-01-32"),
    *("0000-01-01", "0001-01-01", "9999-12-31", "26-11-21", "2026-1-2", "2026/11/21", "20261121"),
]
_SEPARATORS = ["T", "T", "T", "t", " ", "  ", "_", ""]
_CLOCKS = [
    *("08:30:00", "08:30", "08:30:60", "23:59:60", "24:00:00", "24:00", "25:00:00", "08:60:00", "08:30:61"),
    *("08:30:00.5", "08:30:60.5", "08:30:00.123456789", "08:30:00,5", "08:30:00.", "8:30", "0830", "08:30:0"),
]
_OFFSETS = [
    *("Z", "Z", "z", "+00:00", "-00:00", "+0000", "+00", "+05:45", "+23:59", "-23:59", "+24:00", "+0560"),
    *("", " Z", " +0000", "UTC", "+1", "+123", "Z ", "Z\n", "+\u0660\u0660:00"),
]
_OTHER_TIMES = [
    "",
    "now",
    "1795000000",
    "1795000000000",
    "/Date(1795000000000)/",
    "Sat, 21 Nov 2026 08:30:00 GMT",
]
_NUMBERS: list[Any] = [
    *(0, 1, -1, 7, 7.0, 7.5, 1e2, 1e-7, -0.0, 2**53, 2**63, 2**64, 10**18, 10**19, 10**20 - 1, 10**20, 1e20),
    *(10**127 - 1, 10**127, 1e127, 10**128 - 1, 10**128, 1e128, -(10**127) + 1, -(10**127), 1e300, 67610),
]
_OTHERS: list[Any] = [True, False, None, [], {}, [1], {"a": None}, ["a"]]
_SEQUENCE_TEXTS = [
    *("0", "7", "007", "9" * 20, "0" * 40 + "9" * 20, "1" * 21, "-1", "-0", "+7", "7.0", "1e2", " 7", "7\n"),
    *("", "0x7", "\u0667", "1_000", "seven", "01J9ZK3V5Q"),
]
_TYPE_WORDS = ["created", "renamed", "removed", "updated", "deleted", "create", "Created", "merged", ""]
_TYPE_PREFIXES = ["", "", "com.example.hr.", "my_hr.", "a-b.C9.", ".", "com..", "com.example", "é."]
_TYPE_ENDS = ["", ".v1", ".v1", ".v2", ".V1", "\n", ".v1 "]
_CAUSES = ["deleted", "merged", "deactivated", "Deleted", "sold", "", "deleted ", 1]


class Variants:
    """A stream of events; the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def event(self) -> dict[str, Any]:
        """An event with up to four hard places; `null`, wrong types and missing members among them."""
        kind = self._one(list(KINDS))
        event = self._valid(kind)
        for _ in range(self._one([0, 1, 1, 1, 2, 2, 4])):
            place = self._one(_PLACES)
            if place.startswith("data.") and isinstance(event.get("data"), dict):
                self._change(event["data"], place.removeprefix("data."))
            elif not place.startswith("data."):
                self._change(event, place)
        return event

    def value(self, place: str) -> Any:
        """A hard value for a place."""
        return self._one([_HARD.get(place, Variants.anything), Variants.anything])(self)

    def text(self) -> str:
        """Text of hard characters, mostly with outer white space."""
        inner = "".join(self._one(_CHARACTERS) for _ in range(self.random.randrange(5)))
        return self._one(_SPACES) + inner + self._one(_SPACES)

    def long_text(self) -> str:
        """Text with a length around a limit."""
        unit = self._one(
            ["x", "x", "\u4e2d", "\U0001f469", "e\u0301", "\u0958", "x ", "x  \t", "\u1100\u1161"]
        )
        return self._one(_SPACES) + (unit * self._one(_LENGTHS))[: self._one(_LENGTHS)] + self._one(_SPACES)

    def anything(self) -> Any:
        """A value of any JSON type."""
        others = [lambda: self._one(_NUMBERS), lambda: deepcopy(self._one(_OTHERS))]
        return self._one([self.text, self.long_text, *others])()

    def time(self) -> Any:
        """A time, in one of many spellings."""
        if self.random.random() < 0.1:
            return self._one(_OTHER_TIMES)
        return (
            self._one(_DATES[:2] + _DATES) + self._one(_SEPARATORS) + self._one(_CLOCKS) + self._one(_OFFSETS)
        )

    def sequence(self) -> Any:
        """A sequence as a number or as text."""
        return self._one([lambda: self._one(_NUMBERS), lambda: self._one(_SEQUENCE_TEXTS)])()

    def type(self) -> Any:
        """A type, near or far."""
        return self._one(_TYPE_PREFIXES) + "department." + self._one(_TYPE_WORDS) + self._one(_TYPE_ENDS)

    def cause(self) -> Any:
        """A reason of a removal."""
        return self._one(_CAUSES)

    def _valid(self, kind: str) -> dict[str, Any]:
        data: dict[str, Any] = {"department_id": self._one(["sales", "ENG-042", 67610, "\u00c9t\u00e9"])}
        if kind != "removed":
            data["name"] = self._one(["Sales", " Research  and\nDevelopment ", "\u00c9t\u00e9"])
        given = {
            "specversion": "1.0",
            "id": self._one(["1", 4711, "a-b"]),
            "source": "/hr",
            "type": self._one(["", "com.example."]) + f"department.{self._one(KINDS[kind])}.v1",
            "time": "2026-11-21T08:30:00Z",
            "data": data,
        }
        return given | self._one(
            [{}, {"tenant": "emea"}, {"sequence": 7}, {"subject": data["department_id"]}]
        )

    def _change(self, parent: dict[str, Any], name: str) -> None:
        if self.random.random() < 0.1:
            parent.pop(name, None)
        else:
            parent[name] = self.value(name)

    def _one(self, choices: Sequence[Any]) -> Any:
        return self.random.choice(choices)


_PLACES = [
    *("specversion", "id", "source", "type", "time", "time", "subject", "sequence", "sequence", "tenant"),
    *("traceparent", "correlationid", "datacontenttype", "dataschema", "unknown", "data", "data_base64"),
    *("data.department_id", "data.department_id", "data.name", "data.name", "data.cause", "data.merged_into"),
    *("data.parent_id", "data.attributes", "data.previous_name", "data.unknown"),
]
_HARD = {
    "time": Variants.time,
    "sequence": Variants.sequence,
    "type": Variants.type,
    "cause": Variants.cause,
    "specversion": lambda self: self._one(["1.0", "1.0", "0.3", "1", 1.0, ""]),
    "name": lambda self: self._one([self.text, self.long_text])(),
    "department_id": lambda self: self._one([self.text, self.long_text, lambda: self._one(_NUMBERS)])(),
    "data_base64": lambda self: self._one(
        ["e30=", "e30", "", "e30=\n", "eyJkZXBhcnRtZW50X2lkIjoiYSIsIm5hbWUiOiJiIn0="]
    ),
}


def written(event: dict[str, Any]) -> bytes:
    """The event as JSON in ASCII."""
    return json.dumps(event).encode()
