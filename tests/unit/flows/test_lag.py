"""Lag: what counts as shrinking, who is told, and how an intake waits."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from oncotwin.domain.errors import LogError
from oncotwin.ports.lag_book import LagRow
from oncotwin_flows.lag import LagLimit, LagReport, LagWatch

START = datetime(2026, 1, 1, tzinfo=UTC)


class FakeClock:
    """Time passes only by sleeping."""

    def __init__(self) -> None:
        self.time_s = 0.0

    def now(self) -> datetime:
        return START + timedelta(seconds=self.time_s)

    def monotonic(self) -> float:
        return self.time_s

    def sleep(self, seconds: float) -> None:
        self.time_s += seconds


class FakeStream:
    """A log and the store behind it: offsets alone."""

    def __init__(self, n_partitions: int = 2, begin: int = 0) -> None:
        self.begin = dict.fromkeys(range(n_partitions), begin)
        self.end = dict.fromkeys(range(n_partitions), begin)
        self.committed: dict[int, int] = {}
        self.broken = False

    def append(self, partition: int, n: int) -> None:
        self.end[partition] += n

    def commit(self, partition: int, n: int) -> None:
        self.committed[partition] = self.committed.get(partition, self.begin[partition]) + n

    def begin_offsets(self) -> dict[int, int]:
        return dict(self.begin)

    def end_offsets(self) -> dict[int, int]:
        if self.broken:
            raise LogError("the log is away")
        return dict(self.end)

    def offsets(self, log_name: str) -> dict[int, int]:
        assert log_name == "log"
        return dict(self.committed)


class MemoryBook:
    """Rows in memory."""

    def __init__(self) -> None:
        self.rows: dict[str, LagRow] = {}

    def read(self, log_name: str) -> LagRow | None:
        return self.rows.get(log_name)

    def write(self, row: LagRow) -> None:
        self.rows[row.log_name] = row

    def close(self) -> None:
        self.rows = {}


class Scene:
    """A watch with patience of 300 s over fakes."""

    def __init__(self, begin: int = 0) -> None:
        self.clock, self.stream, self.book = FakeClock(), FakeStream(begin=begin), MemoryBook()
        self.watch = self.again()

    def again(self) -> LagWatch:
        stream: object = self.stream
        return LagWatch(stream, stream, self.book, self.clock, "log", timedelta(seconds=300))  # type: ignore[arg-type]

    def after(self, seconds: float, *, append: int = 0, commit: int = 0, partition: int = 0) -> tuple[LagRow, bool]:
        self.clock.time_s += seconds
        self.stream.append(partition, append)
        self.stream.commit(partition, commit)
        row = self.watch.look()
        assert self.book.rows["log"] == row
        return row, self.watch.is_stalled(row)


def test_a_partition_that_nobody_reads_is_told_of_in_time() -> None:
    scene = Scene(begin=1_000)
    assert scene.after(0) == (LagRow("log", 0, 0, START, START), False)
    row, stalled = scene.after(10, append=5)
    assert (row.lag, row.smallest, row.since, stalled) == (5, 5, START + timedelta(seconds=10), False)
    # The other partition is read as fast as it is written.
    for _ in range(28):
        row, stalled = scene.after(10, append=700, commit=700, partition=1)
        assert (row.lag, stalled) == (5, False)
    row, stalled = scene.after(20)
    assert stalled and row.since == START + timedelta(seconds=10)
    row, stalled = scene.after(10, commit=1)
    assert (row.lag, row.smallest, row.since, stalled) == (4, 4, row.measured_at, False)


def test_a_stream_that_keeps_up_is_never_told_of_however_it_varies() -> None:
    scene = Scene()
    scene.after(0, append=3_000)
    for turn in range(100):
        _, stalled = scene.after(10, append=2_000 + 500 * (turn % 3), commit=2_000 + 500 * ((turn + 1) % 3))
        assert not stalled


def test_a_backlog_that_is_worked_off_is_not_told_of() -> None:
    scene = Scene()
    scene.after(0, append=1_000_000)
    for _ in range(100):
        _, stalled = scene.after(30, append=50, commit=2_000)
        assert not stalled


def test_a_queue_that_grows_is_told_of_once_events_wait_too_long() -> None:
    scene = Scene()
    found = [scene.after(10, append=1_000, commit=200)[1] for _ in range(60)]
    assert not any(found[:20]) and found[-1]


def test_a_restart_does_not_begin_to_count_anew() -> None:
    scene = Scene()
    scene.after(0, append=9)
    for _ in range(4):
        scene.watch = scene.again()
        row, stalled = scene.after(90)
    assert stalled and row.since == START
    # It was worked off while nobody looked.
    scene.stream.commit(0, 8)
    scene.watch = scene.again()
    assert scene.after(10)[1] is False


def test_it_is_told_of_when_it_begins_and_when_it_is_over() -> None:
    scene = Scene()
    said: list[str] = []
    shown: list[int] = []
    report = LagReport(scene.watch, said.append, shown.append)
    scene.stream.append(0, 1_234)
    for _ in range(40):
        report.look()
        scene.clock.time_s += 10.0
    assert len(said) == 1 and "1,234 events has not shrunk since 2026-01-01 00:00:00 UTC (5 minutes)" in said[0]
    scene.stream.broken = True
    report.look()
    report.look()
    scene.stream.broken = False
    scene.stream.commit(0, 1_000)
    report.look()
    report.look()
    assert said[1:] == ["the lag cannot be measured: the log is away", "the lag shrinks again: 234 events"]
    assert shown == [1_234] * 40 + [234] * 2


class Draining(FakeClock):
    """A clock during whose sleep the store catches up."""

    def __init__(self, stream: FakeStream, n_a_second: int) -> None:
        super().__init__()
        self._stream = stream
        self._rate = n_a_second

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        lag = self._stream.end[0] - self._stream.committed.get(0, 0)
        self._stream.commit(0, min(lag, round(self._rate * seconds)))


@pytest.mark.parametrize("bound", [1_000, 2_500])
def test_an_intake_waits_until_there_is_room(bound: int) -> None:
    stream = FakeStream(1)
    clock = Draining(stream, 100)
    said: list[str] = []
    limit = LagLimit(stream, stream, clock, "log", bound, said.append)  # type: ignore[arg-type]
    for _ in range(10):
        limit.wait(1_000)
        stream.append(0, 1_000)
        assert stream.end[0] - stream.committed.get(0, 0) <= bound
    assert stream.end == {0: 10_000}
    assert clock.time_s == pytest.approx((10_000 - bound) / 100, abs=20.0)
    assert f"the bound is {bound:,}" in said[0] and "going on" in said[1]


def test_a_chunk_larger_than_the_bound_goes_in_when_the_store_has_caught_up() -> None:
    stream = FakeStream(1)
    limit = LagLimit(stream, stream, Draining(stream, 100), "log", 10)  # type: ignore[arg-type]
    stream.append(0, 10)
    limit.wait(1_000)
    assert stream.committed == {0: 10}


def test_without_a_bound_nobody_waits() -> None:
    stream = FakeStream(1)
    clock = FakeClock()
    stream.append(0, 1_000_000)
    LagLimit(stream, stream, clock, "log", 0).wait(1_000_000)  # type: ignore[arg-type]
    assert clock.time_s == 0.0


def test_a_long_wait_is_told_of_again_but_not_all_the_time() -> None:
    stream = FakeStream(1)
    stream.append(0, 1_500)
    said: list[str] = []
    LagLimit(stream, stream, Draining(stream, 4), "log", 1_000, said.append).wait(100)  # type: ignore[arg-type]
    assert len(said) == 4
