"""One installation under test: log, store, worker and clock, embedded or deployed."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from oncotwin.adapters.event_log import open_event_log
from oncotwin.adapters.local_host import LocalHost
from oncotwin.adapters.sql_store import SqlTwinStore
from oncotwin.bootstrap.wiring import SystemClock, history
from oncotwin.ports.event_log import EventLog, NewRecord
from oncotwin.testing.patients import diameter, treatment
from oncotwin.twin.fold import Binding
from oncotwin.twin.replay import believe
from oncotwin.twin.shard import TwinShard
from oncotwin.twin.state import digest, to_bytes
from oncotwin_flows.groups import Bounds, Tally
from oncotwin_flows.intake import Intake, IntakeRules
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


def as_record(line: bytes) -> NewRecord:
    return NewRecord(json.loads(line)["subject"], line)
