"""Runs in dynamax's own environment: its unscented filter on the reference problem, timed on one thread.

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
import jax.numpy as jnp
from dynamax.nonlinear_gaussian_ssm import ParamsNLGSSM, UKFHyperParams, unscented_kalman_filter


def mover(n_substeps, interval):
    """The equations of `reference_problem` for one member."""
    h = interval / n_substeps

    def move(member):
        rates = jnp.exp(member)
        to_r, to_s = rates[8], rates[9]
        gain = jnp.array([rates[2] - rates[6] - to_r, rates[3] - rates[7] - to_s])
        crowd, cross = rates[4:6], jnp.array([to_s, to_r])

        def slope(z):
            return z * (gain - crowd * (z[0] + z[1])) + z[::-1] * cross

        def step(_, z):
            a = slope(z)
            b = slope(z + 0.5 * h * a)
            c = slope(z + 0.5 * h * b)
            d = slope(z + h * c)
            return z + h / 6.0 * (a + 2.0 * (b + c) + d)

        z = jax.lax.fori_loop(0, n_substeps, step, rates[:2])
        return jnp.concatenate([jnp.log(z), member[2:]])

    return move


def main():
    problem = json.load(sys.stdin)
    values = jnp.asarray(problem["values"])
    n = len(problem["start_mean"])
    parameters = ParamsNLGSSM(
        initial_mean=jnp.asarray(problem["start_mean"]), initial_covariance=jnp.asarray(problem["start_covariance"]),
        dynamics_function=mover(problem["n_substeps"], problem["interval"]),
        dynamics_covariance=jnp.eye(n) * problem["drift_variance"],
        emission_function=lambda member: jnp.log(jnp.exp(member[:1]) + jnp.exp(member[1:2])),
        emission_covariance=jnp.eye(1) * problem["noise_variance"],
    )

    @jax.jit
    def run(batch):
        def one(series):
            found = unscented_kalman_filter(
                parameters, series[:, None], UKFHyperParams(1.0, 0.0, 0.0),
                output_fields=["filtered_means", "filtered_covariances"],
            )
            return found.filtered_means, found.filtered_covariances

        return jax.vmap(one)(batch)

    means, covariances = jax.block_until_ready(run(values))
    seconds = []
    for _ in range(problem["n_runs"]):
        began = time.process_time()
        jax.block_until_ready(run(values))
        seconds.append(time.process_time() - began)
    json.dump({"seconds": seconds, "means": means.tolist(), "covariances": covariances.tolist()}, sys.stdout)


if __name__ == "__main__":
    main()
