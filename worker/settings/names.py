"""Names in the environment that no setting has: misspelt, or of another version."""

import re
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from difflib import get_close_matches

from worker.settings.model import IntakeSettings, WorkerSettings
from worker.settings.parse import PREFIX

KNOWN = frozenset(
    field.alias or "" for model in (WorkerSettings, IntakeSettings) for field in model.model_fields.values()
)
"""The settings of every command: one environment serves them all."""

NEAR, VERY_NEAR = 0.6, 0.85
"""How much two names have in common (`difflib`): with our prefix, and without it."""

_FILE = "_FILE"
_OF_KUBERNETES = re.compile(rf"{PREFIX}(SERVICE_(HOST|PORT)(_.*)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_.*)?)?)")
"""Variables that Kubernetes sets in every container beside a service that is called provisioner."""


def unknown_names(environ: Mapping[str, str]) -> dict[str, str | None]:
    """The unknown names, each with the nearest known one or None.

    Every name with our prefix counts, and others that nearly are a known one, such as `AMQP_URI`.
    """
    return dict(sorted(_unknown(environ)))


def unknown_lines(environ: Mapping[str, str]) -> list[str]:
    """One line for each unknown name."""
    return [
        f"{name} is no setting of this version" + (f": did you mean {near}?" if near else "")
        for name, near in unknown_names(environ).items()
    ]


def _unknown(environ: Mapping[str, str]) -> Iterator[tuple[str, str | None]]:
    for name in environ:
        stem = name.removesuffix(_FILE)
        if name in KNOWN or stem in KNOWN or _OF_KUBERNETES.fullmatch(name):
            continue
        ours = name.startswith(PREFIX)
        near = _nearest(stem, KNOWN, NEAR if ours else VERY_NEAR)
        if ours or (near and not stem.startswith(near)):  # AMQP_URL_OLD is somebody's own
            yield name, near and near + name[len(stem) :]


def _nearest(name: str, known: AbstractSet[str], likeness: float) -> str | None:
    """Compares without the prefix that all have in common, so that it does not count as likeness."""
    rest = name.removeprefix(PREFIX)
    shared = {one.removeprefix(PREFIX): one for one in known} if rest != name else {one: one for one in known}
    found = get_close_matches(rest.upper(), shared, 1, likeness)
    return shared[found[0]] if found else None
