"""Moran's I and neighbourhood enrichment beside squidpy, on the same cells and graph, in the same run.

All times are of the processor's own clock, so that a neighbour on the machine weighs on neither. The cells lie in
Hilbert order, as a section is stored; squidpy is given that order too. Bandwidth counts one float64 read of the
matrix, against the triad ``a = b + s c`` (three float64 an element) in one thread, as the pass runs in one.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from tests.benchmarks.peers import peer_python
from tests.benchmarks.record import record

from oncotwin.spatial import autocorrelation, enrichment
from oncotwin.spatial.graphs import SpatialGraph, join_rows, knn_rows, whole_section
from oncotwin.spatial.nearest import hilbert_order
from oncotwin.spatial.pairs import Weighting, pair_weights

Array = NDArray[np.float64]
COMMAND = "python -m tests.benchmarks.bench_spatial_statistics"
SCRIPT = Path(__file__).parent / "peer_scripts" / "squidpy_statistics.py"
PACKAGES = ("squidpy==1.8.3", "setuptools<81")
N_GENES, N_TYPES, K, N_RUNS = 500, 20, 6, 5
N_PERMUTATIONS, N_TIMED = 1_000, 20


def a_section(n_cells: int) -> tuple[Array, SpatialGraph, NDArray[np.uint8]]:
    """Places (n_cells, 2) in Hilbert order, their kNN graph, and types that cluster."""
    rng = np.random.default_rng(1)
    points = rng.random((n_cells, 2)) * np.sqrt(n_cells) * 10.0
    points = points[hilbert_order(points)]
    zone = np.floor(points / 400.0).astype(np.int64) @ np.array([7, 3])
    labels = np.where(rng.random(n_cells) < 0.3, zone % N_TYPES, rng.integers(0, N_TYPES, n_cells)).astype(np.uint8)
    return points, join_rows([knn_rows(whole_section(points), K)], n_cells), labels


def a_matrix(points: Array) -> Array:
    """Expression (n_cells, N_GENES): waves of many lengths under noise."""
    rng = np.random.default_rng(2)
    matrix = np.empty((len(points), N_GENES))
    lengths = rng.uniform(30.0, 3_000.0, N_GENES)
    for first in range(0, len(points), 10_000):
        part = slice(first, first + 10_000)
        matrix[part] = rng.gamma(0.7, 1.0, matrix[part].shape) + np.sin(points[part, :1] / lengths) + 1.0
    return matrix


def seconds_of(run: Callable[[], Any]) -> tuple[float, Any]:
    """Smallest processor time of some runs, and what the last one answered."""
    run()
    best, answer = np.inf, None
    for _ in range(N_RUNS):
        began = time.process_time()
        answer = run()
        best = min(best, time.process_time() - began)
    return best, answer


@njit  # type: ignore[misc, unused-ignore]
def _triad(a: Array, b: Array, c: Array, s: float) -> None:
    for i in range(a.shape[0]):
        a[i] = b[i] + s * c[i]


def triad_bandwidth() -> float:
    """Bytes per second of the triad on arrays beyond any cache."""
    a, b, c = (np.ones(20_000_000) for _ in range(3))
    seconds, _ = seconds_of(lambda: _triad(a, b, c, 3.0))
    return 3.0 * a.nbytes / seconds


def squidpy(folder: Path, graph: SpatialGraph, labels: NDArray[np.uint8], **asked: Any) -> dict[str, Any]:
    """What squidpy answers."""
    np.save(folder / "offsets.npy", graph.offsets)
    np.save(folder / "neighbours.npy", graph.neighbours)
    np.save(folder / "labels.npy", labels)
    answer = subprocess.run(
        [str(peer_python("squidpy", PACKAGES)), str(SCRIPT)], input=json.dumps({"folder": str(folder), **asked}),
        text=True, stdout=subprocess.PIPE, check=True,
    )
    found: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return found


def moran(folder: Path) -> None:
    """100,000 cells by 500 genes."""
    points, graph, labels = a_section(100_000)
    matrix = a_matrix(points)

    def ours() -> Array:
        pairs = pair_weights(graph, Weighting.ROW)
        sums = autocorrelation.sums_of_block(matrix, pairs.block(0, len(matrix)), autocorrelation.shift_of(matrix))
        return autocorrelation.autocorrelation(sums, pairs)[0].statistic

    seconds, found = seconds_of(ours)
    np.save(folder / "matrix.npy", matrix)
    theirs = squidpy(folder, graph, labels, what="moran")
    apart = float(np.abs(found - np.array(theirs["values"])).max())
    ratio, bandwidth = theirs["seconds"] / seconds, matrix.nbytes / seconds / triad_bandwidth()
    print(f"Moran: ours {seconds:.3f} s, squidpy {theirs['seconds']:.2f} s, {ratio:.0f} times, largest difference "
          f"{apart:.1e}, {bandwidth:.0%} of the triad")
    record(
        "spatial.moran.time", round(seconds, 3), "s", reference=f"squidpy, same run: {theirs['seconds']:.2f}",
        ratio=round(ratio, 1), bar="at least 20 times less", command=COMMAND,
        note="100,000 cells x 500 genes, processor seconds, Moran and Geary with moments; largest difference "
        f"{apart:.1e} (bar: 1e-5)",
    )
    record(
        "spatial.moran.bandwidth", round(bandwidth, 3), "1", reference="triad in one thread", ratio=round(bandwidth, 3),
        bar="at least 0.6", command=COMMAND,
        note="one float64 read of the matrix in the processor time of the whole call",
    )


def enrichments(folder: Path) -> None:
    """1,000,000 cells of 20 types; the permutations' time is extrapolated from a few."""
    _, graph, labels = a_section(1_000_000)

    def ours() -> Array:
        rows = graph.rows(0, graph.n_cells)
        moments = enrichment.graph_moments([enrichment.tally_edges(rows)], graph.n_cells)
        counts = enrichment.edge_counts(rows, labels, N_TYPES)
        return enrichment.enrichment(counts, np.bincount(labels, minlength=N_TYPES), moments).z

    seconds, _ = seconds_of(ours)
    theirs = squidpy(folder, graph, labels, what="enrichment", n_permutations=N_TIMED, n_seeds=1)
    whole = theirs["seconds"] * N_PERMUTATIONS / N_TIMED
    print(f"enrichment: ours {seconds:.3f} s, squidpy {whole:.0f} s for {N_PERMUTATIONS} permutations, "
          f"{whole / seconds:.0f} times")
    record(
        "spatial.enrichment.time", round(seconds, 3), "s", reference=f"squidpy, same run: {whole:.0f}",
        ratio=round(whole / seconds), bar="at least 40 times less", command=COMMAND,
        note=f"1,000,000 cells x {N_TYPES} types, graph given; squidpy's {N_PERMUTATIONS} permutations from {N_TIMED}",
    )


