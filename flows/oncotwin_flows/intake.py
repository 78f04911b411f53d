"""Events into the log: validated at the door, doubles dropped, refusals kept with their bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import islice

from oncotwin.domain.amendment import Accepted, Erasure, Rejection
from oncotwin.domain.envelope import Event
from oncotwin.domain.events import encode_record
from oncotwin.domain.ids import EventKey, TwinId
from oncotwin.domain.validation import Policy, admit
from oncotwin.ports.clock import Clock
from oncotwin.ports.event_log import EventLog, NewRecord
from oncotwin.ports.twin_rows import DeadLetter
from oncotwin.ports.twin_store import TwinStore
from oncotwin_flows.refusals import conflict, dead_letter, key_of, of_erased, subject_of


@dataclass(slots=True)
class IntakeReport:
    """What became of the lines.

    Attributes:
        rejections: (line number from 1, the letter without its bytes) of each refused line.
    """

    n_accepted: int = 0
    n_duplicates: int = 0
    rejections: list[tuple[int, DeadLetter]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class IntakeRules:
    """By which rules events are admitted; the worker judges by the same."""

    clock_skew: timedelta = timedelta(minutes=5)
    array_stores: tuple[str, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)


class Intake:
    """Appends good events to the log, in the order given.

    A line is appended first and remembered after: where the machine dies between the two, the line is appended twice
    and the worker drops the double by its key.

    Args:
        make_room: called with a number of lines before they are taken; returns when there is room for them.
    """

    def __init__(
        self, log: EventLog, store: TwinStore, clock: Clock, rules: IntakeRules,
        make_room: Callable[[int], None] = lambda n: None,
    ) -> None:
        self._log = log
        self._store = store
        self._clock = clock
        self._rules = rules
        self._make_room = make_room

    def ingest(
        self, lines: Iterable[bytes], on_progress: Callable[[int], None] | None = None, chunk: int = 1_000
    ) -> IntakeReport:
        """Take JSON lines; blank ones are passed over.

        Raises:
            LogError, StoreError: the log or store does not answer; lines before the failing chunk are in the log.
        """
        report = IntakeReport()
        sources = {**self._store.sources(), **self._rules.sources}
        for numbered in _chunks(lines, chunk):
            self._make_room(len(numbered))
            self._take(numbered, sources, report)
            if on_progress is not None:
                on_progress(len(numbered))
        return report

    def _take(self, numbered: list[tuple[int, bytes]], sources: dict[str, str], report: IntakeReport) -> None:
        rules = self._rules
        policy = Policy(self._clock.now(), sources, rules.array_stores, rules.clock_skew)
        good: list[tuple[int, Event, EventKey, str]] = []
        refused: list[tuple[int, DeadLetter]] = []
        judged: list[tuple[int, bytes, Event | None, Accepted | Rejection]] = []
        for number, line in numbered:
            event, item = admit(line, (), policy)
            judged.append((number, line, event, item))
            if not isinstance(item, Rejection):
                # Binds a new source for the rest of this call; the store learns it with the worker's commit.
                sources.setdefault(item.header.source, item.header.institution)
        erased = self._store.erased(sorted({one for *_, item in judged if (one := subject_of(item)) is not None}))
        for number, line, event, item in judged:
            if subject_of(item) in erased:
                if isinstance(item, Erasure):
                    report.n_duplicates += 1
                else:
                    refused.append((number, of_erased(key_of(item), line, policy.now)))
            elif isinstance(item, Rejection):
                refused.append((number, dead_letter(item, policy.now)))
            else:
                assert event is not None
                good.append((number, event, item.header.key, item.header.content_hash))
        known = self._store.known([key for _, _, key, _ in good])
        known.update(self._store.intake_known([key for _, _, key, _ in good]))
        fresh: list[NewRecord] = []
        hashes: dict[EventKey, str] = {}
        twin_ids: dict[EventKey, TwinId] = {}
        for number, event, key, content_hash in good:
            before = known.get(key)
            if before is None:
                value, headers = encode_record(event)
                fresh.append(NewRecord(event.subject, value, headers))
                known[key] = hashes[key] = content_hash
                twin_ids[key] = event.subject
            elif before == content_hash:
                report.n_duplicates += 1
            else:
                refused.append((number, dead_letter(conflict(key, event), policy.now)))
        self._log.append(fresh)
        self._store.intake_record(hashes, twin_ids)
        self._store.add_dead_letters([letter for _, letter in refused])
        report.n_accepted += len(fresh)
        # The store has the bytes: a report over a year's stream is not to hold them too.
        told = [(number, replace(letter, raw=b"")) for number, letter in refused]
        report.rejections.extend(sorted(told, key=lambda pair: pair[0]))


def _chunks(lines: Iterable[bytes], size: int) -> Iterator[list[tuple[int, bytes]]]:
    """Lines with their numbers from 1, blank ones left out, in chunks."""
    numbered = ((number, line.strip(b"\r\n")) for number, line in enumerate(lines, 1) if line.strip())
    while chunk := list(islice(numbered, size)):
        yield chunk
