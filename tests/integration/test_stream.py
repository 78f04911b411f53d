"""The whole path with real parts: log -> worker -> twins -> store -> topics, embedded and deployed alike."""

from __future__ import annotations

import json
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from oncotwin.adapters.event_log import open_event_log
from oncotwin.adapters.local_host import LocalHost
from oncotwin.adapters.sql_store import SqlTwinStore, open_twin_store
from oncotwin.bootstrap.wiring import SystemClock, history
from oncotwin.domain.amendment import Accepted
from oncotwin.domain.bundle import ModelBundle
from oncotwin.domain.errors import FencedError, StoreError
from oncotwin.filters.unscented import UnscentedFilter
from oncotwin.models.base import Hyperparameters, TumourModel
from oncotwin.models.tumour_burden import TumourBurden
from oncotwin.ports.event_log import EventLog, LogRecord, NewRecord
from oncotwin.ports.twin_host import Delivery
from oncotwin.ports.twin_store import CommitGroup
from oncotwin.testing.memory_history import MemoryHistory
from oncotwin.testing.patients import accepted, correction, diameter, event_line, treatment
from oncotwin.twin import fold
from oncotwin.twin.amendments import moved
from oncotwin.twin.drift import DriftSettings
from oncotwin.twin.fold import Binding, bind
from oncotwin.twin.journal import in_force
from oncotwin.twin.replay import believe
from oncotwin.twin.shard import TwinShard
from oncotwin.twin.state import digest, from_bytes, to_bytes
from oncotwin.twin.timeline import Cursor, Item, Step, plan_steps
from oncotwin_flows.groups import Bounds, Tally
from oncotwin_flows.intake import Intake, IntakeRules
from oncotwin_flows.relay import Relay
from oncotwin_flows.resubmit import resubmit_letters
from oncotwin_flows.worker import Worker, WorkerSettings

BOUNDS = Bounds(commit_events=7, poll_seconds=0.05)


class SteppingClock(SystemClock):
    """A second later at each look."""

    def __init__(self) -> None:
        self._now = datetime(2026, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        self._now += timedelta(seconds=1)
        return self._now

    def leap(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)


@dataclass
class Site:
    """One installation under test."""

    log: EventLog
    store: SqlTwinStore
    binding: Binding
    clock: SteppingClock
    url: str
    name: str
    opened: list[EventLog]

    def ingest(self, lines: list[bytes]) -> list[int]:
        report = Intake(self.log, self.store, self.clock, IntakeRules()).ingest(lines)
        return [report.n_accepted, report.n_duplicates, len(report.rejections)]

    def worker(self, name: str = "w1") -> Worker:
        host = LocalHost(TwinShard(self.binding, history(self.store, "1")))
        return Worker(
            self.log, self.store, host, self.clock, WorkerSettings(name, "log", "1", 1e6, timedelta(minutes=5))
        )

    def work(self, name: str = "w1") -> Tally:
        worker = self.worker(name)
        tally = worker.run(BOUNDS)
        worker.release()
        return tally

    def topic(self, name: str) -> EventLog:
        self.opened.append(open_event_log(self.url, f"{name}.{id(self)}", 2))
        return self.opened[-1]


@pytest.fixture(params=["embedded", "deployed"])
def new_site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Site]]:
    """Makes fresh installations."""
    with ExitStack() as stack:
        made: list[Site] = []

        def make() -> Site:
            folder = tmp_path / str(len(made))
            name = f"stream.{tmp_path.name}.{len(made)}"
            if request.param == "embedded":
                log_url, store_url = f"embedded:{folder / 'log'}", f"sqlite:///{folder / 'store.sqlite'}"
            else:
                log_url = f"kafka://{request.getfixturevalue('kafka_broker')}"
                store_url = stack.enter_context(request.getfixturevalue("postgres_server").database())
            log = open_event_log(log_url, name, 3)
            store = open_twin_store(store_url)
            stack.callback(store.close)
            binding = bind("1", ModelBundle({}), [TumourBurden()], UnscentedFilter(), DriftSettings())
            made.append(Site(log, store, binding, SteppingClock(), log_url, name, [log]))
            return made[-1]

        yield make
        for site in made:
            for opened in site.opened:
                opened.close()


@pytest.fixture
def site(new_site: Callable[[], Site]) -> Site:
    return new_site()


def cohort(n: int = 6, visits: int = 6) -> list[bytes]:
    rng = random.Random(3)
    lines = []
    for p in range(n):
        patient = f"H1/p{p}"
        lines.append(treatment(f"{p}-on", 5, "drugA", "on", patient=patient))
        lines += [diameter(f"{p}-{v}", 40 * v, rng.uniform(8, 60), patient=patient) for v in range(visits)]
    return lines


