"""Cells of a section that is larger than memory, sorted into square tiles in one file, each read with a halo.

A file of plain records holds the cells tile by tile (`CELL`, 21 bytes each), so that any process reads a tile and its
surroundings without the rest. What is computed of a tile does not depend on the tiles: `CellBlock` says where its halo
ends, and neighbours that may lie beyond it are asked for with a wider one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial.blocks import Run
from oncotwin.spatial.enrichment import BlockEdges, Enrichment, edges_of_block, enrichment_of_blocks
from oncotwin.spatial.graphs import CellBlock, GraphRows, knn_rows

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]
Labels = NDArray[np.uint8]

ROWS_AT_ONCE = 1_000_000
CELLS_A_TILE = 1 << 17
CELL = np.dtype([("x", "f8"), ("y", "f8"), ("id", "i4"), ("type", "u1")])
_FIRST_HALO = 5.0
"""Of a tile, in mean distances between cells: room for some eighty neighbours where cells lie evenly."""


class Rows(Protocol):
    """What cells are read from: a Zarr array, or one in memory."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array."""
        ...

    def __getitem__(self, rows: slice, /) -> Any:
        """Some rows."""
        ...


@dataclass(frozen=True, slots=True)
class CellTiles:
    """A section's cells sorted into square tiles in one file, of which any process can read a part.

    Attributes:
        path: of the file.
        lower: corner of the first tile (um).
        size_um: side of each tile.
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

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return int(self.starts[-1])

    def of(self, points: Array) -> IntArray:
        """Column and row (n, 2) of the tile of each place, cells or not."""
        return np.clip(np.floor((points - self.lower) / self.size_um).astype(np.int64), 0, self.n_across - 1)

    def cells(self, tile: int) -> Any:
        """Cells of a tile, records of `CELL`."""
        first, end = self.starts[tile], self.starts[tile + 1]
        return np.fromfile(self.path, dtype=CELL, count=end - first, offset=first * CELL.itemsize)

    def with_halo(self, tile: int, own: Any, halo_um: float) -> tuple[CellBlock, Labels]:
        """A tile's own cells and those around it, and the types of both.

        Args:
            tile: number of it.
            own: its cells, from `cells`.
            halo_um: how far around.
        """
        row, column = divmod(tile, self.n_across)
        corner = np.array(self.lower) + self.size_um * np.array([column, row])
        least, most = corner - halo_um, corner + self.size_um + halo_um
        (left, top), (right, bottom) = self.of(np.stack([least, most]))
        around = [own]
        for at in product(range(top, bottom + 1), range(left, right + 1)):
            if at != (row, column):
                cells = self.cells(at[0] * self.n_across + at[1])
                inside = (cells["x"] > least[0]) & (cells["x"] < most[0])
                around.append(cells[inside & (cells["y"] > least[1]) & (cells["y"] < most[1])])
        held = np.concatenate(around)
        # Nothing lies beyond the border of the section.
        x0, y0 = (float(least[axis]) if (column, row)[axis] > 0 else -math.inf for axis in (0, 1))
        x1, y1 = (float(most[axis]) if (column, row)[axis] < self.n_across - 1 else math.inf for axis in (0, 1))
        places = np.column_stack([held["x"], held["y"]])
        return CellBlock(places, held["id"].astype(np.int64), len(own), (x0, y0, x1, y1)), held["type"].copy()


def sort_into_tiles(points_um: Rows, types: Rows, path: Path, cells_a_tile: int = CELLS_A_TILE) -> CellTiles:
    """Sort cells into tiles on disk, some at a time: their extent, then how many lie in each tile, then they.

    Args:
        points_um: (n_cells, 2).
        types: (n_cells,) number of each cell's type, below 256.
        path: file to write.
        cells_a_tile: about so many; no result depends on it.
    Raises:
        ConfigurationError: no cells, more than a file of tiles can number, a coordinate that is no number, or all
            cells in one place.
    """
    n_cells = points_um.shape[0]
    if not 0 < n_cells <= np.iinfo(np.int32).max:
        raise ConfigurationError(f"{n_cells:,} cells; a file of tiles holds 1 to {np.iinfo(np.int32).max:,}")
    parts = [slice(first, min(first + ROWS_AT_ONCE, n_cells)) for first in range(0, n_cells, ROWS_AT_ONCE)]
    lower, upper = _extent(points_um, parts)
    n_across = math.ceil(math.sqrt(n_cells / cells_a_tile))
    size = float((upper - lower).max()) / n_across
    if not size > 0.0:
        raise ConfigurationError(f"all cells lie at {lower.tolist()}; a section has an extent")
    bare = CellTiles(path, (float(lower[0]), float(lower[1])), size, n_across, np.zeros(n_across**2 + 1, np.int64))
    counts = np.zeros(bare.n_tiles, dtype=np.int64)
    for part in parts:
        counts += np.bincount(bare.of(points_um[part]) @ np.array([1, n_across]), minlength=bare.n_tiles)
    starts = np.concatenate([[0], np.cumsum(counts)])
    free = starts[:-1].copy()
    with path.open("wb") as file:
        for part in parts:
            here = points_um[part]
            tile = bare.of(here) @ np.array([1, n_across])
            order = np.argsort(tile, kind="stable")
            cells = np.empty(len(order), dtype=CELL)
            cells["x"], cells["y"], cells["type"] = here[order, 0], here[order, 1], types[part][order]
            cells["id"] = part.start + order
            bounds = np.searchsorted(tile[order], np.arange(bare.n_tiles + 1))
            for at in np.flatnonzero(np.diff(bounds)):
                file.seek(int(free[at]) * CELL.itemsize)
                file.write(cells[bounds[at] : bounds[at + 1]].tobytes())
            free += np.diff(bounds)
    return replace(bare, starts=starts)


def _extent(points_um: Rows, parts: list[slice]) -> tuple[Array, Array]:
    lower, upper = np.full(2, np.inf), np.full(2, -np.inf)
    for part in parts:
        here = np.asarray(points_um[part])
        bad = ~np.isfinite(here).all(axis=1)
        if bad.any():
            raise ConfigurationError(f"cell {part.start + int(np.argmax(bad))} has no place: a coordinate is no number")
        lower, upper = np.minimum(lower, here.min(axis=0)), np.maximum(upper, here.max(axis=0))
    return lower, upper


@dataclass(frozen=True, slots=True)
class TileEdges:
    """Edges of a tile's cells, and the neighbours of those that were asked for.

    Attributes:
        edges: as `enrichment_of_blocks` takes them.
        ids: (n,) cells of this tile that were asked for.
        neighbours: (n, k) ids, increasing.
    """

    edges: BlockEdges
    ids: IntArray
    neighbours: IntArray


def tile_edges(tile: int, tiles: CellTiles, n_types: int, k: int, asked: IntArray) -> TileEdges:
    """Edges from a tile's cells to their k nearest, its halo widened until every neighbour is certain.

    Args:
        tile: number of it.
        tiles: of the section.
        n_types: number of types.
        k: neighbours of a cell.
        asked: (n_asked,) increasing ids of cells whose neighbours are wanted, of any tile.
    """
    own = tiles.cells(tile)
    halo_um = _FIRST_HALO * tiles.size_um * tiles.n_across / math.sqrt(tiles.n_cells)
    kept: list[GraphRows] = []

    def neighbours(cells: CellBlock) -> GraphRows:
        kept.append(knn_rows(cells, k))
        return kept[-1]

    while True:
        block, types = tiles.with_halo(tile, own, halo_um)
        edges = edges_of_block(block, types, n_types, neighbours)
        if edges is not None:
            break
        halo_um *= 2.0
    rows, ids = kept[-1], np.sort(block.ids)
    wanted = np.flatnonzero(np.isin(own["id"], asked))
    found = [ids[rows.neighbours[rows.offsets[i] : rows.offsets[i + 1]]] for i in wanted]
    return TileEdges(edges, own["id"][wanted].astype(np.int64), np.array(found, dtype=np.int64).reshape(-1, k))


def enrichment_of_tiles(
    tiles: CellTiles, n_types: int, k: int, run: Run, asked: IntArray | None = None
) -> tuple[Enrichment, IntArray, IntArray]:
    """Enrichment of pairs of types among the k nearest cells, of a section that is larger than memory.

    Args:
        tiles: of the section.
        n_types: number of types.
        k: neighbours of a cell.
        run: how a function is applied to all tiles.
        asked: (n,) increasing ids of cells whose neighbours are wanted, to be checked; none by default.
    Returns:
        enrichment; ids (n,) of the cells that were asked for, and their neighbours (n, k).
    """
    wanted = np.empty(0, dtype=np.int64) if asked is None else asked
    told: list[tuple[IntArray, IntArray]] = []

    def edges() -> Iterator[BlockEdges]:
        do = partial(tile_edges, tiles=tiles, n_types=n_types, k=k, asked=wanted)
        for found in run(do, range(tiles.n_tiles)):
            told.append((found.ids, found.neighbours))
            yield found.edges

    enriched = enrichment_of_blocks(edges(), tiles.n_cells, n_types)
    ids, neighbours = (np.concatenate(parts) for parts in zip(*told, strict=True))
    order = np.argsort(ids)
    return enriched, ids[order], neighbours[order]
