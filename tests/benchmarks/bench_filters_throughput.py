"""Updates per second and core of each filter beside the best peer's, on the same problem, in the same run.

The problem is `reference_problem`: 84 Runge-Kutta steps of a ten-component state and one observation an update. Every
program runs in one thread on one core and is timed by the processor's own clock, so that a neighbour on the machine
weighs on none of them; ours and the peer's runs alternate in halves. Their posteriors must agree, or the figure would
compare different problems: to round-off for the unscented filter, within the Monte Carlo error of the mean over all
twins for the random ones.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tests.benchmarks.peers import peer_python
from tests.benchmarks.record import record

from oncotwin.filters.ensemble import EnsembleFilter
from oncotwin.filters.particle import ParticleFilter
from oncotwin.filters.unscented import UnscentedFilter
from oncotwin.testing.scenarios import reference_problem as problem

COMMAND = "python -m tests.benchmarks.bench_filters_throughput"
SCRIPTS = Path(__file__).parent / "peer_scripts"
N_VISITS, N_RUNS, SEED = 12, 5, 7
NAMES = ("unscented", "ensemble", "particle")
FILTERS: dict[str, Any] = {
    "unscented": UnscentedFilter(), "ensemble": EnsembleFilter(256), "particle": ParticleFilter(1_000)
}
PEERS: dict[str, tuple[str, Sequence[str], str, int, float]] = {
    "unscented": ("dynamax", ("dynamax==1.0.3", "jax==0.10.2"), "dynamax_unscented.py", 100, 3.0),
    "ensemble": ("cuthbert", ("cuthbert==0.1.1", "jax==0.10.2"), "cuthbert_ensemble.py", 40, 3.0),
    "particle": ("particles", ("particles==0.4", "numba==0.68.1", "numpy<2"), "particles_bootstrap.py", 40, 1.3),
}
"""For each filter: the peer, its packages, its script, how many twins both run, and the ratio demanded."""


def ours(name: str, values: NDArray[np.float64], n_runs: int) -> tuple[list[float], Any]:
    """Seconds of processor time for each run over all twins, and the diagnostics of a recorded one."""
    chosen, k = FILTERS[name], len(values)
    system, table = problem.system(k), problem.steps(values)
    mean, covariance = problem.prior(k)
    state = chosen.init(mean, covariance, np.full(k, problem.N), np.zeros(k))
    _, info = chosen.fold(state, system, table)
    # As the peers do: dynamax hands out moments for every visit, `particles` too, cuthbert its ensembles alone.
    seconds = []
    for _ in range(n_runs):
        began = time.process_time()
        chosen.fold(state, system, table, record=name != "ensemble")
        seconds.append(time.process_time() - began)
    return seconds, info


def peer(name: str, values: NDArray[np.float64], n_runs: int, start: tuple[Any, Any]) -> dict[str, Any]:
    """What the peer's script answers."""
    folder, packages, script, _, _ = PEERS[name]
    asked = {
        "values": values.tolist(), "n_runs": n_runs, "seed": SEED, "interval": problem.INTERVAL_DAYS,
        "n_substeps": problem.N_SUBSTEPS, "noise_variance": problem.NOISE_VARIANCE,
        "drift_variance": problem.DRIFT_VARIANCE_PER_DAY * problem.INTERVAL_DAYS,
        "prior_mean": np.log(problem.MEDIAN).tolist(), "prior_sd": list(problem.SPREAD),
        "start_mean": start[0].tolist(), "start_covariance": start[1].tolist(),
        "n_members": {"unscented": 0, "ensemble": 256, "particle": 1_000}[name],
    }
    answer = subprocess.run(
        [str(peer_python(folder, packages)), str(SCRIPTS / script)], input=json.dumps(asked), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True,
    )
    found: dict[str, Any] = json.loads(answer.stdout)
    return found


def disagreement(name: str, mean: NDArray[np.float64], other: NDArray[np.float64], info: Any) -> tuple[float, float]:
    """How far the posterior means lie apart, in posterior standard deviations, and what is allowed.

    For the random filters the mean over twins of the difference, and four times its standard error over twins.
    """
    sd = np.sqrt(np.einsum("sii->si", info.covariance)).reshape(mean.shape)
    apart = (mean - other) / sd
    if name == "unscented":
        return float(np.abs(apart).max()), 1e-5
    last = apart[:, -1]
    z = np.abs(last.mean(axis=0)) / (last.std(axis=0, ddof=1) / np.sqrt(len(last)))
    return float(z.max()), 4.0


def main() -> None:
    """Measure, compare, print and record."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print(f"{'filter':10s} {'ours 1/s':>10s} {'peer':>10s} {'peer 1/s':>10s} {'ratio':>6s} {'bar':>5s}  agreement")
    for name in NAMES:
        folder, _, _, n_twins, bar = PEERS[name]
        values = problem.simulate(n_twins, N_VISITS, SEED)
        mean, covariance = problem.prior(1)
        chosen = UnscentedFilter()
        start, _ = chosen.forecast(
            chosen.init(mean, covariance, np.array([problem.N]), np.zeros(1)), problem.system(1),
            np.array([problem.INTERVAL_DAYS]), np.ones((1, 1)),
        )
        before, info = ours(name, values, N_RUNS)
        other = peer(name, values, N_RUNS, (start.mean[0], start.covariance[0]))
        after, _ = ours(name, values, N_RUNS)
        n_updates = n_twins * N_VISITS
        rate, peer_rate = n_updates / median(before + after), n_updates / median(other["seconds"])
        found, allowed = disagreement(
            name, info.mean.reshape(n_twins, N_VISITS, -1), np.array(other["means"]), info
        )
        if found > allowed:
            raise RuntimeError(f"{name}: posteriors of ours and {folder} differ ({found:.3g}, allowed {allowed:.3g})")
        print(f"{name:10s} {rate:10,.0f} {folder:>10s} {peer_rate:10,.0f} {rate / peer_rate:6.2f} {bar:5.1f}  "
              f"{found:.2g} (allowed {allowed:.2g})")
        record(
            f"filters.throughput.{name}", round(rate), "updates/s per core",
            reference=f"{folder}, same run: {peer_rate:,.0f}", ratio=round(rate / peer_rate, 2),
            bar=f"at least {bar}", command=COMMAND,
            note=f"10 components, 84 Runge-Kutta steps and one observation an update; {n_twins} twins, {N_VISITS} "
            f"visits, float64, processor time, median of runs; posteriors agree ({found:.2g} of {allowed:.2g} allowed)",
        )


if __name__ == "__main__":
    main()
