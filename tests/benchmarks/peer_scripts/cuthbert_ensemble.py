"""Runs in cuthbert's own environment: its ensemble Kalman filter on the reference problem, timed on one thread.

Reads a JSON object on standard input (the problem as numbers), writes one on standard output.
"""
# mypy: ignore-errors
# ruff: noqa: E402 (threads are bound before the libraries that would start them are loaded)

import json
import os
import sys
import time

os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import jax

jax.config.update("jax_enable_x64", True)
import cuthbert
import jax.numpy as jnp
from cuthbert.ensemble_kalman import ensemble_kalman_filter


def mover(n_substeps, interval, drift_variance):
    """The equations of `reference_problem` for one member, with its drift."""
    h = interval / n_substeps

    def move(member, key):
        rates = jnp.exp(member)
        to_r, to_s = rates[8], rates[9]
        gain_s, gain_r = rates[2] - rates[6] - to_r, rates[3] - rates[7] - to_s
        crowd_s, crowd_r = rates[4], rates[5]

        def slope(s, r):
            b = s + r
            return s * (gain_s - crowd_s * b) + r * to_s, r * (gain_r - crowd_r * b) + s * to_r

        def step(_, z):
            s, r = z
            s1, r1 = slope(s, r)
            s2, r2 = slope(s + 0.5 * h * s1, r + 0.5 * h * r1)
            s3, r3 = slope(s + 0.5 * h * s2, r + 0.5 * h * r2)
            s4, r4 = slope(s + h * s3, r + h * r3)
            return s + h / 6.0 * (s1 + 2.0 * (s2 + s3) + s4), r + h / 6.0 * (r1 + 2.0 * (r2 + r3) + r4)

        s, r = jax.lax.fori_loop(0, n_substeps, step, (rates[0], rates[1]))
        moved = jnp.concatenate([jnp.log(jnp.stack([s, r])), member[2:]])
        return moved + jnp.sqrt(drift_variance) * jax.random.normal(key, moved.shape)

    return move


def main():
    problem = json.load(sys.stdin)
    values = jnp.asarray(problem["values"])
    mean, sd = jnp.asarray(problem["prior_mean"]), jnp.asarray(problem["prior_sd"])
    move = mover(problem["n_substeps"], problem["interval"], problem["drift_variance"])
    root = jnp.sqrt(jnp.eye(1) * problem["noise_variance"])
    chosen = ensemble_kalman_filter.build_filter(
        init_sample=lambda key: mean + sd * jax.random.normal(key, mean.shape),
        get_dynamics=lambda _: move,
        get_observations=lambda seen: (lambda m: jnp.log(jnp.exp(m[:1]) + jnp.exp(m[1:2])), root, seen),
        n_particles=problem["n_members"],
    )

    @jax.jit
    def run(series, key):
        first, rest = jax.random.split(key)
        start = chosen.init_prepare(key=first)
        states = cuthbert.filter(chosen, series[:, None], start, key=rest)
        return jnp.mean(states.ensemble[1:], axis=1)

    keys = jax.random.split(jax.random.key(problem["seed"]), len(values))
    means = jnp.stack([jax.block_until_ready(run(series, key)) for series, key in zip(values, keys, strict=True)])
    seconds = []
    for _ in range(problem["n_runs"]):
        began = time.process_time()
        for series, key in zip(values, keys, strict=True):
            jax.block_until_ready(run(series, key))
        seconds.append(time.process_time() - began)
    json.dump({"seconds": seconds, "means": means.tolist()}, sys.stdout)


if __name__ == "__main__":
    main()
