"""Near misses: the name or word that somebody probably meant."""

import difflib
import re
from collections.abc import Container, Iterable, Mapping

_ALIKE = 0.75
_ALIKE_WORDS = 0.85
_SHOWABLE = re.compile(r"[A-Za-z0-9_.:$-]{1,64}")
# The names that other systems give these fields.
_SYNONYMS: Mapping[str, frozenset[str]] = {
    "department_id": frozenset({"id", "deptid", "department", "externalid"}),
    "name": frozenset({"departmentname", "deptname", "displayname", "title"}),
    "id": frozenset({"eventid", "messageid", "uuid"}),
    "source": frozenset({"eventsource"}),
    "type": frozenset({"eventtype"}),
    "time": frozenset({"eventtime", "timestamp"}),
}


def near_miss(wanted: str, given: Iterable[str], known: Container[str]) -> str | None:
    """Returns the given name that was probably meant to be `wanted`; never one of the `known` names."""
    candidates = [name for name in given if name not in known and _SHOWABLE.fullmatch(name)]
    plain = {name: _plain(name) for name in candidates}
    meant = {_plain(wanted)} | _SYNONYMS.get(wanted, frozenset())
    for name in candidates:
        if plain[name] in meant:
            return name
    alike = difflib.get_close_matches(_plain(wanted), plain.values(), 1, _ALIKE)
    return next((name for name in candidates if plain[name] in alike), None)


def near_word(given: str, words: Iterable[str]) -> str | None:
    """Returns the word of a closed set that was probably meant, whatever the case and the ending."""
    found = difflib.get_close_matches(_plain(given[:64]), list(words), 1, _ALIKE_WORDS)
    return found[0] if found else None


def _plain(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower())
