"""Neighbourhood enrichment beside squidpy's permutations, and of a section on disk that is larger than memory allows.

In memory both programs are given the same graph and types, on generated sections and on real ones (imaging mass
cytometry). On disk the cells lie in a Zarr store in no order: they are sorted into square tiles, and each tile with its
halo becomes a block that a worker takes; the neighbours of some cells are checked against all cells of the section.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from numba import njit
from numpy.typing import NDArray
from tests.benchmarks.accuracy import data_folder
from tests.benchmarks.bench_spatial_statistics import (
    N_TYPES,
    K,
    a_section,
    clustered_types,
    shortest,
    squidpy,
    verdict,
)
from tests.benchmarks.record import peak_memory_mb, record

from oncotwin.adapters.arrays.cell_tiles import ROWS_AT_ONCE, enrichment_of_tiles, sort_into_tiles
from oncotwin.adapters.arrays.engine import open_engine
from oncotwin.spatial.enrichment import (
    Enrichment,
    edge_counts,
    enrichment,
    graph_moments,
    tally_edges,
)
from oncotwin.spatial.graphs import SpatialGraph, join_rows, knn_rows, whole_section

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]
Labels = NDArray[np.uint8]
COMMAND = "python -m tests.benchmarks.bench_spatial_enrichment"
N_PERMUTATIONS, N_TIMED, N_SEEDS = 1_000, 20, 20
N_ON_DISK, N_SAMPLED = 20_000_000, 100
SMALL_ENOUGH = 2_000_000
"""Cells of a section that is also worked on whole, in memory."""


def enriched(graph: SpatialGraph, labels: Labels, n_types: int) -> Enrichment:
    """Enrichment of a section in memory, its graph given."""
    rows = graph.rows(0, graph.n_cells)
    counts = edge_counts(rows, labels, n_types)
    sizes = np.bincount(labels, minlength=n_types)
    return enrichment(counts, sizes, graph_moments([tally_edges(rows)], graph.n_cells))


def timed() -> None:
    """1,000,000 cells of 20 types; the permutations' time is extrapolated from a few."""
    n_cells = 1_000_000
    _, graph, labels = a_section(n_cells)
    seconds = shortest(lambda: enriched(graph, labels, N_TYPES), time.process_time)
    with tempfile.TemporaryDirectory() as name:
        theirs = squidpy(Path(name), graph, labels, what="enrichment", n_permutations=N_TIMED, n_seeds=1)
    whole = theirs["seconds"] * N_PERMUTATIONS / N_TIMED
    ratio = whole / seconds
    print(f"{n_cells:,} cells: {seconds:.3f} CPU s, squidpy {whole:.0f} for {N_PERMUTATIONS} permutations: {ratio:.0f} "
          f"times less (bar 40: {verdict(ratio >= 40.0)})")
    record(
        "spatial/enrichment/time", round(seconds, 4), "s", reference=f"squidpy, same run: {whole:.0f}",
        ratio=round(ratio), bar="at least 40 times less", is_met=ratio >= 40, command=COMMAND,
        note=f"{n_cells:,} cells x {N_TYPES} types, processor seconds, the graph given; squidpy's {N_PERMUTATIONS} "
        f"permutations from {N_TIMED}",
    )


def within_spread(graph: SpatialGraph, labels: Labels, n_types: int) -> tuple[float, float]:
    """Share of type pairs whose exact z lies among those of 20 seeds, and the largest distance from their mean.

    The distance is in standard deviations of a seed's z.
    """
    ours = enriched(graph, labels, n_types).z
    with tempfile.TemporaryDirectory() as name:
        answer = squidpy(
            Path(name), graph, labels, what="enrichment", n_permutations=N_PERMUTATIONS, n_seeds=N_SEEDS
        )
    theirs = np.array(answer["values"], dtype=np.float64)
    inside = (ours >= theirs.min(axis=0)) & (ours <= theirs.max(axis=0))
    with np.errstate(divide="ignore", invalid="ignore"):
        away = np.abs(ours - theirs.mean(axis=0)) / theirs.std(axis=0, ddof=1)
    return float(inside.mean()), float(np.nanmax(away))


