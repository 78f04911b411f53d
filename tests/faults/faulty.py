"""Store and log as a process of the simulation meets them: real ones, reached through a world that fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from tests.faults.scheduler import Died, Process

from oncotwin.domain.errors import LogError, StoreUnavailableError
from oncotwin.ports.event_log import EventLog, LogRecord, NewRecord
from oncotwin.ports.twin_rows import CommitGroup


class Fate(Protocol):
    """What a world decides."""

    def store_fails(self, process: Process | None) -> bool:
        """Whether a call of the store fails before it does anything."""
        ...

    def acknowledgement_lost(self, process: Process | None) -> str:
        """Whether a call was done and its answer is lost: "", "error", or "died" for the caller with it."""
        ...

    def committed(self, process: Process, group: CommitGroup) -> None:
        """A commit group is in the store."""
        ...

    def log_fails(self) -> bool:
        """Whether a call of the log fails."""
        ...

    def torn(self, n: int) -> int | None:
        """After how many of n records an append breaks off; None where it does not."""
        ...

    def note(self, what: str) -> None:
        """Remember for the trace."""
        ...


WRITES = frozenset(
    {
        "commit", "acquire_leases", "release_leases", "register_twins", "look_for_gaps", "raise_gap_alert",
        "mark_published", "intake_record", "add_dead_letters", "commit_line", "promote",
    }
)


class FaultyStore:
    """A store whose calls may fail before or after they are done; None as the process: an actor's own connection.

    Attributes:
        doing: the write that is under way.
    """

    def __init__(self, store: Any, fate: Fate, process: Process | None) -> None:
        self._store = store
        self._fate = fate
        self._process = process
        self.doing = ""

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        return self._call(name, found) if callable(found) and name != "close" else found

    def close(self) -> None:
        """The connections are the simulation's."""

    def _call(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            process = self._process
            if process is not None and process.dead:
                raise Died
            if self._fate.store_fails(process):
                self._fate.note(f"store fails at {name}")
                raise StoreUnavailableError(f"simulated: the store is away ({name})")
            if name in WRITES:
                self.doing = name
            result = method(*arguments, **named)
            if name == "commit" and process is not None:
                self._fate.committed(process, arguments[0])
            if name in WRITES and (lost := self._fate.acknowledgement_lost(process)):
                self._fate.note(f"answer of {name} lost: {lost}")
                if lost == "died":
                    raise Died
                raise StoreUnavailableError(f"simulated: the connection broke after {name}")
            return result

        return call


class FaultyLog:
    """A log that fails to read, and that takes a part of a batch, or all of it without saying so."""

    def __init__(self, log: EventLog, fate: Fate, process: Process) -> None:
        self._log = log
        self._fate = fate
        self._process = process

    @property
    def n_partitions(self) -> int:
        """As the log says."""
        return self._log.n_partitions

    def append(self, records: Sequence[NewRecord]) -> list[tuple[int, int]]:
        """Append all, or break off after some."""
        if self._process.dead:
            raise Died
        broken = self._fate.torn(len(records))
        if broken is None:
            return self._log.append(records)
        self._log.append(records[:broken])
        self._fate.note(f"append torn after {broken} of {len(records)}")
        raise LogError("simulated: the append broke off")

    def read(self, positions: Mapping[int, int], max_records: int, max_bytes: int, timeout_s: float) -> list[LogRecord]:
        """Read, or fail."""
        if self._process.dead:
            raise Died
        if self._fate.log_fails():
            self._fate.note("log fails")
            raise LogError("simulated: the log is away")
        return self._log.read(positions, max_records, max_bytes, timeout_s)

    def begin_offsets(self) -> dict[int, int]:
        """As the log says."""
        return self._log.begin_offsets()

    def end_offsets(self) -> dict[int, int]:
        """As the log says."""
        return self._log.end_offsets()

    def close(self) -> None:
        """Nothing is held."""
