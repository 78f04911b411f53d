"""An installation whose model version changes: bindings that differ, workers that follow, folds to compare with."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from oncotwin.adapters.event_log import open_event_log
from oncotwin.adapters.local_host import LocalHost
from oncotwin.adapters.sql_store import SqlTwinStore, open_twin_store
from oncotwin.bootstrap.wiring import history
from oncotwin.domain.bundle import FilterChoice, ModelBundle, ModelPrior
from oncotwin.filters.choice import make_filter
from oncotwin.models.tumour_burden import TumourBurden
from oncotwin.ports.event_log import EventLog, NewRecord
from oncotwin.testing.patients import consent, correction, diameter, treatment
from oncotwin.twin.drift import DriftSettings
from oncotwin.twin.fold import Binding, bind
from oncotwin.twin.replay import believe
from oncotwin.twin.shard import TwinShard
from oncotwin.twin.state import digest, to_bytes
from oncotwin_flows.groups import Bounds, Tally
from oncotwin_flows.worker import Worker, WorkerSettings

BOUNDS = Bounds(commit_events=7, poll_seconds=0.0)
LOG = "log"


def binding_of(version: str) -> Binding:
    """Version 1 is the papers' priors; others begin elsewhere; 3 is hard to alarm, 9 is followed by another filter."""
    model = TumourBurden()
    hyper = model.default_hyperparameters()
    choice = FilterChoice()
    if version != "1":
        hyper["growth_rate"] = {"median": 0.0025 + 0.0005 * int(version), "spread": 0.5}
    if version == "3":
        hyper["noise"] = {"relative": 0.4, "mm": 4.0}
    if version == "9":
        choice = FilterChoice("ensemble", {"n_members": 24})
    bundle = ModelBundle({model.name: ModelPrior(model.name, hyper)}, choice)
    return bind(version, bundle, [model], make_filter(choice), DriftSettings())


class SteadyClock:
    """A second later at each look; sleeping takes no time but is counted."""

    def __init__(self) -> None:
        self._now = datetime(2026, 1, 1, tzinfo=UTC)
        self.elapsed = 0.0
        self.slept = 0.0

    def now(self) -> datetime:
        """A second later at each look."""
        self._now += timedelta(seconds=1)
        return self._now

    def monotonic(self) -> float:
        """A hundredth of a second later at each look."""
        self.elapsed += 0.01
        return self.elapsed

    def sleep(self, seconds: float) -> None:
        """Count it."""
        self.slept += seconds
        self.elapsed += seconds


@dataclass
class LineSite:
    """A log and a store; bindings of every version are at hand."""

    folder: Path
    store_url: str
    log: EventLog
    store: SqlTwinStore
    clock: SteadyClock = field(default_factory=SteadyClock)

    def open_log(self) -> EventLog:
        """The log again, for another thread."""
        return _open_log(self.folder)

    def append(self, lines: Sequence[bytes]) -> None:
        """Past the door, as a hospital's own producer would."""
        self.log.append([NewRecord(json.loads(line)["subject"], line) for line in lines])

    def worker(
        self, version: str = "1", *, store: SqlTwinStore | None = None, log: EventLog | None = None
    ) -> Worker:
        """A worker that begins with a version and can follow any."""
        at = store or self.store

        def make(other: str) -> TwinShard:
            # The store is the site's to close.
            return TwinShard(binding_of(other), replace(history(at, other), close=lambda: None))

        settings = WorkerSettings("w", LOG, version, 1e6, timedelta(minutes=5), threaded=False)
        return Worker(log or self.log, at, LocalHost(make(version), make), self.clock, settings)

    def work(self, version: str = "1", bounds: Bounds = BOUNDS) -> Tally:
        """Drain the log."""
        worker = self.worker(version)
        tally = worker.run(bounds)
        worker.release()
        return tally

    def digests(self, version: str | None = None) -> dict[str, str]:
        """Present states of a line, or of the champion's."""
        rows = self.store.latest_snapshots(list(self.store.twin_heads()), model_version=version)
        return {twin_id: row.digest for twin_id, row in rows.items()}

    def folded(self, version: str) -> dict[str, str]:
        """What a fold of each whole journal under a version ends in."""
        bound = binding_of(version)
        return {
            twin_id: digest(to_bytes(believe(bound, twin_id, self.store.journal(twin_id)).state))
            for twin_id in self.store.twin_heads()
        }

    def estimated(self, version: str) -> list[tuple[str, str, str, bytes]]:
        """Estimates in force of a line, and their bodies."""
        rows = self.store.line_estimates(version, sorted(self.store.twin_heads()))
        return [(row.twin_id, row.source, row.event_id, row.body) for row in rows]


@contextmanager
def open_line_site(folder: Path, store_url: str) -> Iterator[LineSite]:
    """An installation in a folder."""
    with closing(open_twin_store(store_url)) as store, closing(_open_log(folder)) as log:
        yield LineSite(folder, store_url, log, store)


def _open_log(folder: Path) -> EventLog:
    return open_event_log(f"embedded:{folder / 'log'}", "events", 3)


def journey(seed: int, n_patients: int = 4, n_visits: int = 8) -> list[bytes]:
    """Events of some patients in an order of arrival with everything: late, corrected, withdrawn, doubled, moved."""
    rng = random.Random(seed)
    lines: list[bytes] = []
    for p in range(n_patients):
        patient = f"H1/p{p}"
        mine = [treatment(f"{p}-on", 5, "drugA", "on", patient=patient)]
        mine += [
            diameter(f"{p}-{v}", 40 * v + rng.randrange(9), rng.uniform(8, 60), patient=patient)
            for v in range(n_visits)
        ]
        mine.append(correction(f"{p}-c1", 900, f"{p}-2", "retract", patient=patient))
        if p % 2:
            mine.append(consent(f"{p}-w", 200, "withdrawn", patient=patient))
            mine.append(consent(f"{p}-g", 260, "granted", patient=patient))
        lines += mine
    lines.append(correction("move", 950, "0-4", "wrong_patient", right_patient="H1/p1", patient="H1/p0"))
    lines.append(correction("undo", 960, "1-c1", "retract", patient="H1/p1"))
    rng.shuffle(lines)
    return lines + rng.sample(lines, len(lines) // 5)