def digests(site: Site) -> dict[str, str]:
    heads = site.store.twin_heads()
    rows = site.store.latest_snapshots(list(heads))
    return {twin_id: row.digest for twin_id, row in rows.items()}


def replayed(site: Site) -> dict[str, str]:
    """Digests of states folded from the journals alone."""
    return {
        twin_id: digest(to_bytes(believe(site.binding, twin_id, site.store.journal(twin_id)).state))
        for twin_id in site.store.twin_heads()
    }


def test_stream_is_the_fold_of_its_journal(site: Site) -> None:
    lines = cohort()
    assert site.ingest(lines) == [len(lines), 0, 0]
    assert site.ingest(lines) == [0, len(lines), 0]
    tally = site.work()
    assert (tally.n_read, tally.n_accepted, tally.n_rejected) == (len(lines), len(lines), 0)
    assert digests(site) == replayed(site)
    assert sum(site.store.offsets("log").values()) == len(lines)
    assert site.work().n_read == 0


def test_late_and_corrected_events_end_where_an_orderly_stream_ends(site: Site) -> None:
    lines = cohort()
    lines.append(correction("c1", 900, "2-3", "retract", patient="H1/p2"))
    orderly = TwinShard(site.binding, MemoryHistory().reader()).fold(
        [
            Delivery(f"H1/p{p}", p, 0, 0, tuple(e for e in accepted(lines) if e.header.twin_id == f"H1/p{p}"))
            for p in range(6)
        ]
    )
    shuffled = lines + lines[::3]
    random.Random(8).shuffle(shuffled)
    site.log.append([_record(line) for line in shuffled])
    tally = site.work()
    assert tally.n_duplicates == len(lines[::3])
    assert digests(site) == {one.twin_id: one.snapshots[-1].digest for one in orderly} == replayed(site)


def _record(line: bytes) -> NewRecord:
    return NewRecord(json.loads(line)["subject"], line)


def test_two_workers_share_partitions_and_a_fenced_one_writes_nothing(site: Site) -> None:
    lines = cohort()
    site.ingest(lines)
    first = site.worker("w1")
    first.run(Bounds(events=10, commit_events=5, poll_seconds=0.05))
    before = site.store.counts()
    site.clock.leap(2e6)
    site.work("w2")
    assert site.store.counts()["journal"] == len(lines)
    with pytest.raises(FencedError):
        site.store.commit(CommitGroup("log", {0: 0}, {0: 1}, (), site.clock.now()))
    assert before["journal"] < len(lines)
    assert digests(site) == replayed(site)


def test_bad_events_are_kept_listed_mended_and_sent_again(site: Site) -> None:
    good = diameter("g", 0, 20)
    bad = {
        "wrong unit": diameter("b1", 1, 20).replace(b'"mm"', b'"kg"'),
        "future": diameter("b2", 9000, 20),
        "not a number": diameter("b3", 2, 20).replace(b"20}", b"NaN}").replace(b"20,", b"NaN,"),
        "negative": diameter("b4", 3, -4),
        "unknown kind": event_line("tea.served", "b5", 4, {"cups": 1}),
        "oversized": diameter("b6", 5, 20)[:-1] + b', "note": "' + b"x" * 70_000 + b'"}',
        "other content": diameter("g", 0, 21),
        "other institution": diameter("b7", 6, 20, patient="H2/p9", source="urn:oncotwin:H1:ris"),
        "unknown version": diameter("b8", 7, 20).replace(b".v1", b".v9"),
        "no json": b"{ this is not json",
    }
    assert site.ingest([good, *bad.values()]) == [1, 0, len(bad)]
    # The same through the log itself, past the door, as a hospital's own producer would send them.
    site.log.append([NewRecord("H1/p1", line) for line in bad.values()])
    assert site.work().n_rejected == len(bad)
    letters = site.store.dead_letters()
    assert len(letters) == len(bad)
    assert all(letter.reason and letter.remedy for letter in letters)
    assert {letter.raw for letter in letters} >= {bad["wrong unit"], bad["no json"], bad["future"]}
    intake = Intake(site.log, site.store, site.clock, IntakeRules())
    chosen = [letter for letter in letters if letter.event_id == "b1"]
    done = resubmit_letters(site.store, intake, chosen, [diameter("b1", 1, 20)])
    assert done == {"accepted": 1, "duplicate": 0, "closed": 1, "still_rejected": 0}
    assert len(site.store.dead_letters()) == len(bad) - 1
    assert site.work().n_accepted == 1


