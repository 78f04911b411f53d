"""Events that a source numbered and that did not come: told of once, taken back when they come, by the real stream."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from oncotwin.adapters.event_log import open_event_log
from oncotwin.adapters.local_host import LocalHost
from oncotwin.adapters.sql_store import SqlTwinStore, open_twin_store
from oncotwin.bootstrap.wiring import SystemClock, history
from oncotwin.domain.bundle import ModelBundle
from oncotwin.filters.unscented import UnscentedFilter
from oncotwin.models.tumour_burden import TumourBurden
from oncotwin.ports.event_log import EventLog, NewRecord
from oncotwin.testing.patients import diameter
from oncotwin.twin.drift import DriftSettings
from oncotwin.twin.fold import bind
from oncotwin.twin.shard import TwinShard
from oncotwin_flows.gaps import GapWatch
from oncotwin_flows.groups import Bounds
from oncotwin_flows.worker import Worker, WorkerSettings
from oncotwin_services.cli import main

SOURCE = "urn:oncotwin:H1:ris"
PATIENCE = timedelta(hours=1)


@dataclass
class Clock(SystemClock):
    """Stands still until it is moved."""

    time: datetime = datetime(2026, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time

    def leap(self, **length: float) -> None:
        self.time += timedelta(**length)


@dataclass
class Site:
    """One installation under test."""

    log: EventLog
    store_url: str
    clock: Clock = field(default_factory=Clock)
    opened: list[SqlTwinStore] = field(default_factory=list)

    def store(self) -> SqlTwinStore:
        self.opened.append(open_twin_store(self.store_url))
        return self.opened[-1]

    def work(self, *lines: bytes) -> int:
        """Put lines on the log and let a worker of its own, as after a restart, drain it and look; alerts raised."""
        self.log.append([NewRecord(json.loads(line)["subject"], line) for line in lines])
        store = self.store()
        binding = bind("1", ModelBundle({}), [TumourBurden()], UnscentedFilter(), DriftSettings())
        host = LocalHost(TwinShard(binding, history(store, "1")))
        worker = Worker(
            self.log, store, host, self.clock, WorkerSettings("w", "log", "1", 1e6, timedelta(minutes=5))
        )
        watch = GapWatch(store, self.clock, PATIENCE)
        tally = worker.run(Bounds(commit_events=3, poll_seconds=0.05))
        worker.release()
        return watch.look() if watch.is_due(tally.n_accepted) else 0


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    built = Site(open_event_log(f"embedded:{tmp_path / 'log'}", "events", 3), f"sqlite:///{tmp_path}/store.sqlite")
    yield built
    built.log.close()
    for store in built.opened:
        store.close()


def numbered(number: int, mm: float = 20.0, **more: Any) -> bytes:
    """The event of a number; events of a source are of several patients."""
    return diameter(f"e{number}", 10 * number, mm, patient=f"H1/p{number % 4}", sequence=number, **more)


def test_a_gap_is_told_of_once_by_whoever_looks_first_and_taken_back_when_filled(site: Site) -> None:
    assert site.work(*map(numbered, (10, 11, 13, 17, 18)), diameter("plain", 5, 20, patient="H1/p0")) == 0
    site.clock.leap(minutes=59)
    assert site.work() == 0
    site.clock.leap(minutes=1)
    store, other = site.store(), site.store()
    watches = [GapWatch(one, site.clock, PATIENCE) for one in (store, other)]
    assert [watch.look() for watch in watches] == [1, 0]
    assert site.work(numbered(19)) == 0

    [row] = [one for one in store.alerts() if one.kind == "sequence_gap"]
    assert (row.twin_id, row.severity, row.since) == ("H1", "warning", site.clock.now() - PATIENCE)
    assert row.message == (
        f"4 events of source {SOURCE} (institution H1) missing since 2026-01-01 00:00 UTC: sequence 12, 14 to 16."
    )
    assert "oncotwin rejected" in row.recommended
    [message] = [message for _, message in store.pending_outbox(99) if message.topic == "twin.alerted"]
    assert (message.key, dict(message.headers)["ce_subject"]) == ("H1", b"H1")
    body = json.loads(message.value)
    assert (body["source"], body["n_missing"], body["missing"]) == (SOURCE, 4, [[12, 12], [14, 16]])

    # An event that is refused leaves its number missing; mended, it fills it.
    assert site.work(*map(numbered, (12, 14, 16)), numbered(15, mm=-3)) == 0
    assert [one.superseded_by for one in store.alerts("H1")] == [""]
    assert site.work(numbered(15)) == 0
    assert store.alerts("H1") == []
    assert [one.superseded_by for one in store.alerts("H1", superseded=True)] == [f"{SOURCE} e15"]
    site.clock.leap(days=1)
    assert site.work(numbered(21)) == 0
    site.clock.leap(days=1)
    assert site.work() == 1


def test_a_source_that_lost_much_gets_one_alert_that_can_be_read_and_sent(site: Site) -> None:
    site.work(*map(numbered, range(0, 60, 2)))
    site.clock.leap(hours=2)
    assert site.work() == 1
    [row] = site.store().alerts("H1")
    assert "sequence 1, 3, 5," in row.message and row.message.endswith(" and 9 more gaps.")
    assert len(row.message) < 400 and len(json.loads(row.body)["missing"]) == 29


def test_no_look_where_nothing_came_a_moment_ago(site: Site) -> None:
    watch = GapWatch(site.store(), site.clock, PATIENCE)
    assert watch.is_due(0)
    watch.look()
    assert not watch.is_due(0) and watch.is_due(1)
    site.clock.leap(minutes=1)
    assert watch.is_due(0)


def test_the_commands_show_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in (("HOME", str(tmp_path)), ("RAY", "in-process"), ("GAP_SECONDS", "0")):
        monkeypatch.setenv(f"ONCOTWIN_{name}", value)
    path = tmp_path / "events.jsonl"

    def run(*words: str) -> Any:
        result = CliRunner().invoke(main, [*words, "--json"])
        assert result.exit_code == 0, result.output + result.stderr
        return json.loads(result.stdout)

    path.write_bytes(b"\n".join(map(numbered, (1, 2, 4))))
    run("ingest", str(path))
    assert run("work", "--until-idle")["n_alerts"] == 1
    [shown] = run("alerts")
    assert (shown["institution"], shown["patient"], shown["kind"]) == ("H1", "", "sequence_gap")
    assert run("status")["gaps"] == 1
    assert run("export", str(tmp_path / "out"))["estimates"] > 0
    path.write_bytes(numbered(3))
    run("ingest", str(path))
    run("work", "--until-idle")
    assert run("alerts") == []
    assert [one["superseded_by"] for one in run("alerts", "--all")] == [f"{SOURCE} e3"]


def test_a_source_that_goes_on_losing_events_is_told_of_once_in_a_while(site: Site) -> None:
    raised = []
    for minute in range(0, 240, 20):
        raised.append(site.work(numbered(2 * minute)))
        site.clock.leap(minutes=20)
    assert raised == [0, 0, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0]
    assert len(site.store().alerts("H1")) == 3
