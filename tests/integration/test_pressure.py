"""A burst of ten times what the store takes: the intake waits, nothing is lost, memory holds a few groups."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from oncotwin.adapters.event_log import open_event_log
from oncotwin.adapters.local_host import LocalHost
from oncotwin.adapters.sql_store import open_twin_store
from oncotwin.bootstrap import wiring
from oncotwin.bootstrap.settings import Settings
from oncotwin.ports.event_log import EventLog, LogRecord, NewRecord
from oncotwin.testing.patients import diameter
from oncotwin_flows.groups import Bounds
from oncotwin_flows.intake import Intake, IntakeReport, IntakeRules
from oncotwin_flows.lag import LagLimit, read_lag, watching
from oncotwin_flows.worker import Worker, WorkerSettings
from oncotwin_services.cli import main

BOUND = 120
N_EVENTS = 10 * BOUND
GROUP = 20


def burst(n: int) -> list[bytes]:
    rng = random.Random(7)
    return [diameter(f"{i}", float(i // 40), rng.uniform(8, 60), patient=f"H1/p{i % 40}") for i in range(n)]


class CountingLog:
    """A log that counts what was read from it."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self.n_read = 0

    @property
    def n_partitions(self) -> int:
        return self._log.n_partitions

    def append(self, records: Sequence[NewRecord]) -> list[tuple[int, int]]:
        return self._log.append(records)

    def read(self, positions: Mapping[int, int], max_records: int, max_bytes: int, timeout_s: float) -> list[LogRecord]:
        found = self._log.read(positions, max_records, max_bytes, timeout_s)
        self.n_read += len(found)
        return found

    def begin_offsets(self) -> dict[int, int]:
        return self._log.begin_offsets()

    def end_offsets(self) -> dict[int, int]:
        return self._log.end_offsets()

    def close(self) -> None:
        self._log.close()


class Watching(wiring.SystemClock):
    """The time of an intake that waits no longer for a worker that has failed."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def sleep(self, seconds: float) -> None:
        if self._site.failure is not None:
            raise self._site.failure
        super().sleep(seconds)


class Site:
    """One installation; every thread opens what it needs."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings(home=folder, ray="in-process")
        self.most_in_memory = 0
        self.most_lag = 0
        self.full = threading.Event()
        self.failure: BaseException | None = None
        open_twin_store(self.settings.store_url).close()

    def log(self) -> closing[CountingLog]:
        return closing(CountingLog(open_event_log(self.settings.log_url, "events", 3)))

    def ingest(self, lines: list[bytes]) -> IntakeReport:
        settings, clock = self.settings, Watching(self)
        with self.log() as log, closing(open_twin_store(settings.store_url)) as store:

            def measure(n: int) -> None:
                self.most_lag = max(self.most_lag, read_lag(log, store, "log").lag)

            limit = LagLimit(log, store, clock, "log", BOUND, lambda text: self.full.set())
            return Intake(log, store, clock, IntakeRules(), limit.wait).ingest(lines, measure, chunk=30)

    def work(self, n_events: int) -> None:
        """A worker whose transactions take long."""
        try:
            self._work(n_events)
        except BaseException as failure:
            self.failure = failure
            raise

    def _work(self, n_events: int) -> None:
        settings = self.settings
        n_committed = 0

        def slow(step: str) -> None:
            if step == "offsets":
                time.sleep(0.03)

        def committed(n: int) -> None:
            nonlocal n_committed
            n_committed += n
            self.most_in_memory = max(self.most_in_memory, log.n_read - n_committed)

        with self.log() as log, closing(open_twin_store(settings.store_url, on_step=slow)) as store:
            host = LocalHost(wiring.shard_factory(settings, wiring.LITERATURE)(wiring.LITERATURE))
            worker = Worker(
                log, store, host, wiring.SystemClock(),
                WorkerSettings("w", "log", wiring.LITERATURE, 1e6, timedelta(minutes=5)), committed,
            )
            n = 0
            while n < n_events:
                n += worker.run(Bounds(n_events - n, 60.0, GROUP, 0.1)).n_accepted
            worker.release()
            host.close()

    def journal(self) -> list[str]:
        with closing(open_twin_store(self.settings.store_url)) as store:
            return sorted(row.event_id for twin_id in store.twin_heads() for row in store.journal(twin_id))


def test_a_burst_waits_and_all_of_it_arrives_once(tmp_path: Path) -> None:
    site = Site(tmp_path)
    lines = burst(N_EVENTS)
    worker = threading.Thread(target=site.work, args=(N_EVENTS,))
    worker.start()
    report = site.ingest(lines)
    worker.join()
    assert (report.n_accepted, report.n_duplicates, report.rejections) == (N_EVENTS, 0, [])
    assert site.full.is_set()
    assert site.most_lag <= BOUND
    # One group is committed, one folded, one read; a burst in the log makes them no more.
    assert site.most_in_memory <= 3 * GROUP
    assert site.journal() == sorted(str(i) for i in range(N_EVENTS))


def test_an_intake_that_was_interrupted_is_done_again(tmp_path: Path) -> None:
    site = Site(tmp_path)
    lines = burst(300)

    chunks: list[int] = []

    def interrupt(n: int) -> None:
        chunks.append(n)
        if len(chunks) == 4:
            raise KeyboardInterrupt

    store = open_twin_store(site.settings.store_url)
    with site.log() as log, closing(store), pytest.raises(KeyboardInterrupt):
        Intake(log, store, wiring.SystemClock(), IntakeRules(), interrupt).ingest(lines, chunk=30)
    worker = threading.Thread(target=site.work, args=(300,))
    worker.start()
    report = site.ingest(lines)
    worker.join()
    assert (report.n_accepted, report.n_duplicates) == (210, 90)
    assert site.journal() == sorted(str(i) for i in range(300))


@pytest.mark.slow
@pytest.mark.alone
def test_a_lag_that_does_not_shrink_is_announced_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONCOTWIN_RAY", "in-process")
    monkeypatch.setenv("ONCOTWIN_LAG_SECONDS", "0.5")
    settings = Settings(home=tmp_path)
    with closing(wiring.open_log(settings)) as log:
        log.append([NewRecord(json.loads(line)["subject"], line) for line in burst(12)])
    said: list[str] = []
    told = threading.Event()

    def announce(text: str) -> None:
        said.append(text)
        told.set()

    with watching(settings, announce):
        assert told.wait(60.0)
    assert said[0].startswith("the lag of 12 events has not shrunk since ")
    before = json.loads(CliRunner().invoke(main, ["status", "--home", str(tmp_path), "--json"]).stdout)
    assert (before["lag"], before["stalled_since"] is not None) == (12, True)
    done = CliRunner().invoke(main, ["work", "--until-idle", "--home", str(tmp_path), "--json"])
    assert done.exit_code == 0, done.output + done.stderr
    after = json.loads(CliRunner().invoke(main, ["status", "--home", str(tmp_path), "--json"]).stdout)
    assert (after["lag"], after["stalled_since"]) == (0, None)