def test_outbox_reaches_its_topics_once_by_key(site: Site) -> None:
    site.ingest(cohort(3))
    site.work()
    topics: dict[str, EventLog] = {}

    def open_topic(name: str) -> EventLog:
        topics[name] = site.topic(name)
        return topics[name]

    relay = Relay(site.store, open_topic)
    n = relay.publish()
    assert n > 0 and relay.publish() == 0
    log = topics["twin.estimated"]
    records: list[LogRecord] = []
    positions = log.begin_offsets()
    while found := log.read(positions, 1_000, 10_000_000, 1.0):
        records += found
        for record in found:
            positions[record.partition] = record.offset + 1
    assert len(records) == len({dict(r.headers)["ce_id"] for r in records})
    assert {r.key for r in records} == {"H1/p0", "H1/p1", "H1/p2"}


def n_folded(site: Site, twin_id: str) -> int:
    return believe(site.binding, twin_id, site.store.journal(twin_id)).state.n_folded


@pytest.mark.parametrize("first", ["event", "correction", "together"])
def test_wrong_patient_moves_the_event_whichever_comes_first(site: Site, first: str) -> None:
    lines = [diameter(f"a{i}", 30 * i, 20 + i, patient="H1/p1") for i in range(4)]
    lines += [diameter(f"b{i}", 30 * i, 40 + i, patient="H1/p2") for i in range(4)]
    move = correction("c", 200, "a2", "wrong_patient", right_patient="H1/p2")
    for part in {"event": [lines, [move]], "correction": [[move], lines], "together": [[move, *lines]]}[first]:
        site.log.append([_record(line) for line in part])
        site.work()
    [right] = TwinShard(site.binding, MemoryHistory().reader()).fold(
        [Delivery("H1/p2", 0, 0, 0, tuple(accepted([*lines[4:], diameter("a2", 60, 22, patient="H1/p2")])))]
    )
    # The moved event is folded under its own source and id, as if it had been posted to the right patient; the state
    # remembers only that the journal holds such a one.
    present = from_bytes(site.store.latest_snapshots(["H1/p2"])["H1/p2"].state)
    assert to_bytes(replace(present, guarded=False)) == right.snapshots[-1].state
    assert digests(site) == replayed(site)
    assert (n_folded(site, "H1/p1"), n_folded(site, "H1/p2")) == (3, 5)


def test_a_move_is_taken_back_outdone_corrected_and_passed_on(new_site: Callable[[], Site]) -> None:
    site = new_site()
    lines = [diameter(f"a{i}", 30 * i, 20 + i, patient="H1/p1") for i in range(3)]
    for p in (2, 3):
        lines.append(diameter(f"b{p}", 10, 40, patient=f"H1/p{p}"))
    steps: list[tuple[list[bytes], tuple[int, int, int]]] = [
        (lines, (3, 1, 1)),
        ([correction("c1", 200, "a1", "wrong_patient", right_patient="H1/p2")], (2, 2, 1)),
        # Taken back: the event stands where it was.
        ([correction("c2", 201, "c1", "retract")], (3, 1, 1)),
        # The correction of the correction is itself wrong.
        ([correction("c3", 202, "c2", "retract")], (2, 2, 1)),
        # Outdone by a later word of the same patient's.
        ([correction("c4", 203, "a1", "wrong_patient", right_patient="H1/p3")], (2, 1, 2)),
        # Passed on by the one who received it, and retracted there.
        ([correction("c5", 204, "a1", "wrong_patient", right_patient="H1/p2", patient="H1/p3")], (2, 2, 1)),
        ([correction("c6", 205, "a1", "retract", patient="H1/p2")], (2, 1, 1)),
        ([correction("c7", 206, "c6", "retract", patient="H1/p2")], (2, 2, 1)),
        # And home again: what moved it away before does not hold it off.
        ([correction("c8", 207, "a1", "wrong_patient", right_patient="H1/p1", patient="H1/p2")], (3, 1, 1)),
        ([correction("c9", 208, "a0", "retract")], (2, 1, 1)),
    ]
    for new, expected in steps:
        site.log.append([_record(line) for line in new])
        site.work()
        assert tuple(n_folded(site, f"H1/p{p}") for p in (1, 2, 3)) == expected, new
        assert digests(site) == replayed(site)
    at_the_end = digests(site)
    every = [line for new, _ in steps for line in new]
    by_twin: dict[str, list[Accepted]] = defaultdict(list)
    for event in accepted(every):
        by_twin[event.header.twin_id].append(event)
    for twin_id, events in moved(by_twin).items():
        items = in_force(events, twin_id)
        assert len(items) == n_folded(site, twin_id)
    # The same in another order ends in the same bits.
    random.Random(5).shuffle(every)
    other = new_site()
    for line in every:
        other.log.append([_record(line)])
        other.work()
    assert digests(other) == at_the_end


