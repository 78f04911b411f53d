"""The two passes over a slide: a sample of patches for glass and stains, then every tile; each may run elsewhere.

A tile is read from top to bottom in bands, so that what is held does not grow with it and no row is read twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from oncotwin.adapters.arrays.slide_store import StoredSlide
from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial.blocks import Run
from oncotwin.spatial.slide_grid import SlideGrid, Window, bands, patch_order, tile_windows
from oncotwin.spatial.slide_maps import LAPLACIAN_HALO, CellSums, join_cells, sum_cells
from oncotwin.spatial.slide_nuclei import Nuclei, NucleiRule, find_nuclei, halo, merge_nuclei
from oncotwin.spatial.slide_stains import (
    PixelSample,
    StainedBlock,
    StainModel,
    fit_stains,
    merge_samples,
    sample_pixels,
    separate_planes,
    stack_blocks,
)
from oncotwin.spatial.slide_tissue import TissueModel, fit_tissue, level_histogram

IntArray = NDArray[np.int64]

PATCH = 512
"""Pixels along a patch of the sample; fixed, so that the sample does not depend on how a slide is stored."""
PATCHES_AT_ONCE = 64
MOST_PATCHES = 512
ENOUGH_STAINED = 20_000
"""Pixels with stain that are enough for its vectors."""
ONE_PIXEL_IN = 16
_STAINED_LEVEL = 170
"""Of green, from which on down a pixel holds 0.15 OD on glass of 240."""
BAND, WORKING_BAND = 1_024, 512
"""Most raw and most working pixels from top to bottom of a band: multiples of the usual side of a chunk."""
TILES_HIGH = 2
"""Tiles that are read in one go, one above the other."""


@dataclass(frozen=True, slots=True)
class SlidePatch:
    """A patch of the sample."""

    slide: StoredSlide
    rows: slice
    columns: slice


@dataclass(frozen=True, slots=True)
class SlideTile:
    """A tile with its halo."""

    slide: StoredSlide
    window: Window


@dataclass(frozen=True, slots=True)
class SlideModels:
    """All that a tile is measured by.

    Attributes:
        grid: of the slide.
        tissue, stains: of the slide.
        rule: what counts as a nucleus.
        cell: side of a map's cell in working pixels.
    """

    grid: SlideGrid
    tissue: TissueModel
    stains: StainModel
    rule: NucleiRule
    cell: int


@dataclass(frozen=True, slots=True)
class TileFindings:
    """Nuclei (n, 9) whose seeds lie in the tile, in the order of `Nuclei`, and sums of the map's cells."""

    nuclei: NDArray[np.int32]
    cells: CellSums


def fit_models(slide: StoredSlide, grid: SlideGrid, run: Run, seed: int) -> tuple[TissueModel, StainModel, int]:
    """Glass, tissue and stains of a slide from patches all over it.

    Patches are drawn until enough pixels hold stain, or there are 512, or no more.

    Returns:
        the models and the number of patches.
    Raises:
        ConfigurationError: no patch could be read.
    """
    histogram, samples, n_patches, n_stained = np.zeros((4, 256), np.int64), list[PixelSample](), 0, 0
    patches = (SlidePatch(slide, *place) for place in patch_order(grid, PATCH, seed)[:MOST_PATCHES])
    while n_stained < ENOUGH_STAINED and (batch := list(islice(patches, PATCHES_AT_ONCE))):
        for counts, sample in run(partial(sample_patch, seed=seed), batch):
            histogram += counts
            samples.append(sample)
            n_stained += int(np.count_nonzero(sample.levels[:, 1] <= _STAINED_LEVEL))
        n_patches += len(batch)
    if not samples:
        raise ConfigurationError("the slide has no pixels; import it again")
    tissue = fit_tissue(histogram)
    return tissue, fit_stains(merge_samples(samples), tissue), n_patches


def sample_patch(patch: SlidePatch, seed: int) -> tuple[IntArray, PixelSample]:
    """Levels of all pixels of a patch, and some of its pixels."""
    image = np.ascontiguousarray(np.moveaxis(patch.slide.read(patch.rows, patch.columns), 0, 2))
    origin = (patch.rows.start, patch.columns.start)
    return level_histogram(image), sample_pixels(image, origin, ONE_PIXEL_IN, seed)


def cut_tiles(slide: StoredSlide, grid: SlideGrid, rule: NucleiRule, tile: int) -> list[SlideTile]:
    """All tiles, two as one where one lies above the other, cut in the middle of the slide's chunks.

    Args:
        tile: raw pixels along a tile.
    """
    windows = tile_windows(grid, tile, _halo(grid, rule), height=TILES_HIGH * tile, shift=slide.chunk // 2)
    return [SlideTile(slide, window) for window in windows]


def _halo(grid: SlideGrid, rule: NucleiRule) -> int:
    return max(halo(grid, rule), LAPLACIAN_HALO)


def measure_tile(tile: SlideTile, models: SlideModels) -> TileFindings:
    """Stains, nuclei and sums of the map of one tile."""
    nuclei, cells = [], []
    for band, block in _stained_bands(tile, models):
        nuclei.append(find_nuclei(block, band, models.grid, models.rule))
        cells.append(sum_cells(block, band, nuclei[-1], models.cell))
    return TileFindings(_packed(merge_nuclei(nuclei)), join_cells(cells))


def _stained_bands(tile: SlideTile, models: SlideModels) -> Iterator[tuple[Window, StainedBlock]]:
    held: StainedBlock | None = None
    first = last = 0
    height = min(BAND, WORKING_BAND * models.grid.factor)
    for band in bands(tile.window, models.grid, _halo(models.grid, models.rule), height):
        top, bottom, left, right = band.block
        begin = top if held is None else last
        fresh = Window(band.core, (begin, bottom, left, right), band.factor).raw
        block = separate_planes(tile.slide.read(*fresh), models.tissue, models.stains, models.grid.factor)
        held = block if held is None else stack_blocks(held, block, top - first)
        first, last = top, bottom
        yield band, held


def _packed(nuclei: Nuclei) -> NDArray[np.int32]:
    """As one table; every sum over a nucleus' box stays far below 2^31."""
    columns = [getattr(nuclei, name) for name in Nuclei.__dataclass_fields__]
    return np.column_stack(columns).astype(np.int32)


def unpacked(table: NDArray[np.int32]) -> Nuclei:
    """The nuclei of a table."""
    return Nuclei(*(np.ascontiguousarray(column) for column in table.T.astype(np.int64)))


def measure_slide(tiles: Iterable[SlideTile], models: SlideModels, run: Run) -> Iterable[TileFindings]:
    """Findings of all tiles, in their order."""
    return run(partial(measure_tile, models=models), tiles)
