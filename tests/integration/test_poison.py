"""An event that ends the process that folds it: everyone else goes on, it ends as a dead letter."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from tests.faults.poison import poisoned_kernel

from oncotwin.adapters.event_log import open_event_log
from oncotwin.adapters.local_host import LocalHost
from oncotwin.adapters.ray_cluster import connect, disconnect
from oncotwin.adapters.ray_host import RayHost
from oncotwin.adapters.sql_store import open_twin_store
from oncotwin.bootstrap.settings import Settings
from oncotwin.bootstrap.wiring import LITERATURE, ShardFactory, SystemClock
from oncotwin.domain.bundle import ModelBundle
from oncotwin.domain.errors import HostLostError
from oncotwin.ports.event_log import NewRecord
from oncotwin.ports.twin_host import Delivery, Folded, FoldTicket, TwinHost
from oncotwin.testing.patients import accepted, correction, diameter
from oncotwin.twin.shard import TwinShard
from oncotwin_flows.careful import CarefulHost
from oncotwin_flows.groups import Bounds, Tally
from oncotwin_flows.worker import Worker, WorkerSettings

POISON = "poison"


def cohort() -> list[bytes]:
    """Six patients; one event of the fourth is poison, and good events of everyone lie on both sides of it."""
    rng = random.Random(5)
    lines = [
        diameter(f"{p}-{v}", 40.0 * v, rng.uniform(8, 60), patient=f"H1/p{p}") for v in range(6) for p in range(6)
    ]
    lines.insert(20, diameter(POISON, 130.0, 21.0, patient="H1/p3"))
    return lines


class Lost:
    """A fold whose process is gone."""

    def result(self) -> list[Folded]:
        raise HostLostError("the process ended")


class MortalHost:
    """A process of its own, as far as a worker can tell: it loses its memory with the poison."""

    def __init__(self, make_shard: Callable[[], TwinShard]) -> None:
        self._make_shard = make_shard
        self._inner = LocalHost(make_shard())

    def submit(self, deliveries: Sequence[Delivery]) -> FoldTicket:
        if any(event.header.event_id == POISON for delivery in deliveries for event in delivery.events):
            self.close()
            self._inner = LocalHost(self._make_shard())
            return Lost()
        try:
            return self._inner.submit(deliveries)
        except HostLostError:
            return Lost()

    def forget(self, twin_ids: Iterable[str]) -> None:
        self._inner.forget(twin_ids)

    def follow(self, version: str) -> None:
        self._inner.follow(version)

    def close(self) -> None:
        self._inner.close()


class Site:
    """A log and a store, and workers over hosts."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings(home=folder)
        self.factory = ShardFactory(self.settings, ModelBundle({}).to_json(), LITERATURE)

    def work(self, host: TwinHost, lines: Sequence[bytes], commit_events: int, *, threaded: bool = True) -> Tally:
        url, log_url = self.settings.store_url, self.settings.log_url
        with closing(open_event_log(log_url, "events", 3)) as log, closing(open_twin_store(url)) as store:
            log.append([NewRecord(accepted([line])[0].header.twin_id, line) for line in lines])
            worker = Worker(
                log, store, CarefulHost(host, SystemClock()), SystemClock(),
                WorkerSettings("w", "log", LITERATURE, 1e6, timedelta(minutes=5), threaded=threaded),
            )
            tally = worker.run(Bounds(seconds=600.0, commit_events=commit_events, poll_seconds=0.05))
            worker.release()
            return tally

    def digests(self) -> dict[str, str]:
        with closing(open_twin_store(self.settings.store_url)) as store:
            rows = store.latest_snapshots(list(store.twin_heads()))
            return {twin_id: row.digest for twin_id, row in rows.items()}


def assert_as_without_poison(site: Site, tally: Tally, undisturbed: Site) -> None:
    lines = [line for line in cohort() if f'"{POISON}"'.encode() not in line]
    undisturbed.work(LocalHost(undisturbed.factory(LITERATURE)), lines, 7)
    assert site.digests() == undisturbed.digests()
    assert (tally.n_accepted, tally.n_rejected) == (len(lines), 1)
    with closing(open_twin_store(site.settings.store_url)) as store:
        [letter] = store.dead_letters()
        assert (letter.reason_code, letter.event_id, letter.twin_id) == ("fold_failed", POISON, "H1/p3")
        assert "ended 2 times" in letter.reason and "HostLostError" in letter.reason
        assert store.counts()["journal"] == len(lines)
        assert sum(store.offsets("log").values()) == len(lines) + 1


@pytest.mark.parametrize("threaded", [True, False])
@pytest.mark.parametrize("commit_events", [1, 5, 100])
def test_everyone_else_goes_on(commit_events: int, threaded: bool, tmp_path: Path) -> None:
    site = Site(tmp_path / "site")
    host = MortalHost(lambda: site.factory(LITERATURE))
    tally = site.work(host, cohort(), commit_events, threaded=threaded)
    assert_as_without_poison(site, tally, Site(tmp_path / "other"))


@pytest.fixture
def cluster() -> Iterator[None]:
    connect("local", 2, dashboard=False)
    yield
    disconnect()


def killing(factory: ShardFactory, act: Callable[[], object]) -> Callable[[str], TwinShard]:
    """Shards that do something when they are given the poison, as a fault in a kernel would."""

    def make_shard(version: str) -> TwinShard:
        shard = factory(version)
        fold = shard.fold

        def fold_or_die(deliveries: Sequence[Delivery]) -> list[Folded]:
            if any(event.header.event_id == POISON for delivery in deliveries for event in delivery.events):
                act()
            return fold(deliveries)

        shard.fold = fold_or_die  # type: ignore[method-assign]
        return shard

    return make_shard


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("act", "patience_s", "twins_per_actor"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), 120.0, 1),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), 120.0, 4),
        (lambda: time.sleep(1e6), 5.0, 4),
    ],
    ids=["killed, an actor a patient", "killed", "hangs"],
)
def test_an_actor_that_an_event_costs(
    act: Callable[[], object], patience_s: float, twins_per_actor: int, cluster: None, tmp_path: Path
) -> None:
    site = Site(tmp_path / "site")
    host = RayHost(
        killing(site.factory, act), LITERATURE, twins_per_actor=twins_per_actor, idle_actor_s=1e6,
        fold_timeout_s=patience_s,
    )
    try:
        tally = site.work(host, cohort(), 8)
    finally:
        host.close()
    assert_as_without_poison(site, tally, Site(tmp_path / "other"))


def test_poison_that_a_correction_brings_back_costs_the_correction(tmp_path: Path) -> None:
    site, other = Site(tmp_path / "site"), Site(tmp_path / "other")
    good = [diameter("m1", 0.0, 20.0), diameter("m2", 90.0, 25.0)]
    hidden = [correction("retracted", 50.0, POISON, "retract"), diameter(POISON, 40.0, 21.0)]
    back = correction("back", 60.0, "retracted", "retract")
    with poisoned_kernel():
        host = LocalHost(site.factory(LITERATURE))
        # What is not in force is not folded: nobody can know yet that it is poison.
        assert site.work(host, [good[0], *hidden], 10).n_rejected == 0
        assert site.work(host, [back, good[1]], 10).n_rejected == 1
        other.work(LocalHost(other.factory(LITERATURE)), [*good, *hidden], 10)
    assert site.digests() == other.digests()
    with closing(open_twin_store(site.settings.store_url)) as store:
        [letter] = store.dead_letters()
        assert (letter.reason_code, letter.event_id) == ("fold_failed", "back")
