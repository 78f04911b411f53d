"""Workers with real actors follow a promotion: those that run, those that are started anew, those that other hold."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.integration.test_ray_host import FixedClock, line_patient, pid_of, visits

from oncotwin.adapters.ray_cluster import connect, disconnect
from oncotwin.bootstrap import wiring
from oncotwin.bootstrap.settings import Settings
from oncotwin.domain.bundle import ModelBundle, ModelPrior
from oncotwin.models.tumour_burden import TumourBurden
from oncotwin.ports.event_log import NewRecord
from oncotwin.ports.model_registry import CalibrationRun
from oncotwin.twin.replay import believe
from oncotwin.twin.state import digest, to_bytes
from oncotwin_flows.assimilate import open_worker
from oncotwin_flows.groups import Bounds
from oncotwin_flows.promote import promote_version

pytestmark = [pytest.mark.slow, pytest.mark.alone]
BOUNDS = Bounds(commit_events=8, poll_seconds=0.05, seconds=240.0)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    connect("local", 2, dashboard=False)
    yield
    disconnect()


@pytest.fixture
def settings(cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(wiring, "SystemClock", FixedClock)
    return Settings(
        home=tmp_path, twins_per_actor=4, ray_cpus=2, models=["oncotwin.models.tumour_burden:TumourBurden"],
    )


def register(settings: Settings, spread: float) -> str:
    """A version of its own."""
    model = TumourBurden()
    hyper = {**model.default_hyperparameters(), "growth_rate": {"median": 0.004, "spread": spread}}
    bundle = ModelBundle({model.name: ModelPrior(model.name, hyper)})
    return wiring.open_registry(settings).register(bundle, CalibrationRun(f"spread {spread}"))


def append(settings: Settings, lines: list[bytes]) -> None:
    """To the log, past the door."""
    with closing(wiring.open_log(settings)) as log:
        log.append([NewRecord(line_patient(line), line) for line in lines])


def check(settings: Settings, version: str, n_events: int) -> None:
    """Everything is in, and every twin is what a fold under the version ends in."""
    bound = wiring.binding(settings, version)
    with closing(wiring.open_store(settings)) as store:
        assert (store.champion(), store.counts()["journal"]) == (version, n_events)
        rows = store.latest_snapshots(list(store.twin_heads()))
        assert len(rows) == 6
        for twin_id, row in rows.items():
            assert row.digest == digest(to_bytes(believe(bound, twin_id, store.journal(twin_id)).state))


def test_actors_follow(settings: Settings) -> None:
    first, second = register(settings, 0.5), register(settings, 0.4)
    parts = [visits("f", 6, 3 * n, 3 * n + 3) for n in range(4)]
    n = len(parts[0])
    with open_worker(settings) as (worker, _, _):
        append(settings, parts[0])
        worker.run(BOUNDS)
        check(settings, wiring.LITERATURE, n)
        pid = pid_of("twins 0-3")
        promote_version(settings, first, chosen_by="test")
        append(settings, parts[1])
        assert worker.run(BOUNDS).n_retries == 1
        check(settings, first, 2 * n)
        # The actor went on: it was told, not started again.
        assert pid_of("twins 0-3") == pid
        promote_version(settings, second, chosen_by="test")
        append(settings, parts[2])
        worker.run(BOUNDS)
        check(settings, second, 3 * n)
        # An actor that is started again by Ray begins under its first version, and must find the one to follow.
        os.kill(pid, signal.SIGKILL)
        append(settings, parts[3])
        assert worker.run(BOUNDS).n_retries >= 1
        check(settings, second, 4 * n)
