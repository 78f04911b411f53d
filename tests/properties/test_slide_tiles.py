"""No tiling of a slide changes a nucleus, a map, a threshold or a stain vector."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oncotwin.spatial.slide_grid import SlideGrid, make_slide_grid, tile_windows
from oncotwin.spatial.slide_maps import IntArray, add_cells, cell_pixels, empty_map, sum_cells
from oncotwin.spatial.slide_nuclei import Nuclei, NucleiRule, find_nuclei, halo, measure, merge_nuclei
from oncotwin.spatial.slide_phantom import DIFFICULTIES, Phantom, make_phantom
from oncotwin.spatial.slide_stains import PixelSample, StainModel, fit_stains, merge_samples, sample_pixels, separate
from oncotwin.spatial.slide_tissue import TissueModel, fit_tissue, level_histogram

RULE = NucleiRule()
SHAPE = (1203, 1107)


@cache
def slide(mpp: float) -> tuple[Phantom, SlideGrid, TissueModel, StainModel]:
    phantom = make_phantom(SHAPE, mpp, DIFFICULTIES["mixed"], np.random.default_rng(5))
    tissue = fit_tissue(level_histogram(phantom.image))
    stains = fit_stains(sample_pixels(phantom.image, (0, 0), 16, 3), tissue)
    return phantom, make_slide_grid(SHAPE, mpp), tissue, stains


def signatures(mpp: float, tile: int, order: int) -> tuple[Nuclei, IntArray]:
    """All nuclei and the map, with the tiles taken in a random order."""
    phantom, grid, tissue, stains = slide(mpp)
    windows = list(tile_windows(grid, tile, halo(grid, RULE)))
    np.random.default_rng(order).shuffle(windows)
    cell, parts = cell_pixels(grid, 30.0), []
    total = empty_map(grid, cell)
    for window in windows:
        block = separate(phantom.image[window.raw], tissue, stains, grid.factor)
        parts.append(find_nuclei(block, window, grid, RULE))
        add_cells(total, sum_cells(block, window, parts[-1], cell))
    return merge_nuclei(parts), total


@cache
def whole(mpp: float) -> tuple[Nuclei, IntArray]:
    return signatures(mpp, max(SHAPE), 0)


def assert_same(mpp: float, tile: int, order: int) -> None:
    (nuclei, total), (expected, expected_total) = signatures(mpp, tile, order), whole(mpp)
    grid = make_slide_grid(SHAPE, mpp)
    for name in Nuclei.__dataclass_fields__:
        assert np.array_equal(getattr(nuclei, name), getattr(expected, name)), name
    one, other = measure(nuclei, grid), measure(expected, grid)
    assert one.eccentricity.tobytes() == other.eccentricity.tobytes()
    assert one.x_um.tobytes() == other.x_um.tobytes()
    assert np.array_equal(total, expected_total)


@pytest.mark.parametrize("mpp", [0.25, 0.69])
@pytest.mark.parametrize("tile", [256, 512, 1000, 4096])
def test_the_same_to_the_last_nucleus(mpp: float, tile: int) -> None:
    assert len(whole(mpp)[0].row) > 200
    assert_same(mpp, tile, tile)


@settings(max_examples=12, deadline=None)
@given(mpp=st.sampled_from([0.125, 0.17, 0.25, 0.5]), tile=st.integers(150, 1300), order=st.integers(0, 99))
def test_any_tile_even_or_odd(mpp: float, tile: int, order: int) -> None:
    assert_same(mpp, tile, order)


@settings(max_examples=15, deadline=None)
@given(tile=st.integers(90, 700), order=st.integers(0, 99))
def test_thresholds_and_stains(tile: int, order: int) -> None:
    phantom, _, tissue, stains = slide(0.25)
    places = [(i, j) for i in range(0, SHAPE[0], tile) for j in range(0, SHAPE[1], tile)]
    np.random.default_rng(order).shuffle(places)
    histogram, samples = np.zeros((4, 256), np.int64), list[PixelSample]()
    for i, j in places:
        part = phantom.image[i : i + tile, j : j + tile]
        histogram += level_histogram(part)
        samples.append(sample_pixels(part, (int(i), int(j)), 16, 3))
    assert fit_tissue(histogram) == tissue
    assert fit_stains(merge_samples(samples), tissue).vectors.tobytes() == stains.vectors.tobytes()


def test_flat_tissue_with_ties_everywhere() -> None:
    """Plateaus and equal summits: the earlier pixel wins, in every tiling alike."""
    grid = make_slide_grid((400, 400), 0.5)
    image = np.full((400, 400, 3), 225, np.uint8)
    y, x = np.mgrid[0:400, 0:400]
    image[((y % 20) < 10) & ((x % 20) < 10)] = (90, 60, 130)
    tissue, found = TissueModel((240, 240, 240), 0.1, True), []
    stains = slide(0.25)[3]
    for tile in (400, 130, 97):
        windows = tile_windows(grid, tile, halo(grid, RULE))
        parts = [find_nuclei(separate(image[w.raw], tissue, stains, 1), w, grid, RULE) for w in windows]
        found.append(merge_nuclei(parts))
    for other in found[1:]:
        for name in Nuclei.__dataclass_fields__:
            assert np.array_equal(getattr(found[0], name), getattr(other, name)), name
    assert len(found[0].row) >= 361
