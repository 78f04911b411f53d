"""Neighbourhood enrichment beside squidpy's permutations, and of a section on disk that is larger than memory allows.

In memory both programs are given the same graph and types, on generated sections and on real ones (imaging mass
cytometry). On disk the cells lie in a Zarr store in no order: they are sorted into square tiles, and each tile with its
halo becomes a block that a worker takes; the neighbours of some cells are checked against all cells of the section.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
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
from tests.benchmarks.record import record

from oncotwin.adapters.arrays.engine import open_engine
from oncotwin.spatial.enrichment import (
    BlockEdges,
    Enrichment,
    edge_counts,
    edges_of_block,
    enrichment,
    enrichment_of_blocks,
    graph_moments,
    tally_edges,
)
from oncotwin.spatial.graphs import CellBlock, GraphRows, SpatialGraph, join_rows, knn_rows, whole_section

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]
Labels = NDArray[np.uint8]
COMMAND = "python -m tests.benchmarks.bench_spatial_enrichment"
N_PERMUTATIONS, N_TIMED, N_SEEDS = 1_000, 20, 20
N_ON_DISK, N_SAMPLED, ROWS_AT_ONCE = 20_000_000, 100, 1_000_000
CELLS_A_TILE = 1 << 17
CELL = np.dtype([("x", "f8"), ("y", "f8"), ("id", "i4"), ("type", "u1")])
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
        ratio=round(ratio), bar="at least 40 times less", command=COMMAND,
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
        "spatial/enrichment/spread", round(inside, 4), "1", bar="within the spread, all of them", command=COMMAND,
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


@dataclass(frozen=True, slots=True)
class Tiles:
    """A section's cells sorted into square tiles in one file, of which any process can read a part.

    Attributes:
        path: of the file.
        lower, size_um: corner of the first tile, and the side of each.
        n_across: tiles in a row; tile ``row * n_across + column``.
        starts: (n_tiles + 1,) which cells of the file belong to each tile, by increasing id.
    """

    path: Path
    lower: tuple[float, float]
    size_um: float
    n_across: int
    starts: IntArray

    @property
    def n_tiles(self) -> int:
        """Number of tiles."""
        return self.n_across**2

    def of(self, points: Array) -> IntArray:
        """Column and row (n, 2) of the tile of each place, cells or not."""
        return np.clip(np.floor((points - self.lower) / self.size_um).astype(np.int64), 0, self.n_across - 1)

    def cells(self, tile: int) -> Any:
        """Cells of a tile."""
        first, end = self.starts[tile], self.starts[tile + 1]
        return np.fromfile(self.path, dtype=CELL, count=end - first, offset=first * CELL.itemsize)


def tiles_of(points: Any, types: Any, path: Path) -> Tiles:
    """Sort cells in a store into tiles on disk, some at a time: their extent, then how many in each tile, then they."""
    n_cells = points.shape[0]
    parts = [slice(first, min(first + ROWS_AT_ONCE, n_cells)) for first in range(0, n_cells, ROWS_AT_ONCE)]
    lower, upper = np.full(2, np.inf), np.full(2, -np.inf)
    for part in parts:
        here = points[part]
        lower, upper = np.minimum(lower, here.min(axis=0)), np.maximum(upper, here.max(axis=0))
    n_across = math.ceil(math.sqrt(n_cells / CELLS_A_TILE))
    size = float((upper - lower).max()) / n_across
    bare = Tiles(path, (float(lower[0]), float(lower[1])), size, n_across, np.zeros(n_across**2 + 1, dtype=np.int64))
    counts = np.zeros(bare.n_tiles, dtype=np.int64)
    for part in parts:
        counts += np.bincount(bare.of(points[part]) @ np.array([1, n_across]), minlength=bare.n_tiles)
    starts = np.concatenate([[0], np.cumsum(counts)])
    free = starts[:-1].copy()
    with path.open("wb") as file:
        for part in parts:
            here = points[part]
            tile = bare.of(here) @ np.array([1, n_across])
            order = np.argsort(tile, kind="stable")
            cells = np.empty(len(order), dtype=CELL)
            cells["x"], cells["y"], cells["type"] = here[order, 0], here[order, 1], types[part][order]
            cells["id"] = part.start + order
            bounds = np.searchsorted(tile[order], np.arange(bare.n_tiles + 1))
            for at in np.flatnonzero(np.diff(bounds)):
                file.seek(int(free[at]) * CELL.itemsize)
                file.write(cells[bounds[at]:bounds[at + 1]].tobytes())
            free += np.diff(bounds)
    return replace(bare, starts=starts)


@dataclass(frozen=True, slots=True)
class TileAnswer:
    """Edges of a tile's cells, and the neighbours (n, k) of those that are checked, by id."""

    edges: BlockEdges
    ids: IntArray
    neighbours: IntArray


