"""What every twin store must do, whatever database keeps it; run by tests/conformance over SQLite and PostgreSQL.

A plug-in's tests subclass `TwinStoreConformance` and provide the fixture `open_store`, which opens one and the same
fresh store anew at each call, as another process would.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from oncotwin.domain.errors import FencedError, StaleVersionError
from oncotwin.ports.twin_rows import (
    AlertRow,
    CommitGroup,
    DeadLetter,
    EstimateRow,
    JournalEntry,
    OutboxRow,
    SnapshotRow,
    TwinCommit,
)
from oncotwin.ports.twin_store import TwinStore

OpenStore = Callable[[], TwinStore]
NOW = datetime(2026, 1, 1, 12, 0, 0, 123_456, tzinfo=UTC)
LOG = "embedded:log#events"
TWIN, OTHER = "north/p1", "süd/p-2"


def day(n: float) -> datetime:
    """A clinical time, n days after the first."""
    return datetime(1995, 6, 27, tzinfo=UTC) + timedelta(days=n)


def entry(event_id: str, n: float, twin_id: str = TWIN, source: str = "urn:lab", **other: Any) -> JournalEntry:
    """A journal entry of day n."""
    values: dict[str, Any] = {
        "kind": "lab.result", "time_precision": "instant", "recorded_at": day(n + 0.5), "received_at": NOW,
        "status": "final", "content_hash": f"hash-{event_id}", "payload": f'{{"id": "{event_id}"}}'.encode(),
        "partition": 3, "offset": 1 << 40, **other,
    }
    return JournalEntry(source, event_id, twin_id, time=day(n), **values)


def snapshot(n: float, n_folded: int, twin_id: str = TWIN, version: str = "1", state: bytes = b"") -> SnapshotRow:
    """A snapshot of day n; any bytes are a state here."""
    state = state or f"state {n} {n_folded}".encode() + bytes(range(256))
    return SnapshotRow(twin_id, day(n), n_folded, version, state, hashlib.sha256(state).hexdigest())


def estimate(event_id: str, n: float, twin_id: str = TWIN, body: bytes = b'{"model": "m"}') -> EstimateRow:
    """An estimate after the event of day n."""
    return EstimateRow(twin_id, day(n), "urn:lab", event_id, "1", body, 1.5)


def alert(alert_id: str, n: float, twin_id: str = TWIN) -> AlertRow:
    """An alert raised by the event of day n."""
    return AlertRow(
        twin_id, alert_id, day(n), "psa", "drift", "warning", "PSA rises", "measure again", day(n - 30), b'{"n": 1}'
    )


def letter(rejection_id: str, **other: Any) -> DeadLetter:
    """A refused event."""
    values: dict[str, Any] = {
        "reason_code": "wrong_unit", "reason": "unit 'cm3' is no length", "where": "data.unit", "remedy": "send mm",
        "raw": b"\x00\xff not JSON", "twin_id": None, "source": None, "event_id": None, "received_at": NOW, **other,
    }
    return DeadLetter(rejection_id, **values)


def twin(version: int, twin_id: str = TWIN, **parts: Any) -> TwinCommit:
    """One twin's share, built on a version."""
    snapshots = parts.pop("snapshots", (snapshot(version, version + 1, twin_id),))
    return TwinCommit(twin_id, version, version + 1, "1", snapshots, **parts)


def group(*twins: TwinCommit, at: datetime = NOW, epochs: Mapping[int, int] | None = None, **other: Any) -> CommitGroup:
    """A commit group."""
    return CommitGroup(LOG, other.pop("offsets", {}), epochs or {}, twins, at, **other)


