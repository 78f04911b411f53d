"""What following a twin by each filter costs: events per second on one core, bytes of a snapshot and in memory.

Simulated patients with one lesion that is measured every six weeks (the stream's own load), folded in memory through
a shard, one event a twin and call, as a live stream brings them. Distances to a converged particle filter are of
`bench_filters_posterior`'s patients, at each filter's own number of members.
"""

from __future__ import annotations

import gc
import random
import time
import tracemalloc
from dataclasses import replace

import numpy as np
from tests.benchmarks.bench_filters_posterior import LESION, SEED, SUPPRESSION, Z90, run
from tests.benchmarks.record import record
from tests.benchmarks.workload import load_note, measured

from oncotwin.domain.amendment import Accepted
from oncotwin.domain.bundle import FILTERS, FilterChoice, ModelBundle
from oncotwin.filters.choice import choose_filter, make_filter
from oncotwin.filters.particle import ParticleFilter
from oncotwin.filters.steps import Operation
from oncotwin.models.androgen import AndrogenSuppression
from oncotwin.models.base import TumourModel
from oncotwin.models.tumour_burden import TumourBurden
from oncotwin.ports.twin_host import Delivery
from oncotwin.testing.memory_history import MemoryHistory
from oncotwin.testing.patients import accepted
from oncotwin.twin.drift import DriftSettings
from oncotwin.twin.fold import bind, run_parts
from oncotwin.twin.population import bind_hyper
from oncotwin.twin.shard import TwinShard
from oncotwin.twin.simulate import Course, simulate_many

COMMAND = "python -m tests.benchmarks.bench_twin_filters"
N_TWINS, N_VISITS, N_COMPARED, N_REFERENCE, N_COVERED = 256, 9, 40, 100_000, 60


def visits() -> list[list[tuple[str, Accepted]]]:
    """One event of every twin at each visit."""
    rng = random.Random(5)
    names = [f"north/p{i:06d}" for i in range(N_TWINS)]
    return [
        list(zip(names, accepted([measured(name, number, rng) for name in names]), strict=True))
        for number in range(N_VISITS)
    ]


def follow(name: str, stream: list[list[tuple[str, Accepted]]]) -> tuple[float, int, float]:
    """Events per second of processor time, bytes of a snapshot, bytes that a shard holds for a twin."""
    bound = bind("1", ModelBundle({}), [TumourBurden()], make_filter(choose_filter(name)), DriftSettings())
    fold_all(TwinShard(bound, MemoryHistory().reader()), [visit[:4] for visit in stream])
    begun = time.process_time()
    size = fold_all(TwinShard(bound, MemoryHistory().reader()), stream)
    seconds = time.process_time() - begun
    shard = TwinShard(bound, MemoryHistory().reader())
    gc.collect()
    tracemalloc.start()
    fold_all(shard, stream[:2])
    gc.collect()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert shard.n_twins == N_TWINS
    return N_TWINS * N_VISITS / seconds, size, held / N_TWINS


def fold_all(shard: TwinShard, stream: list[list[tuple[str, Accepted]]]) -> int:
    """Fold visit after visit; returns the mean bytes of the last snapshots."""
    for number, visit in enumerate(stream):
        deliveries = [Delivery(twin, i, number, number, (event,)) for i, (twin, event) in enumerate(visit)]
        folded = shard.fold(deliveries)
    return int(np.mean([len(one.snapshots[-1].state) for one in folded]))


def distances() -> dict[str, float]:
    """Mean distance of posterior means to a converged particle filter's, in its posterior standard deviations."""
    model = TumourBurden()
    patients = simulate_many(model, model.default_hyperparameters(), [LESION] * N_COMPARED, seed=SEED)
    plans = [patient.steps for patient in patients]
    # One patient at a time: a reference of this size takes some hundred megabytes.
    runs = [run(ParticleFilter(N_REFERENCE), model, plans[i : i + 1], i) for i in range(N_COMPARED)]
    mean, sd = np.concatenate([one[0] for one in runs]), np.concatenate([one[1] for one in runs])
    return {
        name: float((np.abs(run(make_filter(choose_filter(name)), model, plans)[0] - mean) / sd).mean())
        for name in FILTERS
    }


def cover(model: TumourModel, course: Course) -> None:
    """How often 90 % intervals hold the truth of simulated patients, and how likely their observations were."""
    hyper = model.default_hyperparameters()
    patients = simulate_many(model, hyper, [course] * N_COVERED, seed=SEED)
    plans, truth = [patient.steps for patient in patients], np.array([patient.truth[-1] for patient in patients])
    n_observed = sum(step.operation == Operation.OBSERVE for plan in plans for step in plan)
    for name in FILTERS:
        choice = choose_filter(name)
        state, info = run_parts(bind_hyper(model, hyper, make_filter(choice)), [None] * N_COVERED, plans, record=False)
        mean, covariance = state.moments()
        sd = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
        known = sd > 0.0
        share = float((np.abs(truth - mean) < Z90 * sd)[known].mean())
        likelihood = float(info.log_likelihood.sum()) / n_observed
        print(f"{model.name}, {mean.shape[1]} components, {name}: coverage {share:.3f}, likelihood {likelihood:.3f}")
        record(
            f"twin_filters/coverage/{model.name}/{name}", round(share, 3), "1", command=COMMAND,
            note=f"{_members(choice)} members; 90 % intervals of {mean.shape[1]} components at the last visit of "
            f"{N_COVERED} simulated patients; log-likelihood of an observation {likelihood:.3f}",
        )


def _members(choice: FilterChoice) -> str:
    return f"{make_filter(choice).n_members:,}"


def main() -> None:
    """Measure, print a table, record."""
    cover(TumourBurden(), replace(LESION, targets=("L1", "L2", "L3")))
    cover(AndrogenSuppression(), SUPPRESSION)
    stream, distance = visits(), distances()
    for name in FILTERS:
        members = _members(choose_filter(name))
        rate, size, held = follow(name, stream)
        print(
            f"{name:21s} {members:>6s} members {rate:8,.0f} events/s {size / 1e3:8.1f} kB a snapshot "
            f"{held / 1e3:8.1f} kB in memory a twin, {distance[name]:.3f} posterior sd off ({load_note()})"
        )
        note = f"{members} members; {N_TWINS} twins of one lesion, {N_VISITS} visits, one event a twin and call"
        record(f"twin_filters/events/{name}", round(rate), "1/s per core", command=COMMAND, note=note)
        record(f"twin_filters/snapshot/{name}", round(size / 1e3, 2), "kB", command=COMMAND, note=note)
        record(
            f"twin_filters/memory/{name}", round(held / 1e3, 1), "kB a twin", command=COMMAND,
            note=f"{note}; allocated by Python, after two visits",
        )
        record(
            f"twin_filters/distance/{name}", round(distance[name], 3), "posterior sd",
            reference=f"particle filter of {N_REFERENCE:,}", command=COMMAND,
            note=f"{members} members; mean over {N_COMPARED} simulated patients and all components",
        )


if __name__ == "__main__":
    main()
