"""Rules about many workers on one database: who may change, record and ack what, and until when.

It trusts the database alone: a worker has a department while its session holds the department's lock there.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tests.simulation.history import Note

PROOF_SECONDS = 2.0
"""A worker may take its locks for held so long after the database has last confirmed them."""

ROUNDED_SECONDS = 1e-3
"""The notes name times rounded to it."""

TRANSIT_SECONDS = 0.1


@dataclass
class _Departments:
    """Who has which department, after the notes read so far."""

    holders: dict[str, int] = field(default_factory=dict)
    lost_at: dict[tuple[str, int], float] = field(default_factory=dict)
    """When a department was taken from a worker that had not given it back."""
    silent: dict[int, tuple[float, float]] = field(default_factory=dict)
    """From when until when nothing passes between a worker and the database."""
    sessions_lost: Counter[int] = field(default_factory=Counter)  # by worker, which has learnt of them
    delivered: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    """By tag: the worker, its sessions lost so far, and how often the message had been parked or given up."""
    ended: Counter[bytes] = field(default_factory=Counter)  # parked or dead-lettered, by body
    broken: list[str] = field(default_factory=list)

    def taken(self, note: Note) -> None:
        if note.department is None:
            return
        worker = note.detail["worker"]
        if self.holders.get(note.department, worker) != worker:
            self._broke(note, f"the database gave it to {worker} while it was not free")
        self.holders[note.department] = worker
        self.lost_at.pop((note.department, worker), None)

    def freed(self, note: Note) -> None:
        if note.department is not None:
            self.holders.pop(note.department, None)

    def session_ended(self, note: Note) -> None:
        worker = note.detail["worker"]
        for department in [one for one, holder in self.holders.items() if holder == worker]:
            del self.holders[department]
            self.lost_at[department, worker] = note.at

    def fell_silent(self, note: Note) -> None:
        worker = note.detail["worker"]
        began, ends = self.silent.get(worker, (note.at, 0.0))
        self.silent[worker] = (began if note.at < ends else note.at, note.at + note.detail["seconds"])

    def healed(self, _note: Note) -> None:
        self.silent.clear()

    def session_lost(self, note: Note) -> None:
        self.sessions_lost[note.detail["worker"]] += 1

    def called(self, note: Note) -> None:
        """One step per department at a time; a lost session ends it no later than its proof does."""
        if note.department is None:
            return
        worker = note.detail["worker"]
        began, ends = self.silent.get(worker, (note.at, 0.0))
        if began + PROOF_SECONDS < note.at < ends - ROUNDED_SECONDS:
            self._broke(note, f"{note.what[2:]} by worker {worker}, without the database since {began:.3f}")
        if self.holders.get(note.department) == worker:
            return
        lost_at = self.lost_at.get((note.department, worker))
        if lost_at is None or note.at - lost_at > PROOF_SECONDS:
            self._broke(note, f"{note.what[2:]} by worker {worker}, {self._whose(note.department, lost_at)}")

    def recorded(self, note: Note) -> None:
        if note.department is None or self.holders.get(note.department) == note.detail["writer"]:
            return
        writer = note.detail["writer"]
        lost_at = self.lost_at.get((note.department, writer))
        if lost_at is None or not self._was_held_up(writer, lost_at, note.at):
            self._broke(note, f"recorded by worker {writer}, {self._whose(note.department, lost_at)}")

    def _was_held_up(self, worker: int, lost_at: float, at: float) -> bool:
        """Whether a write arrives late because the network was silent. The entry's revision guards it."""
        began, ends = self.silent.get(worker, (0.0, 0.0))
        return began <= lost_at + PROOF_SECONDS and ends - ROUNDED_SECONDS <= at < ends + TRANSIT_SECONDS

    def arrived(self, note: Note) -> None:
        worker, body = note.detail["worker"], note.detail["body"]
        self.delivered[note.detail["tag"]] = (worker, self.sessions_lost[worker], self.ended[body])

    def confirmed(self, note: Note) -> None:
        if note.detail["to"] in {"retry", "dead letters"}:
            self.ended[note.detail["body"]] += 1

    def acked(self, note: Note) -> None:
        """A message of a lost session is delivered again, unless the worker had already ended it."""
        worker, lost_before, ended_before = self.delivered[note.detail["tag"]]
        is_old = self.sessions_lost[worker] > lost_before
        if is_old and self.ended[note.detail["body"]] == ended_before:
            self._broke(note, f"{note.detail['event']} acked by worker {worker} after it lost its session")

    def _whose(self, department: str, lost_at: float | None) -> str:
        holder = self.holders.get(department)
        had = "which never had it" if lost_at is None else f"which lost it at {lost_at:.3f}"
        return f"{had}; now {'nobody has' if holder is None else f'worker {holder} has'} it"

    def _broke(self, note: Note, what: str) -> None:
        self.broken.append(f"workers: {note.department}: {what}, at {note.at:.3f}")


_READERS: dict[str, Callable[[_Departments, Note], None]] = {
    "lock taken": _Departments.taken,
    "lock freed": _Departments.freed,
    "session ended": _Departments.session_ended,
    "database silent": _Departments.fell_silent,
    "healed": _Departments.healed,
    "session lost": _Departments.session_lost,
    "> create": _Departments.called,
    "> update": _Departments.called,
    "> delete": _Departments.called,
    "recorded": _Departments.recorded,
    "delivered": _Departments.arrived,
    "confirmed": _Departments.confirmed,
    "> ack": _Departments.acked,
}


def judge_workers(notes: Iterable[Note]) -> list[str]:
    """The broken rules of a run of many workers."""
    departments = _Departments()
    for note in notes:
        if (reader := _READERS.get(note.what)) is not None:
            reader(departments, note)
    return departments.broken