def spread() -> None:
    """100,000 generated cells."""
    _, graph, labels = a_section(100_000)
    inside, away = within_spread(graph, labels, N_TYPES)
    print(f"100,000 cells: {inside:.1%} of type pairs within the spread of {N_SEEDS} seeds ({verdict(inside == 1.0)}); "
          f"at most {away:.1f} standard deviations of a seed from their mean")
    record(
        "spatial/enrichment/spread", round(inside, 4), "1", bar="within the spread, all of them", is_met=inside == 1,
        command=COMMAND,
        reference=f"squidpy, {N_SEEDS} seeds of {N_PERMUTATIONS} permutations",
        note="share of type pairs whose exact z lies between the smallest and the largest of the seeds; at most "
        f"{away:.1f} standard deviations of a seed from their mean",
    )


def real_sections(n_images: int = 3) -> None:
    """The images of breast cancer with the most cells."""
    cells = pd.read_csv(data_folder() / "imaging_mass_cytometry" / "breast_cells.csv.gz")
    for image in cells.image_number.value_counts().index[:n_images]:
        own = cells[cells.image_number == image]
        kinds, labels = np.unique(own.cell_type.to_numpy(), return_inverse=True)
        points = own[["cell_x", "cell_y"]].to_numpy(dtype=np.float64)
        graph = join_rows([knn_rows(whole_section(points), K)], len(points))
        inside, away = within_spread(graph, labels.astype(np.uint8), len(kinds))
        print(f"image {image}, {len(points):,} cells, {len(kinds)} types: {inside:.1%} of type pairs within the spread "
              f"({verdict(inside == 1.0)}); at most {away:.1f} standard deviations from the mean")
        record(
            f"spatial/enrichment/image-{image}", round(inside, 4), "1", command=COMMAND,
            reference=f"squidpy, {N_SEEDS} seeds of {N_PERMUTATIONS} permutations",
            note=f"breast cancer by imaging mass cytometry, {len(points):,} cells, {len(kinds)} types; at most "
            f"{away:.1f} standard deviations of a seed from their mean",
        )


def write_section(folder: Path, n_cells: int) -> None:
    """Cells in no order, of uneven density, with types that cluster."""
    group = zarr.open_group(folder, mode="w")
    places = group.create_array("points_um", shape=(n_cells, 2), chunks=(ROWS_AT_ONCE, 2), dtype="f8")
    types = group.create_array("types", shape=(n_cells,), chunks=(ROWS_AT_ONCE,), dtype="u1")
    side = np.sqrt(n_cells) * 10.0
    for first in range(0, n_cells, ROWS_AT_ONCE):
        rng = np.random.default_rng([3, first])
        n_here = min(ROWS_AT_ONCE, n_cells - first)
        # Four in five fill the square evenly, one lies in a denser quarter of it.
        points = rng.random((n_here, 2)) * side
        points[rng.random(n_here) < 0.2] *= 0.5
        places[first:first + n_here] = points
        types[first:first + n_here] = clustered_types(points, rng)


def work_on_disk(folder: Path, n_workers: int) -> dict[str, Any]:
    """The whole way from the store to z; runs in a process of its own, which tells its largest memory."""
    began = time.perf_counter()
    store = zarr.open_group(folder / "section.zarr", mode="r")
    points, types = store["points_um"], store["types"]
    assert isinstance(points, zarr.Array) and isinstance(types, zarr.Array)
    n_cells = points.shape[0]
    tiles = sort_into_tiles(points, types, folder / "tiles")
    sorted_in = time.perf_counter() - began
    sampled = np.sort(np.random.default_rng(4).choice(n_cells, N_SAMPLED, replace=False))
    with open_engine(n_workers, progress=True) as engine:
        run = engine.run("neighbours of each tile")
        found, ids, neighbours = enrichment_of_tiles(tiles, N_TYPES, K, run, sampled)
    seconds = time.perf_counter() - began
    return {
        "seconds": seconds, "sorted_in": sorted_in, "n_tiles": tiles.n_tiles,
        "peak_mb": peak_memory_mb(),
        "ids": ids.tolist(), "neighbours": neighbours.tolist(), "counts": found.counts.tolist(), "z": found.z.tolist(),
    }