def test_what_was_believed_before_stays_readable(site: Site) -> None:
    site.ingest([diameter(f"m{i}", 30 * i, 30) for i in range(5)])
    site.work()
    known_at = site.clock.now()
    before = digests(site)["H1/p1"]
    site.ingest([diameter("late", 45, 80)])
    site.work()
    journal = site.store.journal("H1/p1", known_at=known_at)
    assert digest(to_bytes(believe(site.binding, "H1/p1", journal).state)) == before
    assert digests(site)["H1/p1"] != before
    assert site.store.beliefs("H1/p1", known_at=known_at)[-1].digest == before


def test_a_poison_event_stalls_nobody(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    real = plan_steps

    def explode(
        model: TumourModel, hyper: Hyperparameters, cursor: Cursor, items: Sequence[Item], keys: Sequence[int]
    ) -> tuple[list[Step], Cursor]:
        if any(item.header.event_id == "poison" for item in items):
            raise ZeroDivisionError("kernel failed")
        return real(model, hyper, cursor, items, keys)

    monkeypatch.setattr(fold, "plan_steps", explode)
    site.ingest([diameter("ok", 0, 20), diameter("poison", 10, 20), diameter("ok2", 20, 20, patient="H1/p2")])
    tally = site.work()
    assert (tally.n_accepted, tally.n_rejected) == (2, 1)
    [letter] = site.store.dead_letters()
    assert letter.event_id == "poison" and "ZeroDivisionError" in letter.reason
    assert set(digests(site)) == {"H1/p1", "H1/p2"}


def test_after_a_failed_commit_nothing_read_is_skipped(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [diameter("g", 0, 20), b"{ this is no event", *cohort(n=3)]
    site.log.append([NewRecord("H1/p1", line) for line in lines])
    worker = site.worker()
    real, calls = site.store.commit, 0

    def fail_once(group: CommitGroup) -> int:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise StoreError("the store is away")
        return real(group)

    monkeypatch.setattr(site.store, "commit", fail_once)
    with pytest.raises(StoreError, match="away"):
        worker.run(BOUNDS)
    assert site.store.counts()["journal"] == 0
    tally = worker.run(BOUNDS)
    worker.release()
    assert (tally.n_accepted, tally.n_rejected) == (len(lines) - 1, 1)
    assert digests(site) == replayed(site)


def test_one_thread_and_two_make_the_same_twins(site: Site) -> None:
    site.ingest(cohort())
    host = LocalHost(TwinShard(site.binding, history(site.store, "1")))
    rules = WorkerSettings("w1", "log", "1", 1e6, timedelta(minutes=5), threaded=False)
    worker = Worker(site.log, site.store, host, site.clock, rules)
    assert worker.run(BOUNDS).n_accepted == len(cohort())
    worker.release()
    assert digests(site) == replayed(site)


def test_a_second_worker_gets_its_share_and_both_together_do_all(site: Site) -> None:
    lines = cohort(n=12)
    site.log.append([_record(line) for line in lines])
    few = Bounds(events=4, commit_events=2, poll_seconds=0.05)
    with closing(open_event_log(site.url, site.name, 3)) as own_log:
        workers = [
            Worker(
                log, site.store, LocalHost(TwinShard(site.binding, history(site.store, "1"))), SystemClock(),
                WorkerSettings(name, "log", "1", 3.0, timedelta(minutes=5)),
            )
            for name, log in (("w1", site.log), ("w2", own_log))
        ]
        done = [workers[0].run(few), workers[1].run(few)]
        assert [tally.partitions for tally in done] == [3, 0]
        # The first gives some of its partitions back when it renews its leases, a third of their time later.
        time.sleep(1.1)
        done.append(workers[0].run(few))
        time.sleep(1.1)
        shared = workers[1].run(few)
        assert shared.partitions == 1 and shared.n_accepted > 0
        done.append(shared)
        while sum(tally.n_accepted for tally in done) < len(lines):
            done += [worker.run(few) for worker in workers]
        for worker in workers:
            worker.release()
    assert digests(site) == replayed(site)


def test_an_alert_that_is_explained_away_is_told_of_again(site: Site) -> None:
    visits = [diameter(f"m{i}", 30 * i, 20) for i in range(12)]
    for part in ([*visits, diameter("jump", 400, 90)], [correction("c", 800, "jump", "retract")]):
        site.log.append([_record(line) for line in part])
        site.work()
    gone = {alert.alert_id for alert in site.store.alerts(superseded=True) if alert.superseded_by}
    told = [json.loads(row.value) for _, row in site.store.pending_outbox(100) if row.topic == "twin.alerted"]
    words = [message.get("superseded_by", "") for message in told if message["alert_id"] in gone]
    assert gone and words == [""] * len(gone) + ["urn:oncotwin:H1:ris c"] * len(gone)