def spread(folder: Path) -> None:
    """100,000 cells: our z among those of 20 seeds of permutations."""
    _, graph, labels = a_section(100_000)
    rows = graph.rows(0, graph.n_cells)
    moments = enrichment.graph_moments([enrichment.tally_edges(rows)], graph.n_cells)
    ours = enrichment.enrichment(
        enrichment.edge_counts(rows, labels, N_TYPES), np.bincount(labels, minlength=N_TYPES), moments
    ).z
    answer = squidpy(folder, graph, labels, what="enrichment", n_permutations=N_PERMUTATIONS, n_seeds=20)
    theirs = np.array(answer["values"])
    inside = float(((ours >= theirs.min(axis=0)) & (ours <= theirs.max(axis=0))).mean())
    print(f"enrichment z within the range of 20 seeds: {inside:.1%} of type pairs")
    record(
        "spatial.enrichment.spread", round(inside, 4), "1", reference="squidpy, 20 seeds of 1,000 permutations",
        bar="within the spread", command=COMMAND,
        note="share of type pairs whose exact z lies between the smallest and the largest of 20 seeds",
    )


def main() -> None:
    """Measure, compare, print and record."""
    with tempfile.TemporaryDirectory() as name:
        for bench in (moran, enrichments, spread):
            bench(Path(name))


if __name__ == "__main__":
    main()
