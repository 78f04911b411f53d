"""The whole path with real parts: log -> worker -> twins -> store -> topics, embedded and deployed alike."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Sequence
from contextlib import closing
from datetime import timedelta

import pytest
from tests.integration.site import BOUNDS, Site, as_record, cohort, digests, replayed

from oncotwin.adapters.event_log import open_event_log
from oncotwin.adapters.local_host import LocalHost
from oncotwin.bootstrap.wiring import SystemClock, history
from oncotwin.domain.errors import FencedError, StoreError
from oncotwin.models.base import Hyperparameters, TumourModel
from oncotwin.ports.event_log import EventLog, LogRecord, NewRecord
from oncotwin.ports.twin_host import Delivery
from oncotwin.ports.twin_rows import CommitGroup
from oncotwin.testing.memory_history import MemoryHistory
from oncotwin.testing.patients import accepted, correction, diameter, event_line
from oncotwin.twin import fold
from oncotwin.twin.replay import believe
from oncotwin.twin.shard import TwinShard
from oncotwin.twin.state import digest, to_bytes
from oncotwin.twin.timeline import Cursor, Item, Step, plan_steps
from oncotwin_flows.groups import Bounds
from oncotwin_flows.intake import Intake, IntakeRules
from oncotwin_flows.relay import Relay
from oncotwin_flows.resubmit import resubmit_letters
from oncotwin_flows.worker import Worker, WorkerSettings


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
    site.log.append([as_record(line) for line in shuffled])
    tally = site.work()
    assert tally.n_duplicates == len(lines[::3])
    assert digests(site) == {one.twin_id: one.snapshots[-1].digest for one in orderly} == replayed(site)


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
    site.log.append([as_record(line) for line in lines])
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
        site.log.append([as_record(line) for line in part])
        site.work()
    gone = {alert.alert_id for alert in site.store.alerts(superseded=True) if alert.superseded_by}
    told = [json.loads(row.value) for _, row in site.store.pending_outbox(100) if row.topic == "twin.alerted"]
    words = [message.get("superseded_by", "") for message in told if message["alert_id"] in gone]
    assert gone and words == [""] * len(gone) + ["urn:oncotwin:H1:ris c"] * len(gone)
