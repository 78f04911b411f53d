"""Twins as Ray actors on a real local Ray: names, grouping, bits, death, sleep, metrics."""

from __future__ import annotations

import os
import random
import signal
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import ray

from oncotwin.adapters.local_host import LocalHost
from oncotwin.adapters.ray_cluster import connect, disconnect
from oncotwin.adapters.ray_host import NAMESPACE, RayHost
from oncotwin.bootstrap.settings import Settings
from oncotwin.bootstrap.wiring import LITERATURE, ShardFactory, SystemClock, open_log, open_store
from oncotwin.domain.bundle import ModelBundle
from oncotwin.domain.errors import HostLostError
from oncotwin.ports.event_log import EventLog, NewRecord
from oncotwin.ports.twin_host import Delivery, FoldTicket, TwinHost
from oncotwin.ports.twin_store import TwinStore
from oncotwin.testing.patients import NOW, accepted, diameter
from oncotwin_flows.groups import Bounds, Tally
from oncotwin_flows.worker import Worker, WorkerSettings

pytestmark = [pytest.mark.slow, pytest.mark.alone]


class FixedClock(SystemClock):
    """The tests' events lie in its past."""

    def now(self) -> datetime:
        return NOW.astimezone(UTC)


@dataclass
class Site:
    """A log, a store, and hosts over them."""

    settings: Settings
    log: EventLog
    store: TwinStore
    time_s: float = 0.0
    hosts: list[RayHost] = field(default_factory=list)

    def factory(self) -> ShardFactory:
        return ShardFactory(self.settings, ModelBundle({}).to_json(), LITERATURE)

    def host(self, k: int, idle_s: float = 1e6) -> RayHost:
        host = RayHost(
            self.factory(), LITERATURE, twins_per_actor=k, idle_actor_s=idle_s, clock=lambda: self.time_s
        )
        self.hosts.append(host)
        return host

    def work(self, host: TwinHost, lines: Sequence[bytes]) -> Tally:
        self.log.append([NewRecord(line_patient(line), line) for line in lines])
        worker = Worker(
            self.log, self.store, host, FixedClock(),
            WorkerSettings("w", "log", LITERATURE, 1e6, timedelta(minutes=5)),
        )
        tally = worker.run(Bounds(commit_events=8, poll_seconds=0.05, seconds=120.0))
        worker.release()
        return tally

    def digests(self) -> dict[str, str]:
        rows = self.store.latest_snapshots(list(self.store.twin_heads()))
        return {twin_id: row.digest for twin_id, row in rows.items()}


def line_patient(line: bytes) -> str:
    [item] = accepted([line])
    return item.header.twin_id


def open_site(folder: Path) -> Site:
    settings = Settings(home=folder, partitions=3)
    # Under seal, as an installation has it: the actors open the keys in their own processes.
    return Site(settings, open_log(settings), open_store(settings))


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    connect("local", 2, dashboard=False)
    yield
    disconnect()


@pytest.fixture
def site(cluster: None, tmp_path: Path) -> Iterator[Site]:
    built = open_site(tmp_path)
    yield built
    for host in built.hosts:
        host.close()
    built.log.close()
    built.store.close()


def visits(prefix: str, n_patients: int, first: int, last: int) -> list[bytes]:
    rng = random.Random(f"{prefix} {first}")
    return [
        diameter(f"{p}-{v}", 40 * v, rng.uniform(8, 60), patient=f"H1/{prefix}{p}")
        for v in range(first, last)
        for p in range(n_patients)
    ]


def deliveries(lines: Sequence[bytes]) -> list[Delivery]:
    events: dict[str, list[Any]] = {}
    for item in accepted(lines):
        events.setdefault(item.header.twin_id, []).append(item)
    return [Delivery(twin_id, n, 0, 0, tuple(found)) for n, (twin_id, found) in enumerate(events.items())]


def pid_of(name: str) -> int:
    actor: Any = ray.get_actor(name, namespace=NAMESPACE)
    reference: Any = actor.pid.remote()
    return int(ray.get(reference))


