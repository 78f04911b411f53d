"""Twin experiments: a truth is simulated, observed with noise, and a filter is scored on how near it stays."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oncotwin.filters.base import System
from oncotwin.filters.ensemble import EnsembleFilter
from oncotwin.filters.particle import ParticleFilter
from oncotwin.filters.steps import Operation, StepTable

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class TwinExperiment:
    """A system without process noise, all of whose components are observed at equal intervals.

    Attributes:
        name: for reports.
        propagate, observe, constants: the system.
        start, start_variance: Gaussian of the truth's and the filter's start, the same for all components' spread.
        interval: between observations, in the model's time.
        noise_variance: of the observations.
        n_cycles, burn_in: moments of observation, and how many of the first are left out of the score.
        diverged_at: a run whose score exceeds this has lost the truth.
    """

    name: str
    propagate: Callable[..., Any]
    observe: Callable[..., Any]
    constants: tuple[float, ...]
    start: tuple[float, ...]
    start_variance: float
    interval: float
    noise_variance: float
    n_cycles: int
    burn_in: int
    diverged_at: float

    def score(self, method: EnsembleFilter | ParticleFilter, seed: int) -> float:
        """Time-mean over the cycles after the burn-in of the analysis mean's root-mean-square error."""
        n = len(self.start)
        draw = np.random.default_rng([seed, 63])
        constants, nothing = np.array(self.constants), np.zeros(1)
        truth = np.zeros((self.n_cycles, n))
        at = np.array(self.start) + math.sqrt(self.start_variance) * draw.standard_normal(n)
        for cycle in range(self.n_cycles):
            out = np.zeros(n)
            self.propagate(at, cycle * self.interval, (cycle + 1) * self.interval, nothing, constants, out)
            truth[cycle] = at = out
        values = truth + math.sqrt(self.noise_variance) * draw.standard_normal(truth.shape)
        rows = self.n_cycles * n
        table = StepTable(
            offsets=np.array([0, rows]), time=np.repeat(np.arange(1, self.n_cycles + 1) * self.interval, n),
            operation=np.full(rows, int(Operation.OBSERVE)), operator=np.zeros(rows, dtype=np.int64),
            target=np.tile(np.arange(n), self.n_cycles), value=values.ravel(), upper=np.zeros(rows),
            inputs=np.zeros((rows, 1)), reset=np.full(rows, -1), resets=np.full((1, n, 2), np.nan),
            keys=np.repeat(np.arange(self.n_cycles, dtype=np.uint64), n),
        )
        system = System(self.propagate, self.observe, constants[None, :], np.zeros((1, n)))
        seeded = replace(method, seed=seed)
        state: Any = seeded.init(
            np.array(self.start)[None, :], self.start_variance * np.eye(n)[None], np.array([n]), np.zeros(1)
        )
        _, info = seeded.fold(state, system, table)
        analysis = info.mean[n - 1 :: n]
        errors = np.sqrt(np.mean((analysis - truth) ** 2, axis=1))
        return float(errors[self.burn_in :].mean())