class TwinStoreConformance:
    """Laws of the port `oncotwin.ports.twin_store.TwinStore`."""

    def test_a_fresh_store_is_empty(self, open_store: OpenStore) -> None:
        store = open_store()
        assert not any(store.counts().values())
        assert not store.offsets(LOG)
        assert not store.sources()
        assert not store.twin_heads()
        assert not store.twin_heads([])
        assert not store.known([("a", "b")])
        assert not store.known([])
        assert not store.journal(TWIN)
        assert not list(store.estimates())
        assert not store.latest_snapshots([TWIN])
        assert not store.alerts()
        assert not store.dead_letters()
        assert not store.pending_outbox(10)

    def test_everything_comes_back_whole_to_another_process(self, open_store: OpenStore) -> None:
        store = open_store()
        store.register_twins([TWIN])
        rows = entry("e1", 0.25), snapshot(0.25, 1), estimate("e1", 0.25), alert("a1", 0.25)
        message = OutboxRow("twin.estimated", TWIN, "k1", bytes(range(256)), (("ce_id", b"k1"), ("raw", b"\xff\x00")))
        refused = letter("r1", source="urn:lab", event_id="bad", twin_id=TWIN)
        position = store.commit(
            group(
                twin(0, journal=rows[:1], snapshots=rows[1:2], estimates=rows[2:3], alerts=rows[3:]),
                offsets={0: 7, 3: 1 << 40}, dead_letters=(refused,), outbox=(message,), sources={"urn:lab": "north"},
            )
        )
        again = open_store()
        assert position >= 1
        [found] = again.journal(TWIN)
        assert found == entry("e1", 0.25, position=position)
        assert found.time.utcoffset() == timedelta(0)
        assert again.latest_snapshots([TWIN]) == {TWIN: _at(rows[1], position)}
        assert list(again.estimates()) == list(again.estimates(TWIN)) == [_at(rows[2], position)]
        assert again.alerts() == again.alerts(TWIN) == [_at(rows[3], position)]
        [kept] = again.dead_letters()
        assert replace(kept, rejection_id="r1") == refused
        assert [row for _, row in again.pending_outbox(10)] == [message]
        assert again.offsets(LOG) == {0: 7, 3: 1 << 40}
        assert again.offsets("another") == {}
        assert again.sources() == {"urn:lab": "north"}
        head = again.twin_heads([TWIN])[TWIN]
        assert (head.version, head.ordinal, head.model_version, head.last_time) == (1, 0, "1", day(0.25))
        assert again.known([("urn:lab", "e1"), ("urn:lab", "e2"), ("urn:x", "e1")]) == {("urn:lab", "e1"): "hash-e1"}

    def test_twins_are_numbered_once(self, open_store: OpenStore) -> None:
        store = open_store()
        first = store.register_twins([OTHER, TWIN])
        assert sorted(first.values()) == [0, 1]
        assert open_store().register_twins([TWIN, "north/p3", OTHER, TWIN]) == {**first, "north/p3": 2}
        assert store.register_twins([]) == {}
        many = [f"north/q{i}" for i in range(2_500)]
        assert sorted(store.register_twins(many).values()) == list(range(3, 2_503))

    def test_a_commit_on_an_old_version_writes_nothing(self, open_store: OpenStore) -> None:
        store = open_store()
        store.register_twins([TWIN, OTHER])
        store.commit(group(twin(0, journal=(entry("e1", 0),)), offsets={0: 1}))
        before = store.counts()
        for stale in (twin(0, journal=(entry("e2", 1),)), twin(2, journal=(entry("e2", 1),))):
            with pytest.raises(StaleVersionError, match="fold again"):
                store.commit(
                    group(
                        twin(0, OTHER, journal=(entry("o1", 0, OTHER),)), stale, offsets={0: 9}, sources={"s": "i"},
                        dead_letters=(letter("r"),), outbox=(OutboxRow("t", "k", "m", b"x"),),
                    )
                )
        assert store.counts() == before
        assert store.offsets(LOG) == {0: 1}
        assert store.sources() == {}
        assert OTHER not in store.twin_heads()

    def test_a_twin_never_registered_is_stale(self, open_store: OpenStore) -> None:
        with pytest.raises(StaleVersionError):
            open_store().commit(group(twin(0)))

    def test_an_event_enters_the_journal_once(self, open_store: OpenStore) -> None:
        store = open_store()
        store.register_twins([TWIN, OTHER])
        store.commit(group(twin(0, journal=(entry("e1", 0),))))
        before = store.counts()
        with pytest.raises(StaleVersionError, match="read again"):
            store.commit(group(twin(0, OTHER, journal=(entry("o1", 0, OTHER), entry("e1", 5, OTHER))), offsets={1: 1}))
        assert store.counts() == before
        assert store.offsets(LOG) == {}
        assert OTHER not in store.twin_heads()
        store.commit(group(twin(1, journal=(entry("e1", 0, source="urn:other-lab"),))))

    def test_the_journal_is_read_in_the_order_of_the_fold(self, open_store: OpenStore) -> None:
        store = open_store()
        store.register_twins([TWIN])
        # Databases sort text in ways of their own: capitals, dashes and letters beyond ASCII tell them apart.
        keys = [("urn:b", "a"), ("urn:B", "b"), ("urn:a", "é"), ("urn:a", "f"), ("urn:a", "F"), ("urn:a", "-f")]
        entries = [entry(event_id, 1, source=source) for source, event_id in keys]
        late = [entry("x", 1.5), entry("y", 0.5), entry("z", -40_000)]
        store.commit(group(twin(0, journal=(*entries, *late))))
        found = [(row.time, row.source, row.event_id) for row in store.journal(TWIN)]
        assert found == sorted((row.time, row.source, row.event_id) for row in (*entries, *late))
        assert [row.event_id for row in store.journal(TWIN, since=day(1.5))] == ["x"]
        assert store.journal(OTHER) == []

    def test_a_lease_is_one_workers_until_it_runs_out(self, open_store: OpenStore) -> None:
        one, other = open_store(), open_store()
        first = one.acquire_leases(LOG, "one", range(4), 30.0, NOW, 3)
        assert len(first) == 3
        second = other.acquire_leases(LOG, "other", range(4), 30.0, NOW, 4)
        assert set(first).isdisjoint(second)
        assert set(first) | set(second) == set(range(4))
        soon = NOW + timedelta(seconds=20)
        assert one.acquire_leases(LOG, "one", range(4), 30.0, soon, 4) == first
        # The other did not renew; only its leases are free now, under a higher epoch.
        later = NOW + timedelta(seconds=40)
        grown = one.acquire_leases(LOG, "one", range(4), 30.0, later, 4)
        assert set(grown) == set(range(4))
        assert all(grown[partition] == epoch for partition, epoch in first.items())
        assert all(grown[partition] > epoch for partition, epoch in second.items())
        assert other.acquire_leases(LOG, "other", range(4), 30.0, later, 4) == {}
        assert other.acquire_leases("another log", "other", [0], 30.0, later, 4).keys() == {0}

    def test_workers_share_partitions_fairly(self, open_store: OpenStore) -> None:
        one, other = open_store(), open_store()
        assert len(one.acquire_leases(LOG, "one", range(5), 30.0, NOW)) == 5
        assert other.acquire_leases(LOG, "other", range(5), 30.0, NOW) == {}
        kept = one.acquire_leases(LOG, "one", range(5), 30.0, NOW)
        taken = other.acquire_leases(LOG, "other", range(5), 30.0, NOW)
        assert (len(kept), len(taken)) == (3, 2)
        assert set(kept).isdisjoint(taken)
        other.release_leases(LOG, "other", taken)
        assert len(one.acquire_leases(LOG, "one", range(5), 30.0, NOW)) == 5
        # One that fell silent counts no longer once its announcement ran out.
        other.acquire_leases(LOG, "other", range(5), 30.0, NOW)
        later = NOW + timedelta(seconds=31)
        assert len(one.acquire_leases(LOG, "one", range(5), 30.0, later)) == 5

    def test_leases_are_given_back(self, open_store: OpenStore) -> None:
        one, other = open_store(), open_store()
        held = one.acquire_leases(LOG, "one", range(4), 30.0, NOW, 4)
        other.release_leases(LOG, "other", held)
        assert other.acquire_leases(LOG, "other", range(4), 30.0, NOW, 4) == {}
        # A worker that is to hold fewer gives the rest back and keeps its epochs on those that stay.
        fewer = one.acquire_leases(LOG, "one", range(4), 30.0, NOW, 2)
        assert fewer.items() < held.items()
        assert len(fewer) == 2
        taken = other.acquire_leases(LOG, "other", range(4), 30.0, NOW, 2)
        assert set(taken) == set(held) - set(fewer)
        assert all(taken[partition] > held[partition] for partition in taken)
        one.release_leases(LOG, "one", fewer)
        assert len(other.acquire_leases(LOG, "other", range(4), 30.0, NOW, 4)) == 4

    def test_a_worker_that_slept_through_its_lease_is_fenced(self, open_store: OpenStore) -> None:
        one, other = open_store(), open_store()
        one.register_twins([TWIN])
        old = one.acquire_leases(LOG, "one", [0, 1], 30.0, NOW, 2)
        later = NOW + timedelta(minutes=5)
        new = other.acquire_leases(LOG, "other", [0], 30.0, later, 1)
        with pytest.raises(FencedError, match="acquire"):
            one.commit(group(twin(0, journal=(entry("e1", 0),)), epochs=old, offsets={0: 5, 1: 5}))
        assert one.offsets(LOG) == {}
        assert not any(count for name, count in one.counts().items() if name != "twins")
        other.commit(group(twin(0, journal=(entry("e1", 0),)), epochs=new, offsets={0: 5}))
        one.commit(group(epochs={1: old[1]}, offsets={1: 5}))
        assert one.offsets(LOG) == {0: 5, 1: 5}
        with pytest.raises(FencedError):
            one.commit(group(epochs={7: 1}))
        # A lease that ran out and that nobody took in between goes on as it was.
        assert one.acquire_leases(LOG, "one", [1], 30.0, later, 1) == {1: old[1]}

    def test_what_is_to_be_published_is_published_in_order_and_once(self, open_store: OpenStore) -> None:
        store = open_store()
        messages = [OutboxRow("t", "k", f"m{i}", b"x" * (i + 1)) for i in range(5)]
        store.commit(group(outbox=tuple(messages[:3])))
        store.commit(group(outbox=tuple(messages[2:])))
        pending = store.pending_outbox(4)
        assert [row for _, row in pending] == messages[:4]
        store.mark_published([number for number, _ in pending])
        store.mark_published([])
        assert [row for _, row in open_store().pending_outbox(4)] == messages[4:]
        store.commit(group(outbox=tuple(messages[:2])))
        assert [row.message_key for _, row in store.pending_outbox(4)] == ["m4"]
        assert store.counts()["outbox_pending"] == 1

    def test_dead_letters_are_kept_once_and_come_back_when_refused_again(self, open_store: OpenStore) -> None:
        store = open_store()
        one, two, three = (letter(f"r{i}", event_id=f"e{i}") for i in (1, 2, 3))
        store.commit(group(dead_letters=(one, two)))
        assert store.add_dead_letters([two, three]) == 1
        assert store.add_dead_letters([]) == 0
        assert [row.event_id for row in store.dead_letters()] == ["e1", "e2", "e3"]
        # A store may keep letters under other ids than it was given: a hash of their bytes says too much.
        store.mark_resubmitted([row.rejection_id for row in store.dead_letters() if row.event_id != "e2"])
        store.mark_resubmitted([])
        assert [row.event_id for row in store.dead_letters()] == ["e2"]
        assert [row.event_id for row in store.dead_letters("resubmitted")] == ["e1", "e3"]
        assert len(store.dead_letters(None)) == 3
        assert store.counts()["rejected_open"] == 1
        store.commit(group(dead_letters=(one,)))
        assert [row.event_id for row in store.dead_letters()] == ["e1", "e2"]

    def test_any_bytes_can_be_refused_and_kept(self, open_store: OpenStore) -> None:
        store = open_store()
        nasty = "nul \x00, half \ud800, RTL \u202e, quote '; DROP TABLE journal; -- %s %(x)s ?"
        store.commit(group(dead_letters=(letter("r1", reason=nasty, source=nasty, event_id=nasty, where=nasty),)))
        [found] = store.dead_letters()
        assert "DROP TABLE journal; -- %s %(x)s ?" in found.reason
        assert found.raw == b"\x00\xff not JSON"
        assert store.known([(nasty.replace("\x00", "").replace("\ud800", ""), "'; --")]) == {}

    def test_intake_remembers_what_it_appended(self, open_store: OpenStore) -> None:
        store = open_store()
        hashes = {("urn:lab", f"e{i}"): f"h{i}" for i in range(3_000)}
        store.intake_record(hashes, dict.fromkeys(hashes, TWIN))
        store.intake_record(
            {("urn:lab", "e1"): "h1", ("urn:pacs", "e1"): "p1"}, {("urn:lab", "e1"): TWIN, ("urn:pacs", "e1"): OTHER}
        )
        store.intake_record({}, {})
        found = open_store().intake_known([*hashes, ("urn:pacs", "e1"), ("urn:lab", "new")])
        assert found == {**hashes, ("urn:pacs", "e1"): "p1"}
        assert store.intake_known([]) == {}

    def test_a_group_of_many_twins(self, open_store: OpenStore) -> None:
        store = open_store()
        ids = [f"north/p{i:04d}" for i in range(1_500)]
        store.register_twins(ids)
        twins = [
            twin(
                0, name, journal=(entry(f"e{name}", 1, name),), snapshots=(snapshot(1, 1, name),),
                estimates=(estimate(f"e{name}", 1, name), estimate(f"e{name}", 1, name, b"{}")),
            )
            for name in reversed(ids)
        ]
        store.commit(group(*twins))
        assert len(store.latest_snapshots(ids)) == len(store.twin_heads(ids)) == len(store.twin_heads()) == 1_500
        found = list(store.estimates())
        assert [row.twin_id for row in found] == sorted(ids * 2)
        assert [row.body for row in found[:2]] == [b'{"model": "m"}', b"{}"]
        assert store.counts()["estimates"] == 3_000


def _at(row: Any, position: int) -> Any:
    """The row as it stands after its commit."""
    return replace(row, position=position)
