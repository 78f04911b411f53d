"""Moran's I beside squidpy, on the same cells and graph in the same run, and beside the machine's memory.

Times against squidpy are of the processor's own clock, from the graph to I and its p-values, so that a neighbour on the
machine weighs on neither. The cells lie in Hilbert order, as a section is stored; squidpy is given that order too.
Bandwidth counts one float64 read of the matrix in the time on the wall of the sums of all genes, the pairs being there;
the triad ``a = b + s c`` counts three float64 an element. Both use every core, and then both one.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from tests.benchmarks.peers import peer_python
from tests.benchmarks.record import record

from oncotwin.spatial.autocorrelation import Assumption, Wanted, autocorrelation, morans_i, shift_of, sums_of_block
from oncotwin.spatial.blocks import Run
from oncotwin.spatial.graphs import SpatialGraph, join_rows, knn_rows, whole_section
from oncotwin.spatial.nearest import hilbert_order
from oncotwin.spatial.pairs import PairWeights, Weighting, pair_weights

Array = NDArray[np.float64]
Labels = NDArray[np.uint8]
COMMAND = "python -m tests.benchmarks.bench_spatial_statistics"
SCRIPT = Path(__file__).parent / "peer_scripts" / "squidpy_statistics.py"
PACKAGES = ("squidpy==1.8.3", "setuptools<81")
SQUIDPYS_PYTHON = (3, 12)
N_CELLS, N_GENES, N_TYPES, K, N_RUNS = 100_000, 500, 20, 6, 7
TRIAD = 20_000_000


def a_section(n_cells: int) -> tuple[Array, SpatialGraph, Labels]:
    """Places (n_cells, 2) in Hilbert order, their kNN graph, and types that cluster."""
    rng = np.random.default_rng(1)
    points = rng.random((n_cells, 2)) * np.sqrt(n_cells) * 10.0
    points = points[hilbert_order(points)]
    return points, join_rows([knn_rows(whole_section(points), K)], n_cells), clustered_types(points, rng)


def clustered_types(points: Array, rng: np.random.Generator) -> Labels:
    """A type of each cell (n,), three in ten that of their zone."""
    zone = np.floor(points / 400.0).astype(np.int64) @ np.array([7, 3])
    some = rng.integers(0, N_TYPES, len(points))
    return np.where(rng.random(len(points)) < 0.3, zone % N_TYPES, some).astype(np.uint8)


def a_matrix(points: Array) -> Array:
    """Expression (n_cells, N_GENES): waves of many lengths under noise."""
    rng = np.random.default_rng(2)
    matrix = np.empty((len(points), N_GENES))
    lengths = rng.uniform(30.0, 3_000.0, N_GENES)
    for first in range(0, len(points), 10_000):
        part = slice(first, first + 10_000)
        matrix[part] = rng.gamma(0.7, 1.0, matrix[part].shape) + np.sin(points[part, :1] / lengths) + 1.0
    return matrix


def shortest(run: Callable[[], Any], clock: Callable[[], float]) -> float:
    """Smallest of some times of a call, the first left out."""
    run()
    times = []
    for _ in range(N_RUNS):
        began = clock()
        run()
        times.append(clock() - began)
    return min(times)


@njit(nogil=True)  # type: ignore[misc, unused-ignore]
def _triad(a: Array, b: Array, c: Array, s: float) -> None:
    for i in range(a.shape[0]):
        a[i] = b[i] + s * c[i]


def triad_bandwidth(n_threads: int, pool: ThreadPoolExecutor) -> float:
    """Bytes per second of the triad on arrays beyond any cache, each thread with a part of its own."""
    a, b, c = (np.ones(TRIAD) for _ in range(3))
    parts = [[part[i] for part in (np.array_split(x, n_threads) for x in (a, b, c))] for i in range(n_threads)]
    seconds = shortest(lambda: list(pool.map(lambda part: _triad(*part, 3.0), parts)), time.perf_counter)
    return 3.0 * a.nbytes / seconds


def squidpy(folder: Path, graph: SpatialGraph, labels: Labels, **asked: Any) -> dict[str, Any]:
    """What squidpy answers."""
    np.save(folder / "offsets.npy", graph.offsets)
    np.save(folder / "neighbours.npy", graph.neighbours)
    np.save(folder / "labels.npy", labels)
    python = peer_python("squidpy", PACKAGES, SQUIDPYS_PYTHON)
    answer = subprocess.run(
        [str(python), str(SCRIPT)], input=json.dumps({"folder": str(folder), **asked}), text=True,
        stdout=subprocess.PIPE, check=True,
    )
    found: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return found


def verdict(is_met: bool) -> str:
    """For a reader in a hurry."""
    return "met" if is_met else "MISSED"


def against_squidpy(matrix: Array, graph: SpatialGraph, labels: Labels) -> None:
    """From the graph to I and its p-values, as both programs give them."""

    def moran() -> tuple[Array, Array]:
        pairs = pair_weights(graph, Weighting.ROW)
        sums = sums_of_block(matrix, pairs.block(0, len(matrix)), shift_of(matrix), Wanted.MORAN)
        found = morans_i(sums, pairs)
        return found.statistic, found.p(Assumption.NORMALITY)

    def both() -> None:
        pairs = pair_weights(graph, Weighting.ROW)
        autocorrelation(sums_of_block(matrix, pairs.block(0, len(matrix)), shift_of(matrix)), pairs)

    seconds, seconds_of_both = shortest(moran, time.process_time), shortest(both, time.process_time)
    with tempfile.TemporaryDirectory() as name:
        np.save(Path(name) / "matrix.npy", matrix)
        theirs = squidpy(Path(name), graph, labels, what="moran")
    apart = float(np.abs(moran()[0] - np.array(theirs["values"])).max())
    ratio = theirs["seconds"] / seconds
    print(f"Moran's I: {seconds:.3f} CPU s (with Geary's C and all moments {seconds_of_both:.3f}), squidpy "
          f"{theirs['seconds']:.2f}: {ratio:.0f} times less (bar 20: {verdict(ratio >= 20.0)}); largest difference "
          f"{apart:.1e} (bar 1e-5: {verdict(apart < 1e-5)})")
    record(
        "spatial/moran/time", round(seconds, 4), "s", reference=f"squidpy, same run: {theirs['seconds']:.2f}",
        ratio=round(ratio, 1), bar="at least 20 times less, largest difference under 1e-5",
        is_met=bool(ratio >= 20 and apart < 1e-5), command=COMMAND,
        note=f"{N_CELLS:,} cells x {N_GENES} genes, processor seconds from the graph to p-values; largest difference "
        f"{apart:.1e}; with Geary's C and moments under randomisation {seconds_of_both:.3f} s",
    )


def against_memory(matrix: Array, pairs: PairWeights) -> None:
    """One read of the matrix against the triad, on every core and on one."""
    whole, shift = pairs.block(0, len(matrix)), shift_of(matrix)
    n_cores = len(os.sched_getaffinity(0))
    shares = {}
    with ThreadPoolExecutor(n_cores) as pool:
        for n_threads in sorted({1, n_cores}):
            run: Run = pool.map if n_threads > 1 else map
            triad = triad_bandwidth(n_threads, pool)
            for wanted in Wanted:
                seconds = shortest(partial(sums_of_block, matrix, whole, shift, wanted, run), time.perf_counter)
                shares[n_threads, wanted] = matrix.nbytes / seconds / triad
                print(f"{n_threads} threads, sums of {wanted}: {matrix.nbytes / seconds / 1e9:.1f} GB/s of a triad of "
                      f"{triad / 1e9:.1f}: {shares[n_threads, wanted]:.0%}")
    share = shares[n_cores, Wanted.MORAN]
    print(f"on the whole machine {share:.0%} of the triad (bar 60 %: {verdict(share >= 0.6)})")
    record(
        "spatial/moran/bandwidth", round(share, 3), "1", reference="triad on every core", ratio=round(share, 3),
        bar="at least 0.6", is_met=bool(share >= 0.6), command=COMMAND,
        note=f"one float64 read of the matrix in the time of the sums; one core beside a triad on one: "
        f"{shares[1, Wanted.MORAN]:.2f}; with the sums for Geary's C and moments under randomisation "
        f"{shares[n_cores, Wanted.ALL]:.2f}",
    )


def main() -> None:
    """Measure, compare, print and record."""
    points, graph, labels = a_section(N_CELLS)
    matrix = a_matrix(points)
    against_memory(matrix, pair_weights(graph, Weighting.ROW))
    against_squidpy(matrix, graph, labels)


if __name__ == "__main__":
    main()