@njit  # type: ignore[misc, unused-ignore]
def _look_at(points: Array, first: int, ids: IntArray, places: Array, squares: Array, found: IntArray) -> None:
    """Keep for each asked cell its nearest ones of those seen, comparing with every cell of a part of the section."""
    k = squares.shape[1]
    for s in range(len(ids)):
        for j in range(len(points)):
            dx, dy = points[j, 0] - places[s, 0], points[j, 1] - places[s, 1]
            square = dx * dx + dy * dy
            if square >= squares[s, k - 1] or first + j == ids[s]:
                continue
            at = k - 1
            while at > 0 and squares[s, at - 1] > square:
                squares[s, at], found[s, at] = squares[s, at - 1], found[s, at - 1]
                at -= 1
            squares[s, at], found[s, at] = square, first + j


def nearest_of_all(points: Any, ids: IntArray) -> IntArray:
    """The K nearest cells (n, K) of some cells, increasing, by comparing each with every cell of the section."""
    places = np.stack([points[int(i)] for i in ids])
    squares, found = np.full((len(ids), K), np.inf), np.full((len(ids), K), -1, dtype=np.int64)
    for first in range(0, points.shape[0], ROWS_AT_ONCE):
        _look_at(points[first:first + ROWS_AT_ONCE], first, ids, places, squares, found)
    return np.sort(found, axis=1)


def on_disk(n_cells: int, n_workers: int) -> None:
    """Cells on disk: time, largest memory, and neighbours checked."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_section(folder / "section.zarr", n_cells)
        child = [sys.executable, "-m", "tests.benchmarks.bench_spatial_enrichment", "--work-on", name]
        answer = subprocess.run(
            [*child, "--workers", str(n_workers)], text=True, stdout=subprocess.PIPE, check=True
        )
        found = json.loads(answer.stdout.splitlines()[-1])
        store = zarr.open_group(folder / "section.zarr", mode="r")
        expected = nearest_of_all(store["points_um"], np.array(found["ids"]))
        exact = bool((expected == np.array(found["neighbours"])).all()) and len(found["ids"]) == N_SAMPLED
        compared = _compared(store, found) if n_cells <= SMALL_ENOUGH else "not compared with the whole in memory"
    minutes, peak = found["seconds"] / 60.0, found["peak_mb"]
    share = n_cells / N_ON_DISK
    is_met = minutes < 15.0 * share and peak < 2_000.0 and exact
    print(f"{n_cells:,} cells on disk: {found['seconds']:.1f} s ({found['sorted_in']:.1f} to sort them into "
          f"{found['n_tiles']} tiles), {n_workers} workers, peak memory {peak:.0f} MB; neighbours of {N_SAMPLED} cells "
          f"{'exact' if exact else 'WRONG'}; {compared} (bar for {N_ON_DISK:,}: 15 minutes, 2,000 MB: "
          f"{verdict(is_met)}{'' if share == 1.0 else ', at this share of the time'})")
    record(
        f"spatial/enrichment/disk-{n_cells}", round(found["seconds"], 1), "s", command=f"{COMMAND} --cells {n_cells}",
        bar=f"{N_ON_DISK:,} cells: 15 minutes, under 2 GB",
        is_met=bool(exact and found["seconds"] < 900 and peak < 2_000),
        note=f"{n_workers} workers, peak memory {peak:.0f} MB; "
        f"neighbours of {N_SAMPLED} cells {'exact' if exact else 'wrong'}; {compared}",
    )


def _compared(store: Any, found: dict[str, Any]) -> str:
    """Whether the section on disk got what it gets as a whole in memory."""
    points, types = store["points_um"][:], store["types"][:]
    whole = enriched(join_rows([knn_rows(whole_section(points), K)], len(points)), types, N_TYPES)
    is_same = np.array_equal(whole.counts, found["counts"]) and np.array_equal(whole.z, found["z"])
    return f"counts and z {'equal' if is_same else 'DIFFER FROM'} those of the whole in memory"


def main() -> None:
    """Measure, compare, print and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=N_ON_DISK, help="of the section on disk")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", choices=["time", "spread", "real", "disk"])
    parser.add_argument("--work-on", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.work_on is not None:
        print(json.dumps(work_on_disk(asked.work_on, asked.workers)))
        return
    steps: dict[str, Callable[[], None]] = {
        "time": timed, "spread": spread, "real": real_sections, "disk": partial(on_disk, asked.cells, asked.workers)
    }
    for name, step in steps.items():
        if asked.only in (None, name):
            step()


if __name__ == "__main__":
    main()
