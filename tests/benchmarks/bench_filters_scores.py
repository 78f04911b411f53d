"""Filters against closed forms and published scores: linear-Gaussian exactness, Lorenz-63 and Lorenz-96."""

from __future__ import annotations

from statistics import median
from typing import Any

import numpy as np
from tests.benchmarks.record import record

from oncotwin.filters.ensemble import EnsembleFilter
from oncotwin.filters.unscented import UnscentedFilter
from oncotwin.testing.scenarios import linear_gaussian, lorenz63_sakov2012, lorenz96_sakov2008

COMMAND = "python -m tests.benchmarks.bench_filters_scores"
N_TWINS, EACH, SEED = 20, 50, 3
SEEDS = range(1, 6)
SLACK = 1.10


def main() -> None:
    """Print and record every score beside what it is held against."""
    exactness()
    for scenario in (lorenz63_sakov2012, lorenz96_sakov2008):
        experiment = scenario.EXPERIMENT
        for title, method, published in scenario.SCORES:
            scores = [experiment.score(method, seed) for seed in SEEDS]
            lost = sum(score > experiment.diverged_at for score in scores)
            middle = median(scores)
            print(
                f"{experiment.name:9s} {title:60s} {middle:.3f}  published {published:.2f}  "
                f"ratio {middle / published:.3f}  diverged {lost} of {len(scores)}"
            )
            record(
                f"filters/{experiment.name}/{title.split(',')[0].replace(' ', '_')}", middle, "RMSE",
                reference=f"published {published}", ratio=middle / published, bar=f"at most {SLACK:.2f}",
                command=COMMAND,
                note=f"{title}; median of {len(scores)} seeds, {experiment.n_cycles} cycles, the first "
                f"{experiment.burn_in} left out, {lost} diverged",
            )


def exactness() -> None:
    """Largest difference to the closed-form Kalman filter, and how an ensemble's falls with its size."""
    system, (mean, covariance) = linear_gaussian.system(N_TWINS), linear_gaussian.prior(N_TWINS, SEED)
    table = linear_gaussian.steps(N_TWINS, EACH, SEED)
    exact = linear_gaussian.kalman(mean, covariance, system, table)
    n, start = np.full(N_TWINS, linear_gaussian.N), np.zeros(N_TWINS)
    unscented = UnscentedFilter()
    _, info = unscented.fold(unscented.init(mean, covariance, n, start), system, table)
    worst = max(
        float(np.abs(info.mean - exact.mean).max()), float(np.abs(info.covariance - exact.covariance).max()),
        float(np.abs(info.log_likelihood - exact.log_likelihood).max()),
    )
    print(f"unscented against the Kalman filter: largest difference {worst:.1e}")
    record(
        "filters/exactness/unscented", worst, "largest absolute difference", reference="closed-form Kalman filter",
        bar="1e-10", command=COMMAND, note="means, covariances and log-likelihoods of 20 twins, 50 steps each",
    )
    sd = np.sqrt(np.einsum("sii->si", exact.covariance))
    for n_members in (256, 4_096):
        chosen: Any = EnsembleFilter(n_members)
        _, found = chosen.fold(chosen.init(mean, covariance, n, start), system, table)
        error = float(np.sqrt(np.mean(((found.mean - exact.mean) / sd) ** 2)))
        print(f"ensemble of {n_members}: {error:.4f} posterior standard deviations")
        record(
            f"filters/exactness/ensemble_{n_members}", error, "posterior sd",
            reference="closed-form Kalman filter", command=COMMAND,
            note="root mean square; falls with the square root of the number of members",
        )


if __name__ == "__main__":
    main()
