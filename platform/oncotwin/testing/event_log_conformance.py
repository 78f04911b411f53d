"""What every event log must do, whatever keeps it; run by tests/conformance over each adapter.

A plug-in's tests subclass `EventLogConformance` and provide two fixtures: `open_log`, which opens one and the same
fresh topic anew at each call, and `store`, a fresh twin store, which keeps offsets and leases.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Protocol

import pytest

from oncotwin.domain.errors import FencedError, LogError
from oncotwin.ports.event_log import EventLog, LogRecord, NewRecord, partition_of
from oncotwin.ports.twin_rows import CommitGroup
from oncotwin.ports.twin_store import TwinStore

N_PARTITIONS = 4
WAIT_S = 10.0
"""Enough for a broker on a loaded machine; a log that has records returns at once."""
MUCH = 1 << 30


class OpenLog(Protocol):
    """Opens the test's topic; each call gives a log object of its own."""

    def __call__(self, n_partitions: int = N_PARTITIONS) -> EventLog:
        """Open it, making it at the first call."""
        ...


class EventLogConformance:
    """Laws of the port `oncotwin.ports.event_log.EventLog`."""

    def test_a_fresh_topic_is_empty(self, open_log: OpenLog) -> None:
        log = open_log()
        assert log.n_partitions == N_PARTITIONS
        zeros = dict.fromkeys(range(N_PARTITIONS), 0)
        assert log.begin_offsets() == zeros
        assert log.end_offsets() == zeros

    def test_an_existing_topic_keeps_its_number_of_partitions(self, open_log: OpenLog) -> None:
        open_log()
        assert open_log(N_PARTITIONS + 3).n_partitions == N_PARTITIONS

    def test_a_record_comes_back_whole(self, open_log: OpenLog) -> None:
        log = open_log()
        sent = NewRecord("north/p1", b'{"psa": 4.1}', (("ce_id", b"1"), ("ce_raw", bytes(range(256))), ("ce_id", b"")))
        before = datetime.now(UTC) - timedelta(seconds=5)
        (place,) = log.append([sent])
        (found,) = read_all(log)
        assert (found.partition, found.offset) == place
        assert (found.key, found.value, found.headers) == (sent.key, sent.value, sent.headers)
        assert before < found.appended_at < datetime.now(UTC) + timedelta(seconds=5)
        assert found.appended_at.utcoffset() == timedelta(0)

    def test_a_key_chooses_its_partition(self, open_log: OpenLog) -> None:
        log = open_log()
        keys = [f"north/p{i}" for i in range(50)]
        places = log.append([NewRecord(key, b"x") for key in keys])
        assert [partition for partition, _ in places] == [partition_of(key, N_PARTITIONS) for key in keys]
        assert len({partition for partition, _ in places}) == N_PARTITIONS

    def test_unicode_keys_and_values(self, open_log: OpenLog) -> None:
        log = open_log()
        keys = ["süd/Ä-1", "東京/患者-7", "north/🧬", "e\u0301"]
        log.append([NewRecord(key, key.encode()) for key in keys])
        assert {record.key: record.value.decode() for record in read_all(log)} == dict(zip(keys, keys, strict=True))

    def test_offsets_are_dense_and_rise_by_one(self, open_log: OpenLog) -> None:
        log = open_log()
        places = []
        for start in range(0, 60, 20):
            places += log.append([NewRecord(f"north/p{i}", b"x") for i in range(start, start + 20)])
        for partition in range(N_PARTITIONS):
            offsets = [offset for place, offset in places if place == partition]
            assert offsets == list(range(len(offsets)))
            assert log.end_offsets()[partition] == len(offsets)

    def test_order_within_a_key_over_several_writers(self, open_log: OpenLog) -> None:
        one, other = open_log(), open_log()
        for i in range(40):
            writer = one if i % 2 else other
            writer.append([NewRecord("north/a", f"a{i}".encode()), NewRecord("north/b", f"b{i}".encode())])
        found = read_all(open_log())
        for key in "ab":
            values = [record.value.decode() for record in found if record.key == f"north/{key}"]
            assert values == [f"{key}{i}" for i in range(40)]

    def test_restart_from_a_stored_offset(self, open_log: OpenLog) -> None:
        log = open_log()
        log.append([NewRecord("north/a", str(i).encode()) for i in range(10)])
        partition = partition_of("north/a", N_PARTITIONS)
        first = log.read({partition: 0}, 4, MUCH, WAIT_S)
        log.close()
        again = open_log()
        rest = again.read({partition: first[-1].offset + 1}, 100, MUCH, WAIT_S)
        assert [int(record.value) for record in [*first, *rest]] == list(range(10))
        assert [int(record.value) for record in again.read({partition: 0}, 100, MUCH, WAIT_S)] == list(range(10))
        assert [int(record.value) for record in again.read({partition: 7}, 100, MUCH, WAIT_S)] == [7, 8, 9]

    def test_only_the_partitions_asked_for_are_read(self, open_log: OpenLog) -> None:
        log = open_log()
        log.append([NewRecord(f"north/p{i}", b"x") for i in range(40)])
        end = log.end_offsets()
        for partitions in ({0, 2}, {1}, {0, 1, 3}):
            found = drain(log, dict.fromkeys(partitions, 0), sum(end[partition] for partition in partitions))
            assert {record.partition for record in found} == partitions

    def test_a_read_is_bounded_in_records(self, open_log: OpenLog) -> None:
        log = open_log()
        log.append([NewRecord(f"north/p{i % 13}", str(i).encode()) for i in range(100)])
        positions = dict.fromkeys(range(N_PARTITIONS), 0)
        seen: list[LogRecord] = []
        while len(seen) < 100:
            batch = log.read(positions, 7, MUCH, WAIT_S)
            assert 0 < len(batch) <= 7
            seen += batch
            positions = following(positions, batch)
        assert sorted(int(record.value) for record in seen) == list(range(100))

    def test_a_read_is_bounded_in_bytes_but_always_moves(self, open_log: OpenLog) -> None:
        log = open_log()
        log.append([NewRecord("north/a", bytes([65 + i]) * 1_000) for i in range(10)])
        partition = partition_of("north/a", N_PARTITIONS)
        assert len(log.read({partition: 0}, 100, 3_500, WAIT_S)) == 3
        assert len(log.read({partition: 3}, 100, 10, WAIT_S)) == 1
        assert len(drain(log, {partition: 4}, 6)) == 6

    def test_records_of_64_kibibytes(self, open_log: OpenLog) -> None:
        log = open_log()
        values = [bytes([i]) * 65_536 for i in range(1, 60)]
        log.append([NewRecord("north/a", value) for value in values])
        assert [record.value for record in read_all(log)] == values

    def test_at_the_end_a_read_waits_and_returns_nothing(self, open_log: OpenLog) -> None:
        log = open_log()
        log.append([NewRecord("north/a", b"x")])
        began = time.monotonic()
        assert log.read(log.end_offsets(), 10, MUCH, 0.3) == []
        assert 0.25 < time.monotonic() - began < 3

    def test_a_waiting_reader_gets_what_comes_later(self, open_log: OpenLog) -> None:
        reader, writer = open_log(), open_log()
        assert reader.read(reader.end_offsets(), 10, MUCH, 0.1) == []
        writer.append([NewRecord("north/a", b"late")])
        began = time.monotonic()
        (found,) = reader.read(dict.fromkeys(range(N_PARTITIONS), 0), 10, MUCH, WAIT_S)
        assert found.value == b"late"
        assert time.monotonic() - began < 5

    def test_what_is_there_comes_without_waiting(self, open_log: OpenLog) -> None:
        log = open_log()
        log.append([NewRecord(f"north/p{i}", b"x") for i in range(40)])
        positions, n_seen = dict.fromkeys(range(N_PARTITIONS), 0), 0
        while batch := open_log().read(positions, 7, MUCH, 0.0):
            positions = following(positions, batch)
            n_seen += len(batch)
        assert n_seen == 40

    def test_nothing_is_nothing(self, open_log: OpenLog) -> None:
        log = open_log()
        assert log.append([]) == []
        assert log.read({}, 10, MUCH, 0.0) == []

    def test_an_empty_value_or_key_is_refused_and_nothing_of_the_batch_is_appended(self, open_log: OpenLog) -> None:
        log = open_log()
        for bad in (NewRecord("north/a", b""), NewRecord("", b"x"), NewRecord("north/a", b"x" * 1_000_000)):
            with pytest.raises(LogError):
                log.append([NewRecord("north/a", b"good"), bad])
        assert sum(log.end_offsets().values()) == 0

    def test_a_position_that_cannot_be_is_refused(self, open_log: OpenLog) -> None:
        log = open_log()
        log.append([NewRecord("north/a", b"x")])
        for positions in ({0: 5_000}, {0: -1}, {N_PARTITIONS: 0}):
            with pytest.raises(LogError, match="partition"):
                log.read(positions, 10, MUCH, WAIT_S)

    def test_closing_twice_is_harmless(self, open_log: OpenLog) -> None:
        log = open_log()
        log.append([NewRecord("north/a", b"x")])
        log.close()
        log.close()

    def test_a_large_backlog_is_read_once_and_in_order(self, open_log: OpenLog) -> None:
        n_keys, n_each = 500, 100
        writer = open_log()
        for i in range(0, n_each, 20):
            writer.append([NewRecord(f"north/p{k}", str(j).encode()) for j in range(i, i + 20) for k in range(n_keys)])
        seen: dict[str, list[int]] = {}
        for record in drain(open_log(), dict.fromkeys(range(N_PARTITIONS), 0), n_keys * n_each, max_records=5_000):
            seen.setdefault(record.key, []).append(int(record.value))
        assert len(seen) == n_keys
        assert all(values == list(range(n_each)) for values in seen.values())

    def test_a_long_partition_does_not_keep_the_others_waiting(self, open_log: OpenLog) -> None:
        writer = open_log()
        keys = {partition_of(f"north/p{i}", N_PARTITIONS): f"north/p{i}" for i in range(100)}
        for key in keys.values():
            writer.append([NewRecord(key, b"x") for _ in range(2_000)])
        log = open_log()
        positions = dict.fromkeys(range(N_PARTITIONS), 0)
        shares = []
        for _ in range(10):
            batch = log.read(positions, 400, MUCH, WAIT_S)
            positions = following(positions, batch)
            shares.append({record.partition for record in batch})
        # A log that fetches partition by partition may come to the others a read later, and not much later.
        assert all(share == set(range(N_PARTITIONS)) for share in shares[3:])

    def test_two_consumers_share_partitions_under_fenced_leases(self, open_log: OpenLog, store: TwinStore) -> None:
        n_records = 200
        open_log().append([NewRecord(f"north/p{i % 20}", str(i).encode()) for i in range(n_records)])
        now = datetime(2026, 1, 1, tzinfo=UTC)
        effects: list[LogRecord] = []
        one = _Consumer("one", open_log(), store, effects)
        other = _Consumer("other", open_log(), store, effects)
        one.lease(now, 2)
        other.lease(now, 2)
        assert set(one.epochs).isdisjoint(other.epochs)
        assert set(one.epochs) | set(other.epochs) == set(range(N_PARTITIONS))
        one.step(now, 20)
        other.step(now, 20)
        # The first falls asleep after reading; its leases run out and the second takes its partitions over.
        asleep = one.read(10)
        later = now + timedelta(seconds=60)
        other.lease(later, N_PARTITIONS)
        assert set(other.epochs) == set(range(N_PARTITIONS))
        other.step(later, 20)
        with pytest.raises(FencedError):
            one.commit(asleep, later)
        while len(effects) < n_records:
            other.step(later, 50)
        assert sorted(int(record.value) for record in effects) == list(range(n_records))
        for key in {record.key for record in effects}:
            values = [int(record.value) for record in effects if record.key == key]
            assert values == sorted(values)