def test_an_actor_a_patient_found_by_name(site: Site) -> None:
    batch = deliveries(visits("one", 2, 0, 4))
    host = site.host(1)
    folded = host.submit(batch).result()
    assert folded == LocalHost(site.factory()(LITERATURE)).submit(batch).result()
    assert host.n_actors == 2
    assert len({pid_of("H1/one0"), pid_of("H1/one1"), os.getpid()}) == 3


def test_grouping_changes_no_bit(site: Site) -> None:
    batch = deliveries(visits("many", 10, 0, 5))
    host = site.host(7)
    folded = host.submit(batch).result()
    assert [one.twin_id for one in folded] == [delivery.twin_id for delivery in batch]
    assert folded == LocalHost(site.factory()(LITERATURE)).submit(batch).result()
    assert host.n_actors == 2
    assert pid_of("twins 0-6") != pid_of("twins 7-13")


class Murderer:
    """A host whose actor dies with a call under way, once."""

    def __init__(self, host: RayHost, name: str, at_call: int) -> None:
        self._host = host
        self._name = name
        self._calls_left = at_call

    def submit(self, batch: Sequence[Delivery]) -> FoldTicket:
        self._calls_left -= 1
        if self._calls_left != 0:
            return self._host.submit(batch)
        pid = pid_of(self._name)
        # Stopped first, so that the call is neither answered nor refused before the process ends.
        os.kill(pid, signal.SIGSTOP)
        ticket = self._host.submit(batch)
        os.kill(pid, signal.SIGKILL)
        return ticket

    def forget(self, twin_ids: Iterable[str]) -> None:
        self._host.forget(twin_ids)

    def follow(self, version: str) -> None:
        self._host.follow(version)

    def close(self) -> None:
        self._host.close()


def test_a_killed_actor_ends_in_the_same_state(site: Site, tmp_path: Path) -> None:
    lines = visits("mortal", 6, 0, 6)
    host = site.host(64)
    tally = site.work(Murderer(host, "twins 0-63", 3), lines)
    assert tally.n_retries >= 1
    assert tally.n_accepted == len(lines)
    other = open_site(tmp_path / "other")
    other.work(LocalHost(other.factory()(LITERATURE)), lines)
    assert site.digests() == other.digests()
    assert site.store.counts()["journal"] == len(lines)
    other.log.close()
    other.store.close()


def test_a_lost_call_says_so(site: Site) -> None:
    host = site.host(64)
    batch = deliveries(visits("lost", 2, 0, 2))
    host.submit(batch).result()
    with pytest.raises(HostLostError, match="delivers it again"):
        Murderer(host, "twins 0-63", 1).submit(batch).result()


def test_idle_actors_sleep_and_wake_from_the_store(site: Site, tmp_path: Path) -> None:
    host = site.host(1, idle_s=100.0)
    first, second = visits("idle", 2, 0, 3), visits("idle", 2, 3, 6)
    site.work(host, first)
    before = pid_of("H1/idle0")
    site.time_s = 150.0
    site.work(host, [line for line in second if line_patient(line) == "H1/idle1"])
    assert host.n_actors == 1
    site.work(host, [line for line in second if line_patient(line) == "H1/idle0"])
    assert pid_of("H1/idle0") != before
    other = open_site(tmp_path / "other")
    other.work(LocalHost(other.factory()(LITERATURE)), [*first, *second])
    assert site.digests() == other.digests()
    other.log.close()
    other.store.close()


def test_metrics_name_no_patient(site: Site) -> None:
    host = site.host(1)
    host.submit(deliveries(visits("secret", 1, 0, 4))).result()
    list_nodes: Callable[[], list[dict[str, Any]]] = ray.nodes
    port = list_nodes()[0]["MetricsExportPort"]
    deadline = time.monotonic() + 60.0
    text = ""
    while "ray_oncotwin_live_twins" not in text and time.monotonic() < deadline:
        time.sleep(1.0)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
    for name in ("events", "assimilation_seconds", "nis", "live_twins"):
        assert f"ray_oncotwin_{name}" in text
    # Ray's own figures of processes name an actor, by its pseudonym, while it starts; ours never do.
    assert not [line for line in text.splitlines() if "oncotwin" in line.split("{")[0] and "secret" in line]