def with_halo(tiles: Tiles, tile: int, own: Any, halo_um: float) -> tuple[CellBlock, Labels]:
    """A tile's own cells and those around it, and the types of both."""
    row, column = divmod(tile, tiles.n_across)
    corner = np.array(tiles.lower) + tiles.size_um * np.array([column, row])
    least, most = corner - halo_um, corner + tiles.size_um + halo_um
    (left, top), (right, bottom) = tiles.of(np.stack([least, most]))
    around = [own]
    for at in product(range(top, bottom + 1), range(left, right + 1)):
        if at != (row, column):
            cells = tiles.cells(at[0] * tiles.n_across + at[1])
            inside = (cells["x"] > least[0]) & (cells["x"] < most[0])
            around.append(cells[inside & (cells["y"] > least[1]) & (cells["y"] < most[1])])
    held = np.concatenate(around)
    # Nothing lies beyond the border of the section.
    x0, y0 = (float(least[axis]) if (column, row)[axis] > 0 else -math.inf for axis in (0, 1))
    x1, y1 = (float(most[axis]) if (column, row)[axis] < tiles.n_across - 1 else math.inf for axis in (0, 1))
    places = np.column_stack([held["x"], held["y"]])
    return CellBlock(places, held["id"].astype(np.int64), len(own), (x0, y0, x1, y1)), held["type"].copy()


def tile_edges(tile: int, tiles: Tiles, n_types: int, k: int, sampled: IntArray) -> TileAnswer:
    """Edges of one tile, its halo widened until every neighbour is certain."""
    own = tiles.cells(tile)
    halo_um = 5.0 * tiles.size_um * tiles.n_across / math.sqrt(int(tiles.starts[-1]))
    edges = None
    while edges is None:
        block, types = with_halo(tiles, tile, own, halo_um)
        kept: list[GraphRows] = []
        edges = edges_of_block(block, types, n_types, partial(_kept_rows, kept, k))
        halo_um *= 2.0
    rows, ids = kept[0], np.sort(block.ids)
    asked = np.flatnonzero(np.isin(own["id"], sampled))
    found = [ids[rows.neighbours[rows.offsets[i]:rows.offsets[i + 1]]] for i in asked]
    return TileAnswer(edges, own["id"][asked].astype(np.int64), np.array(found, dtype=np.int64).reshape(-1, k))


def _kept_rows(kept: list[GraphRows], k: int, cells: CellBlock) -> GraphRows:
    """Rows of a block, kept so that those of some cells can be checked."""
    kept.append(knn_rows(cells, k))
    return kept[0]


def work_on_disk(folder: Path, n_workers: int) -> dict[str, Any]:
    """The whole way from the store to z; runs in a process of its own, which tells its largest memory."""
    began = time.perf_counter()
    store = zarr.open_group(folder / "section.zarr", mode="r")
    points, types = store["points_um"], store["types"]
    assert isinstance(points, zarr.Array) and isinstance(types, zarr.Array)
    n_cells = points.shape[0]
    tiles = tiles_of(points, types, folder / "tiles")
    sorted_in = time.perf_counter() - began
    sampled = np.sort(np.random.default_rng(4).choice(n_cells, N_SAMPLED, replace=False))
    checked: list[tuple[IntArray, IntArray]] = []

    def counted(answer: TileAnswer) -> BlockEdges:
        checked.append((answer.ids, answer.neighbours))
        return answer.edges

    with open_engine(n_workers, progress=True) as engine:
        do = partial(tile_edges, tiles=tiles, n_types=N_TYPES, k=K, sampled=sampled)
        blocks = map(counted, engine.run("neighbours of each tile")(do, range(tiles.n_tiles)))
        found = enrichment_of_blocks(blocks, n_cells, N_TYPES)
    seconds = time.perf_counter() - began
    ids, neighbours = (np.concatenate(parts) for parts in zip(*checked, strict=True))
    return {
        "seconds": seconds, "sorted_in": sorted_in, "n_tiles": tiles.n_tiles,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0,
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
        bar=f"{N_ON_DISK:,} cells: 15 minutes, under 2 GB", note=f"{n_workers} workers, peak memory {peak:.0f} MB; "
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