class _Consumer:
    """Reads its leased partitions from the stored offsets; effects count only once their commit stands."""

    def __init__(self, name: str, log: EventLog, store: TwinStore, effects: list[LogRecord]) -> None:
        self.epochs: dict[int, int] = {}
        self._name, self._log, self._store, self._effects = name, log, store, effects

    def lease(self, now: datetime, max_partitions: int) -> None:
        """Take what is free."""
        everything = range(N_PARTITIONS)
        self.epochs = self._store.acquire_leases("events", self._name, everything, 30.0, now, max_partitions)

    def read(self, max_records: int) -> list[LogRecord]:
        """Read from the stored offsets."""
        stored = self._store.offsets("events")
        return self._log.read({p: stored.get(p, 0) for p in self.epochs}, max_records, MUCH, 1.0)

    def commit(self, batch: list[LogRecord], now: datetime) -> None:
        """Commit the batch's offsets; its effects follow only when that stood."""
        epochs = {record.partition: self.epochs[record.partition] for record in batch}
        self._store.commit(CommitGroup("events", following({}, batch), epochs, twins=(), committed_at=now))
        self._effects += batch

    def step(self, now: datetime, max_records: int) -> None:
        """Read and commit once."""
        self.commit(self.read(max_records), now)


def following(positions: Mapping[int, int], batch: Iterable[LogRecord]) -> dict[int, int]:
    """Positions to go on from after a batch."""
    return {**positions, **{record.partition: record.offset + 1 for record in batch}}


def drain(log: EventLog, positions: dict[int, int], n_records: int, max_records: int = 1_000) -> list[LogRecord]:
    """Read until so many records came, failing when the log has no more."""
    seen: list[LogRecord] = []
    while len(seen) < n_records:
        batch = log.read(positions, max_records, MUCH, WAIT_S)
        assert batch, f"the log ended after {len(seen)} of {n_records} records"
        seen += batch
        positions = following(positions, batch)
    assert len(seen) == n_records
    return seen


def read_all(log: EventLog) -> list[LogRecord]:
    """Everything in a log that nobody appends to meanwhile."""
    return drain(log, log.begin_offsets(), sum(log.end_offsets().values()))
