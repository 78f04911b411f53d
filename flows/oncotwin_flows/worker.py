"""The assimilation worker: from the log to committed beliefs, one transaction a commit group.

The order of effects, and nothing else, is what exactly-once rests on: fold on the hosts, then one transaction in the
store (journal, snapshots, estimates, alerts, outbox, dead letters, offsets, fenced by leases and by each twin's
version). A worker that dies between any two steps starts again from the offsets in the store.

Three groups are under way at a time: while one is read and validated, the one before it is being folded and the one
before that is being committed, in a thread of its own. Commits follow each other in the order of the log; when one
fails, everything after it is forgotten and read again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import uuid4

from oncotwin.domain.amendment import Accepted, Correction, Erasure, Rejection
from oncotwin.domain.envelope import Event
from oncotwin.domain.errors import ChampionChangedError, FencedError, HostLostError, StaleVersionError
from oncotwin.domain.events import encode_line
from oncotwin.domain.ids import EventKey, TwinId
from oncotwin.domain.validation import Policy, admit
from oncotwin.ports.clock import Clock
from oncotwin.ports.event_log import ERASED_HEADER, EventLog, LogRecord
from oncotwin.ports.steps import OnStep, no_step
from oncotwin.ports.twin_host import Delivery, TwinHost
from oncotwin.ports.twin_rows import JournalEntry
from oncotwin.ports.twin_store import TwinStore
from oncotwin_flows.committer import Committer
from oncotwin_flows.groups import Bounds, Group, Tally
from oncotwin_flows.moves import moved_rows
from oncotwin_flows.refusals import conflict, dead_letter, key_of, of_erased, subject_of

MAX_RETRIES = 10
"""Groups that a run begins again before it gives up and says why."""

ERASURE = "patient.erased"
"""Kind of an event that orders an erasure."""

_MAX_READ_BYTES = 8 * 1024 * 1024
_LONGEST_PAUSE_S = 5.0
_ASK_S = 1.0


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """Who the worker is and by which rules it judges.

    Attributes:
        threaded: commit in a thread of its own; without, one step follows the other in the caller's thread.
    """

    name: str
    log_name: str
    version: str
    lease_s: float
    clock_skew: timedelta
    array_stores: tuple[str, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)
    threaded: bool = True


class _ErasedMeanwhile(Exception):
    """A patient was erased: whatever is in memory is to be read again."""


class Worker:
    """Drains partitions that it holds leases on; see the module's docstring for the order of effects.

    Args:
        erase: carries out what events in the journal order to erase; returns how many patients.
    """

    def __init__(
        self, log: EventLog, store: TwinStore, host: TwinHost, clock: Clock, settings: WorkerSettings,
        on_progress: Callable[[int], None] | None = None, on_retry: Callable[[Exception], None] | None = None,
        on_step: OnStep = no_step, erase: Callable[[], int] = lambda: 0,
    ) -> None:
        self._log = log
        self._store = store
        self._host = host
        self._clock = clock
        self._settings = settings
        self._on_progress = on_progress or (lambda n: None)
        self._on_retry = on_retry or (lambda error: None)
        self._on_step = on_step
        self._erase = erase
        self._version = settings.version
        self._owner = uuid4().hex
        self._epochs: dict[int, int] = {}
        self._renew_at = 0.0
        self._positions: dict[int, int] = {}
        # Version and ordinal of each twin met, as they will be once all groups under way are committed.
        self._versions: dict[TwinId, int] = {}
        self._committed: dict[TwinId, int] = {}
        self._ordinals: dict[TwinId, int] = {}
        self._under_way: dict[EventKey, str] = {}
        self._sources: dict[str, str] = {}
        self._folding: Group | None = None
        self._committing: tuple[Group, Future[Tally]] | None = None
        self._committer = Committer(
            store, clock, settings.log_name, settings.version, threaded=settings.threaded, on_step=on_step
        )

    def run(self, bounds: Bounds) -> Tally:
        """Drain the log up to the bounds; returns when they are reached or the log has no more.

        Raises:
            StoreError, LogError: the store or the log does not answer; what was committed stays committed.
        """
        tally = Tally()
        deadline = self._clock.monotonic() + bounds.seconds
        self._lease(tally)
        while self._epochs:
            try:
                group = self._begin(bounds, deadline, tally)
                self._settle(tally)
                if self._folding is not None:
                    self._committing = (self._folding, self._committer.begin(self._folding))
                self._folding = group
                if group is None:
                    self._settle(tally)
                    break
            except _ErasedMeanwhile:
                # Nothing of such a patient may be remembered; what is under way is prepared again without.
                self._reset()
                self._lease(tally)
            except (StaleVersionError, FencedError, HostLostError) as error:
                # Nothing of the groups under way was committed: begin again from what the store knows.
                self._reset()
                if isinstance(error, ChampionChangedError):
                    self._follow()
                tally.n_retries += 1
                if tally.n_retries > MAX_RETRIES:
                    raise
                self._on_retry(error)
                # An actor takes seconds to restart, and another worker's commit takes its time too.
                self._clock.sleep(min(0.05 * 2.0**tally.n_retries, _LONGEST_PAUSE_S))
                self._lease(tally)
            except BaseException:
                # Whoever calls again must not go on behind records that were read and never committed.
                self._reset()
                raise
        return tally

    def _begin(self, bounds: Bounds, deadline: float, tally: Tally) -> Group | None:
        """Read the next records, validate them and have them folded; None where a bound or the log's end is reached."""
        room = bounds.events - tally.n_read
        if room <= 0 or self._clock.monotonic() >= deadline:
            return None
        self._lease(tally)
        longest = bounds.poll_seconds if self._folding is None else 0.0
        records = self._log.read(self._positions, min(room, bounds.commit_events), _MAX_READ_BYTES, longest)
        if not records:
            return None
        self._on_step("read")
        begun = self._clock.monotonic()
        group = self._prepare(records)
        self._on_step("prepared")
        group.ticket = self._host.submit(group.deliveries)
        self._on_step("submitted")
        tally.n_read += len(records)
        tally.prepare_s += self._clock.monotonic() - begun
        return group

    def _settle(self, tally: Tally) -> None:
        """Wait until the group that is being committed is, and know it as committed."""
        if self._committing is None:
            return
        group, future = self._committing
        done = future.result()
        self._committing = None
        for delivery in group.deliveries:
            self._committed[delivery.twin_id] = max(delivery.version + 1, self._committed[delivery.twin_id])
        for entries in group.entries.values():
            for entry in entries:
                self._under_way.pop((entry.source, entry.event_id), None)
        tally.add(done)
        self._on_step("settled")
        self._on_progress(group.n_records)
        ordered = any(entry.kind == ERASURE for entries in group.entries.values() for entry in entries)
        if ordered and self._erase() > 0:
            raise _ErasedMeanwhile

    def release(self) -> None:
        """Give the partitions back, so that another worker need not wait for the leases to run out."""
        if self._committing is not None:
            wait([self._committing[1]])
        if self._epochs:
            self._store.release_leases(self._settings.log_name, self._settings.name, dict(self._epochs))
            self._epochs = {}

    def _lease(self, tally: Tally) -> None:
        """Acquire or renew partitions; positions of newly acquired ones come from the store."""
        tally.partitions = len(self._epochs)
        if self._clock.monotonic() < self._renew_at:
            return
        now, settings = self._clock.now(), self._settings
        held = self._store.acquire_leases(
            settings.log_name, settings.name, range(self._log.n_partitions), settings.lease_s, now
        )
        # Others make room for a newcomer when they renew: it asks often until they did.
        self._renew_at = self._clock.monotonic() + (
            settings.lease_s / 3.0 if held else min(settings.lease_s / 3.0, _ASK_S)
        )
        if held != self._epochs:
            self._reset()
            stored = self._store.offsets(settings.log_name)
            begin = self._log.begin_offsets()
            self._positions = {p: stored.get(p, begin.get(p, 0)) for p in held}
            self._sources = {**self._store.sources(), **settings.sources}
            # Whoever had these partitions before may have died between a commit and what it orders.
            self._erase()
            # Last: a lease counts once it is known where to read, whatever failed on the way.
            self._epochs = dict(held)
        elif self._versions and self._store.erased(list(self._versions)):
            # Somebody else erased a patient whom we have in memory.
            self._reset()
            self._lease(tally)
            return
        self._on_step("leased")
        tally.partitions = len(self._epochs)

    def _reset(self) -> None:
        """Forget all that is not in the store; a commit under way comes to its end first, whichever it is."""
        if self._committing is not None:
            wait([self._committing[1]])
            self._committing = None
        self._host.forget(list(self._versions))
        for memory in (self._versions, self._committed, self._ordinals, self._under_way, self._positions):
            memory.clear()
        self._owner = uuid4().hex
        self._epochs = {}
        self._renew_at = 0.0
        self._folding = None

    def _follow(self) -> None:
        """Fold under the version that the store believes now; nothing is under way."""
        champion = self._store.champion()
        if champion is not None and champion != self._version:
            self._host.follow(champion)
            self._committer.follow(champion)
            self._version = champion

    def _policy(self) -> Policy:
        return Policy(
            now=self._clock.now(), sources=self._sources, array_stores=self._settings.array_stores,
            clock_skew=self._settings.clock_skew,
        )

    def _prepare(self, records: Sequence[LogRecord]) -> Group:
        """Validate records, drop doubles, and make one delivery a twin."""
        policy = self._policy()
        group = Group({}, len(records))
        judged: list[tuple[LogRecord, Event | None, Accepted | Rejection]] = []
        for record in records:
            self._positions[record.partition] = group.offsets[record.partition] = record.offset + 1
            group.epochs[record.partition] = self._epochs[record.partition]
            if any(name == ERASED_HEADER for name, _ in record.headers):
                # Its patient was erased: there is nothing left to read or to tell.
                continue
            event, item = admit(record.value, record.headers, policy)
            judged.append((record, event, item))
            if not isinstance(item, Rejection):
                source, institution = item.header.source, item.header.institution
                if source not in self._sources:
                    # The first accepted event binds a source to its institution, from the next event on.
                    self._sources[source] = group.sources[source] = institution
                    policy = self._policy()
        keys = [item.header.key for _, _, item in judged if not isinstance(item, Rejection)]
        known = self._store.known(keys)
        erased = self._store.erased(sorted({one for *_, item in judged if (one := subject_of(item)) is not None}))
        fresh: dict[TwinId, list[Accepted]] = defaultdict(list)
        for record, event, item in judged:
            if subject_of(item) in erased:
                if isinstance(item, Erasure):
                    group.n_duplicates += 1
                else:
                    group.dead_letters.append(of_erased(key_of(item), record.value, policy.now))
                continue
            if isinstance(item, Rejection):
                group.dead_letters.append(dead_letter(item, policy.now))
                continue
            assert event is not None
            key = item.header.key
            before = known.get(key) or self._under_way.get(key)
            if before is not None:
                if before == item.header.content_hash:
                    group.n_duplicates += 1
                else:
                    group.dead_letters.append(dead_letter(conflict(key, event), policy.now))
                continue
            self._under_way[key] = item.header.content_hash
            self._add(group, fresh, item, encode_line(event), record)
        self._meet(fresh)
        uncommitted = self._uncommitted(group)
        for moved in moved_rows(fresh, uncommitted, self._store, policy.now, self._meet, self._may_receive):
            twin_id = moved.entry.twin_id
            group.entries.setdefault(twin_id, []).append(moved.entry)
            fresh[twin_id].append(moved.item)
        self._deliver(group, fresh)
        return group

    def _may_receive(self, twin_id: TwinId) -> bool:
        """A patient who was erased is given nothing."""
        return not self._store.erased([twin_id])

    def _uncommitted(self, group: Group) -> dict[TwinId, list[JournalEntry]]:
        """Journal rows that the store may not have yet: of this group and of those under way."""
        rows = {twin_id: list(entries) for twin_id, entries in group.entries.items()}
        for other in (self._folding, self._committing and self._committing[0]):
            for twin_id, entries in other.entries.items() if other is not None else ():
                rows.setdefault(twin_id, []).extend(entries)
        return rows

    def _add(
        self, group: Group, fresh: dict[TwinId, list[Accepted]], item: Accepted, line: bytes, record: LogRecord
    ) -> None:
        header = item.header
        group.n_accepted += 1
        fresh[header.twin_id].append(item)
        group.entries.setdefault(header.twin_id, []).append(
            JournalEntry(
                source=header.source, event_id=header.event_id, twin_id=header.twin_id, kind=header.kind,
                time=header.time, time_precision=header.time_precision, recorded_at=header.recorded_at,
                received_at=self._clock.now(), status=header.status, content_hash=header.content_hash, payload=line,
                position=0, partition=record.partition, offset=record.offset, sequence=header.sequence,
                supersedes=item.supersedes if isinstance(item, Correction) else None,
            )
        )

    def _meet(self, twin_ids: Iterable[TwinId]) -> None:
        """Know the versions of twins, before anything is concluded from their journals: the version is the fence."""
        new = sorted({twin_id for twin_id in twin_ids if twin_id not in self._versions})
        if new:
            self._ordinals.update(self._store.register_twins(new))
            heads = self._store.twin_heads(new)
            for twin_id in new:
                version = heads[twin_id].version if twin_id in heads else 0
                self._versions[twin_id] = self._committed[twin_id] = version

    def _deliver(self, group: Group, fresh: Mapping[TwinId, Sequence[Accepted]]) -> None:
        """One delivery a twin, in the order of the ids so that any two workers lock twins in the same order."""
        for twin_id in sorted(fresh):
            version = self._versions[twin_id]
            group.deliveries.append(
                Delivery(
                    twin_id, self._ordinals[twin_id], version, self._committed[twin_id], tuple(fresh[twin_id]),
                    self._owner,
                )
            )
            self._versions[twin_id] = version + 1
