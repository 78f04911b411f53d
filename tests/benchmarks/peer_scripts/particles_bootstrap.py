"""Runs in the environment of the package `particles`: its bootstrap filter on the reference problem, one thread.

Reads a JSON object on standard input (the problem as numbers), writes one on standard output. The dynamics are
compiled by numba, as a careful user of the package would; drawing, weighting and resampling are the package's own.
"""
# mypy: ignore-errors
# ruff: noqa: E402 (threads are bound before the libraries that would start them are loaded)
# ruff: noqa: NPY002 (the package draws from NumPy's global generator)

import json
import math
import os
import sys
import time

os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

import numpy as np
import particles
from numba import njit
from numba.extending import intrinsic
from particles import distributions as dists
from particles import state_space_models as ssm

WIDTH = 32


@intrinsic
def fma(_context, a, _b, _c):
    """a * b + c rounded once."""
    return a(a, a, a), lambda _context, builder, _signature, arguments: builder.fma(*arguments)


@njit
def move_all(members, n, interval):
    """The equations of `reference_problem`, 32 members (rows) side by side, as in our own code."""
    out = members.copy()
    h = interval / n
    half, sixth = 0.5 * h, h / 6.0
    w = np.empty(8 * WIDTH)
    for first in range(0, members.shape[0], WIDTH):
        width = min(WIDTH, members.shape[0] - first)
        lanes = min((width + 7) // 8 * 8, WIDTH)
        w[:] = 0.0
        for j in range(width):
            member = members[first + j]
            to_r, to_s = math.exp(member[8]), math.exp(member[9])
            w[j], w[WIDTH + j] = math.exp(member[0]), math.exp(member[1])
            w[2 * WIDTH + j] = math.exp(member[2]) - math.exp(member[6]) - to_r
            w[3 * WIDTH + j] = math.exp(member[3]) - math.exp(member[7]) - to_s
            w[4 * WIDTH + j], w[5 * WIDTH + j] = math.exp(member[4]), math.exp(member[5])
            w[6 * WIDTH + j], w[7 * WIDTH + j] = to_r, to_s
        for _ in range(n):
            for j in range(lanes):
                s, r = w[j], w[WIDTH + j]
                gain_s, gain_r = w[2 * WIDTH + j], w[3 * WIDTH + j]
                crowd_s, crowd_r = w[4 * WIDTH + j], w[5 * WIDTH + j]
                to_r, to_s = w[6 * WIDTH + j], w[7 * WIDTH + j]
                b = s + r
                s1 = fma(s, fma(-crowd_s, b, gain_s), r * to_s)
                r1 = fma(r, fma(-crowd_r, b, gain_r), s * to_r)
                x, y = fma(half, s1, s), fma(half, r1, r)
                b = x + y
                s2 = fma(x, fma(-crowd_s, b, gain_s), y * to_s)
                r2 = fma(y, fma(-crowd_r, b, gain_r), x * to_r)
                x, y = fma(half, s2, s), fma(half, r2, r)
                b = x + y
                s3 = fma(x, fma(-crowd_s, b, gain_s), y * to_s)
                r3 = fma(y, fma(-crowd_r, b, gain_r), x * to_r)
                x, y = fma(h, s3, s), fma(h, r3, r)
                b = x + y
                s4 = fma(x, fma(-crowd_s, b, gain_s), y * to_s)
                r4 = fma(y, fma(-crowd_r, b, gain_r), x * to_r)
                w[j] = fma(sixth, fma(2.0, s2 + s3, s1) + s4, s)
                w[WIDTH + j] = fma(sixth, fma(2.0, r2 + r3, r1) + r4, r)
        for j in range(width):
            out[first + j, 0], out[first + j, 1] = math.log(w[j]), math.log(w[WIDTH + j])
    return out


class FirstVisit(dists.ProbDist):
    """The prior, moved over the first interval."""

    def __init__(self, problem):
        self.problem, self.dim = problem, len(problem["prior_mean"])

    def rvs(self, size=None):
        p = self.problem
        z = np.random.standard_normal((size, self.dim))
        moved = move_all(np.array(p["prior_mean"]) + np.array(p["prior_sd"]) * z, p["n_substeps"], p["interval"])
        return moved + math.sqrt(p["drift_variance"]) * np.random.standard_normal(moved.shape)


class Model(ssm.StateSpaceModel):
    """The reference problem."""

    def PX0(self):
        return FirstVisit(self.problem)

    def PX(self, t, xp):
        p = self.problem
        moved = move_all(xp, p["n_substeps"], p["interval"])
        return dists.IndepProd(
            *(dists.Normal(loc=moved[:, i], scale=math.sqrt(p["drift_variance"])) for i in range(moved.shape[1]))
        )

    def PY(self, t, xp, x):
        return dists.Normal(
            loc=np.log(np.exp(x[:, 0]) + np.exp(x[:, 1])), scale=math.sqrt(self.problem["noise_variance"])
        )


def run(problem, series):
    """Posterior means after every observation of one twin."""
    chosen = particles.SMC(
        fk=ssm.Bootstrap(ssm=Model(problem=problem), data=series), N=problem["n_members"], resampling="systematic",
        ESSrmin=0.5, collect=[particles.collectors.Moments()],
    )
    chosen.run()
    return [found["mean"].tolist() for found in chosen.summaries.moments]


def main():
    problem = json.load(sys.stdin)
    values = np.array(problem["values"])
    np.random.seed(problem["seed"])
    means = [run(problem, series) for series in values]
    seconds = []
    for _ in range(problem["n_runs"]):
        began = time.process_time()
        for series in values:
            run(problem, series)
        seconds.append(time.process_time() - began)
    json.dump({"seconds": seconds, "means": means}, sys.stdout)


if __name__ == "__main__":
    main()
