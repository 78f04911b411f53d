"""What the engines cost: EnKF(256) through a Ray actor against the same in this process, and Prefect over a full batch.

Both filters fold the same calls of 64 twins with 8 measurements each under the tumour-burden model; the actor is sent
the steps and answers with the estimate after each step, and keeps the members. Calls are taken in turns.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import fields
from datetime import timedelta
from statistics import median
from typing import Any

import numpy as np
import ray
from tests.benchmarks.record import record
from tests.benchmarks.workload import installation, load_note, records

from oncotwin.adapters.ray_cluster import connect, disconnect
from oncotwin.bootstrap.wiring import SystemClock
from oncotwin.domain.observation import Observation
from oncotwin.filters.base import FoldInfo, System
from oncotwin.filters.ensemble import EnsembleFilter
from oncotwin.filters.steps import StepTable
from oncotwin.models.tumour_burden import TumourBurden
from oncotwin.testing.patients import DAY_ZERO, accepted, diameter
from oncotwin.twin.journal import event_seed
from oncotwin.twin.timeline import Cursor, batch, days, plan_steps
from oncotwin_flows.assimilate import assimilate
from oncotwin_flows.gaps import GapWatch
from oncotwin_flows.groups import Bounds
from oncotwin_flows.relay import Relay
from oncotwin_flows.runtime import Sealed, quick_flows

COMMAND = "python -m tests.benchmarks.bench_ray"
K, N_MEMBERS, N_EVENTS, N_CALLS = 64, 256, 8, 20
BATCH_EVENTS, N_EMPTY_RUNS = 20_000, 5
BAR_ACTOR, BAR_PREFECT = 0.85, 0.10


class Ensembles:
    """Members of K twins, folded call by call."""

    def __init__(self) -> None:
        model = TumourBurden()
        hyper = model.default_hyperparameters()
        mean, covariance = model.prior(hyper)
        n_shared, n = len(model.shared), len(model.shared) + len(model.per_target)
        means, covariances = np.zeros((K, n)), np.zeros((K, n, n))
        means[:, :n_shared], covariances[:, :n_shared, :n_shared] = mean, covariance
        self._filter = EnsembleFilter(n_members=N_MEMBERS)
        self._system = System(
            model.propagate, model.observe, np.tile(model.constants(hyper), (K, 1)),
            np.tile(model.process_variance(hyper, 1), (K, 1)),
        )
        self._state = self._filter.init(
            means, covariances, np.full(K, n_shared, dtype=np.int64), np.full(K, days(DAY_ZERO)),
            np.arange(K, dtype=np.uint64),
        )

    def fold(self, steps: StepTable) -> FoldInfo:
        """Fold one call's steps; answers with the estimates."""
        self._state, info = self._filter.fold(self._state, self._system, steps)
        return info

    def fold_sent(self, steps: StepTable) -> FoldInfo:
        """The same in an actor: what arrives lies in shared memory, read-only, and kernels take what is their own."""
        return self.fold(StepTable(*(np.array(getattr(steps, one.name)) for one in fields(StepTable))))


def calls() -> list[StepTable]:
    """Steps of N_CALLS calls, N_EVENTS weekly measurements of each twin in each."""
    model = TumourBurden()
    hyper = model.default_hyperparameters()
    rng = np.random.default_rng(5)
    cursors = [Cursor()] * K
    tables = []
    for call in range(N_CALLS):
        plans = []
        for twin in range(K):
            weeks = range(call * N_EVENTS, (call + 1) * N_EVENTS)
            lines = [
                diameter(f"{week}", 7 * week, float(rng.uniform(25, 35)), patient=f"H1/p{twin}") for week in weeks
            ]
            items = [item for item in accepted(lines) if isinstance(item, Observation)]
            keys = [event_seed(item.header.twin_id, item.header.key) for item in items]
            steps, cursors[twin] = plan_steps(model, hyper, cursors[twin], items, keys)
            plans.append(steps)
        tables.append(batch(plans, model.n_inputs, len(model.shared) + len(model.per_target)))
    return tables


def actor_against_process() -> None:
    """Throughput of both, by the median call."""
    here = Ensembles()
    there: Any = ray.remote(Ensembles).options(num_cpus=1).remote()
    tables = calls()

    def remotely(steps: StepTable) -> FoldInfo:
        info: FoldInfo = ray.get(there.fold_sent.remote(steps))
        return info

    taken: dict[str, list[float]] = {"in-process": [], "actor": []}
    ways: dict[str, Callable[[StepTable], FoldInfo]] = {"in-process": here.fold, "actor": remotely}
    for number, steps in enumerate(tables):
        answers = []
        for name, fold in ways.items():
            begun = time.perf_counter()
            answers.append(fold(steps))
            if number >= 2:
                taken[name].append(time.perf_counter() - begun)
        assert np.array_equal(answers[0].mean, answers[1].mean)
    rates = {name: K * N_EVENTS / median(times) for name, times in taken.items()}
    ratio = rates["actor"] / rates["in-process"]
    print(f"EnKF({N_MEMBERS}), {K} twins, {N_EVENTS} events a twin and call ({load_note()})")
    for name, rate in rates.items():
        print(f"  {name:12}{rate:12,.0f} updates/s")
    print(f"  ratio {ratio:.3f}, bar {BAR_ACTOR}; the same bits both ways")
    record(
        "ray/enkf256_actor", round(rates["actor"]), "1/s", reference=round(rates["in-process"]),
        ratio=round(ratio, 3), bar=f"at least {BAR_ACTOR}", command=COMMAND,
        note=f"assimilations per second at k = {K}, {N_EVENTS} events a twin and call; reference: in-process, same "
        f"calls in turns, median call; {load_note()}",
    )


def prefect_over_batch() -> None:
    """Time of a flow run with nothing to do, over the time of a full batch without Prefect."""
    with installation("embedded") as site, quick_flows():
        relay = Relay(site.store, lambda topic: site.log)
        watch = GapWatch(site.store, SystemClock(), timedelta(hours=1))
        worker = site.worker(site.local_host())
        bounds = Bounds(events=BATCH_EVENTS, seconds=1e6, commit_events=1_000, poll_seconds=0.001)
        empty = []
        for _ in range(N_EMPTY_RUNS + 1):
            begun = time.perf_counter()
            assimilate(Sealed(worker), Sealed(watch), Sealed(relay), bounds)
            empty.append(time.perf_counter() - begun)
        site.fill(records(BATCH_EVENTS // 2, 2))
        begun = time.perf_counter()
        tally = worker.run(bounds)
        full = time.perf_counter() - begun
        assert tally.n_accepted == BATCH_EVENTS
    ratio = median(empty[1:]) / full
    print(f"a full batch of {BATCH_EVENTS:,} events {full:.2f} s; Prefect adds {median(empty[1:]):.3f} s: {ratio:.1%}")
    record(
        "flow/prefect_overhead", round(median(empty[1:]), 4), "s", reference=round(full, 2), ratio=round(ratio, 4),
        bar=f"under {BAR_PREFECT}", command=COMMAND,
        note=f"a flow run with nothing to do; reference: a full batch of {BATCH_EVENTS:,} events without Prefect; the "
        f"first run, which starts Prefect's own server, took {empty[0]:.1f} s",
    )


def main() -> None:
    """Measure, print, record."""
    connect("local", 2, dashboard=False)
    try:
        actor_against_process()
    finally:
        disconnect()
    prefect_over_batch()


if __name__ == "__main__":
    main()
