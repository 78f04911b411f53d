"""How far the store is behind the log: intakes wait where it is too far, and a lag that does not shrink is told of."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from oncotwin.bootstrap import wiring
from oncotwin.bootstrap.settings import Settings
from oncotwin.domain.errors import OncotwinError
from oncotwin.ports.clock import Clock
from oncotwin.ports.event_log import EventLog
from oncotwin.ports.lag_book import LagBook, LagRow
from oncotwin.ports.twin_store import TwinStore

_ASK_S = 0.5
_LONGEST_INTERVAL_S = 30.0
_SAY_AGAIN_S = 60.0

Announce = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Reading:
    """Where a log and a store stood at one moment, by partition.

    Attributes:
        committed: next offset wanted; ends: offset that the next event will get.
    """

    committed: dict[int, int]
    ends: dict[int, int]

    def lag_of(self, partition: int) -> int:
        """Events of one partition that are not committed."""
        return max(0, self.ends[partition] - self.committed[partition])

    @property
    def lag(self) -> int:
        """Events that are not committed."""
        return sum(map(self.lag_of, self.ends))


def read_lag(log: EventLog, store: TwinStore, log_name: str) -> Reading:
    """Measure; the store is asked first, so that a lag is never below what it is."""
    stored = store.offsets(log_name)
    begins, ends = log.begin_offsets(), log.end_offsets()
    return Reading({p: stored.get(p, begins[p]) for p in ends}, ends)


class LagLimit:
    """Holds an intake back while the store is too far behind.

    Args:
        bound: most events that the log may be ahead of the store; 0 for no bound.
        announce: told why one waits, and when it goes on.
    """

    def __init__(
        self, log: EventLog, store: TwinStore, clock: Clock, log_name: str, bound: int,
        announce: Announce | None = None,
    ) -> None:
        self._log = log
        self._store = store
        self._clock = clock
        self._log_name = log_name
        self._bound = bound
        self._announce = announce or (lambda text: None)

    def wait(self, n_more: int) -> None:
        """Return when so many events more keep the bound, or when the store has caught up altogether.

        May be interrupted: nothing is held meanwhile.
        """
        if self._bound == 0:
            return
        said_at = None
        while (lag := read_lag(self._log, self._store, self._log_name).lag) > 0 and lag + n_more > self._bound:
            now = self._clock.monotonic()
            if said_at is None or now - said_at >= _SAY_AGAIN_S:
                self._announce(
                    f"waiting: the log is {lag:,} events ahead of the store, the bound is {self._bound:,} "
                    "(max_lag_events). It goes on as `oncotwin work` catches up; Ctrl-C ends it, what was taken stays "
                    "taken"
                )
                said_at = now
            self._clock.sleep(_ASK_S)
        if said_at is not None:
            self._announce(f"going on: the log is {lag:,} events ahead")


@dataclass(frozen=True, slots=True)
class _Mark:
    """A partition as it was when its lag last shrank, or all that it then held had been committed."""

    end: int
    lag: int
    at: datetime


class LagWatch:
    """Knows since when a lag has not shrunk.

    A partition is stuck from a moment on when events that it held then are still not committed and its lag is not
    smaller than then. A stream that keeps up at any rate, and a backlog that is worked off, are not.
    """

    def __init__(
        self, log: EventLog, store: TwinStore, book: LagBook, clock: Clock, log_name: str, patience: timedelta
    ) -> None:
        self._log = log
        self._store = store
        self._book = book
        self._clock = clock
        self._log_name = log_name
        self._patience = patience
        self._marks: dict[int, _Mark] = {}

    def look(self) -> LagRow:
        """Measure, and write it down."""
        now = self._clock.now()
        reading = read_lag(self._log, self._store, self._log_name)
        before = self._book.read(self._log_name)
        since = now
        for partition, end in reading.ends.items():
            lag = reading.lag_of(partition)
            mark = self._marks.get(partition)
            if mark is None and before is not None and 0 < before.smallest <= reading.lag:
                # Another process, or this one before it was started again, has seen it stuck.
                mark = _Mark(end, lag, before.since)
            if mark is None or lag == 0 or reading.committed[partition] >= mark.end or lag < mark.lag:
                mark = _Mark(end, lag, now)
            self._marks[partition] = mark
            if lag > 0:
                since = min(since, mark.at)
        smallest = reading.lag
        if before is not None and before.since >= since:
            smallest = min(smallest, before.smallest)
        row = LagRow(self._log_name, reading.lag, smallest, since, now)
        self._book.write(row)
        return row

    def is_stalled(self, row: LagRow) -> bool:
        """Whether it has not shrunk for longer than one has patience."""
        return row.lag > 0 and row.measured_at - row.since >= self._patience


def describe(row: LagRow) -> str:
    """A stalled lag in words."""
    minutes = (row.measured_at - row.since).total_seconds() / 60.0
    return (
        f"the lag of {row.lag:,} events has not shrunk since {row.since:%Y-%m-%d %H:%M:%S} UTC ({minutes:.0f} "
        "minutes): events come faster than they are folded, or a worker hangs or is gone. See `oncotwin status`; start "
        "more workers"
    )


class LagReport:
    """Tells of a lag that does not shrink when it begins and when it is over, and sets a metric."""

    def __init__(self, watch: LagWatch, announce: Announce, gauge: Callable[[int], None]) -> None:
        self._watch = watch
        self._announce = announce
        self._gauge = gauge
        self._stalled = False
        self._failing = False

    def look(self) -> None:
        """Look once; a log or a store that does not answer is told of, not raised: the worker will meet it too."""
        try:
            row = self._watch.look()
        except OncotwinError as error:
            if not self._failing:
                self._announce(f"the lag cannot be measured: {error}")
            self._failing = True
            return
        self._failing = False
        self._gauge(row.lag)
        stalled = self._watch.is_stalled(row)
        if stalled and not self._stalled:
            self._announce(describe(row))
        elif self._stalled and not stalled:
            self._announce(f"the lag shrinks again: {row.lag:,} events")
        self._stalled = stalled


@contextmanager
def open_watch(settings: Settings) -> Iterator[LagWatch]:
    """A watch with connections of its own."""
    with ExitStack() as stack:
        log = wiring.open_log(settings)
        stack.callback(log.close)
        store = wiring.open_store(settings)
        stack.callback(store.close)
        book = wiring.open_lag_book(settings)
        stack.callback(book.close)
        patience = timedelta(seconds=settings.lag_seconds)
        yield LagWatch(log, store, book, wiring.SystemClock(), wiring.log_name(settings), patience)


@contextmanager
def watching(settings: Settings, announce: Announce | None) -> Iterator[None]:
    """Watch from a thread of its own while the block runs: a worker that hangs cannot tell of itself."""
    ended = threading.Event()

    def watch_on() -> None:
        interval_s = min(_LONGEST_INTERVAL_S, settings.lag_seconds / 5.0)
        with open_watch(settings) as watch:
            report = LagReport(watch, announce or (lambda text: None), wiring.lag_gauge(settings))
            while True:
                report.look()
                if ended.wait(interval_s):
                    return

    thread = threading.Thread(target=watch_on, name="lag", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
