"""How long nobody serves: a worker is killed while another stands by; a Ray node is lost with the twins that it hosts.

Real parts (Kafka, PostgreSQL, worker processes, Ray), and the settings as they are by default, leases of ten seconds
among them; Ray's head as docs/operations.md advises. Events of every patient come all the time. A worker's partitions
are served again when an event of each that was sent after the kill is committed; a node's twins, when one of each is
that was sent after the loss.
"""

from __future__ import annotations

import argparse
import random
import signal
import time
from collections.abc import Callable
from statistics import median

from tests.benchmarks.record import record
from tests.faults.population import Population
from tests.faults.real_run import Run, StuckError
from tests.faults.real_services import Services, stop

from oncotwin.bootstrap.settings import Settings
from oncotwin.bootstrap.wiring import log_name
from oncotwin.ports.event_log import NewRecord, partition_of
from oncotwin.testing.patients import diameter

COMMAND = "python -m tests.benchmarks.bench_failover"
N_PATIENTS, N_HOSTED = 24, 8
"""Patients of the worker that is killed; twins of the node that is lost, each in an actor of its own."""
_PATIENCE_S = 400.0
BAR_WORKER_S, BAR_NODE_S = 15.0, 30.0
_DEFAULTS = {
    name: Settings.model_fields[name].default
    for name in ("poll_seconds", "batch_seconds", "commit_events", "checkpoint_entries", "partitions", "lease_seconds")
}


class Stream:
    """Measurements of all patients, one after the other."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._n = 0

    def visit(self) -> None:
        """One more of each patient."""
        self._n += 1
        patients = self._run.population.patients
        self._run.send(
            [NewRecord(p, diameter(f"{p}-{self._n}", 2.0 * self._n, 20 + self._n % 7, patient=p)) for p in patients]
        )

    def until(self, what: Callable[[], bool], patience_s: float, every_s: float = 0.5) -> float:
        """Go on with visits until a condition holds; seconds that it took.

        Raises:
            StuckError: it does not.
        """
        begun, visited = time.monotonic(), time.monotonic()
        while not what():
            now = time.monotonic()
            if now - begun > patience_s:
                raise StuckError(f"not within {patience_s:.0f} s: {self._run.describe()}")
            if now - visited > every_s:
                self.visit()
                visited = now
            self._run.tick()
        return time.monotonic() - begun


def worker_killed(services: Services, number: int) -> float:
    """Seconds until another worker serves the partitions of one that was killed."""
    with services.deployed(number, **_DEFAULTS) as settings:
        run = _run(services, settings, number, N_PATIENTS)
        try:
            victim, _ = run.start(), run.start()
            run.mourned = False
            stream = Stream(run)
            stream.until(lambda: all(worker.steps["committed"] >= 5 for worker in run.workers), _PATIENCE_S)
            # At any moment of a lease's life.
            stream.until(_after(random.Random(number).uniform(0.0, settings.lease_seconds)), 60.0)
            stop(victim.pid, signal.SIGKILL)
            ends = run.ends()
            wanted = {partition_of(p, len(ends)) for p in run.population.patients}
            return stream.until(lambda: _beyond(run, {p: ends[p] for p in wanted}), _PATIENCE_S)
        finally:
            run.close()


def dense_node_lost(services: Services, number: int) -> float:
    """The same with all twins in one actor."""
    return node_lost(services, number, N_HOSTED)


def node_lost(services: Services, number: int, twins_per_actor: int = 1) -> float:
    """Seconds until the twins of a node that was lost are served on another."""
    chosen = {**_DEFAULTS, "ray": services.ray.address, "twins_per_actor": twins_per_actor}
    with services.deployed(number, **chosen) as settings:
        run = _run(services, settings, number, N_HOSTED)
        try:
            run.start()
            run.mourned = False
            stream = Stream(run)
            n_actors = N_HOSTED // twins_per_actor
            stream.until(lambda: run.n_commits >= 5 and len(services.ray.names()) >= n_actors, _PATIENCE_S)
            pids = services.ray.pids()
            if not any(services.ray.kill_node_of(pid) for pid in pids.values()):
                raise StuckError("no node hosts a twin")
            ends = run.ends()
            wanted = {partition_of(p, len(ends)) for p in run.population.patients}
            taken = stream.until(lambda: _beyond(run, {p: ends[p] for p in wanted}), _PATIENCE_S)
        finally:
            run.close()
    services.ray.add_node()
    deadline = time.monotonic() + 60.0
    while not services.ray.is_empty() and time.monotonic() < deadline:
        time.sleep(0.1)
    return taken


def _run(services: Services, settings: Settings, number: int, n_patients: int) -> Run:
    patients = tuple(f"north/p{number}-{i:02d}" for i in range(n_patients))
    run = Run(number, random.Random(number), services, settings, Population(patients, (), ()), 3.0 * _PATIENCE_S)
    run.produced_slowly_s = 0.0
    run.begin()
    return run


def _after(seconds: float) -> Callable[[], bool]:
    deadline = time.monotonic() + seconds
    return lambda: time.monotonic() >= deadline


def _beyond(run: Run, ends: dict[int, int]) -> bool:
    """Whether something is committed of each partition that came after these ends."""
    stored = run.store.offsets(log_name(run.settings))
    return all(stored.get(partition, 0) > end for partition, end in ends.items())


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=5, help="repetitions of each (%(default)s)")
    parser.add_argument("--dry", action="store_true", help="keep no figure")
    parser.add_argument("--only", choices=["worker", "node", "dense"])
    chosen = parser.parse_args()
    # Whoever ends this ends the services too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    hosted = f"{N_HOSTED} twins, an actor each, two cores for them to start on; Ray checks its nodes every second"
    cases = (
        ("worker", "failover/worker killed", worker_killed, BAR_WORKER_S, "leases of 10 s"),
        ("node", "failover/ray node lost", node_lost, BAR_NODE_S, hosted),
        ("dense", "failover/ray node lost, twins together", dense_node_lost, BAR_NODE_S, "one actor"),
    )
    with Services() as services:
        for short, name, measure, bar_s, note in cases:
            if chosen.only not in (None, short):
                continue
            found = [measure(services, number) for number in range(1, chosen.n + 1)]
            print(f"{name}: median {median(found):.1f} s, longest {max(found):.1f} s of {[round(s, 1) for s in found]}")
            if not chosen.dry:
                bar = f"under {bar_s:.0f} s"
                record(f"{name}/longest", max(found), "s", bar=bar, command=COMMAND, note=f"{chosen.n} times; {note}")
                record(f"{name}/median", median(found), "s", command=COMMAND, note=f"{chosen.n} times; {note}")


if __name__ == "__main__":
    main()
