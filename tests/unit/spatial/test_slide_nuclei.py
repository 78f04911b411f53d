"""Nuclei: found in generated tissue of every difficulty, measured as closed forms and SciPy say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial.slide_grid import SlideGrid, make_slide_grid, tile_windows
from oncotwin.spatial.slide_nuclei import (
    Morphometrics,
    Nuclei,
    NucleiRule,
    find_nuclei,
    gaussian_taps,
    halo,
    measure,
    merge_nuclei,
)
from oncotwin.spatial.slide_phantom import DIFFICULTIES, make_phantom, score_detections
from oncotwin.spatial.slide_stains import StainedBlock, fit_stains, sample_pixels, separate
from oncotwin.spatial.slide_tissue import OD_STEPS, TISSUE, fit_tissue, level_histogram

RULE = NucleiRule()


def blocks_of(stain: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> tuple[StainedBlock, SlideGrid]:
    """A block whose haematoxylin is given in OD, on a grid of 0.5 um."""
    levels = np.rint(stain * OD_STEPS).astype(np.uint16)
    flags = np.full(stain.shape, TISSUE, np.uint8)
    return StainedBlock(levels, levels, levels, flags), make_slide_grid((stain.shape[0], stain.shape[1]), 0.5)


def found_in(block: StainedBlock, grid: SlideGrid) -> tuple[Nuclei, Morphometrics]:
    (window,) = tile_windows(grid, 10_000, 0)
    nuclei = find_nuclei(block, window, grid, RULE)
    return nuclei, measure(nuclei, grid)


@pytest.mark.parametrize("mpp", [0.25, 0.5, 0.69])
@pytest.mark.parametrize("kind", sorted(DIFFICULTIES))
def test_found_in_generated_tissue(kind: str, mpp: float) -> None:
    n = round(300 / mpp)
    phantom = make_phantom((n, n), mpp, DIFFICULTIES[kind], np.random.default_rng(11))
    grid, tissue = make_slide_grid((n, n), mpp), fit_tissue(level_histogram(phantom.image))
    stains = fit_stains(sample_pixels(phantom.image, (0, 0), 10, 1), tissue)
    _, measured = found_in(separate(phantom.image, tissue, stains, grid.factor), grid)
    score = score_detections((phantom.x_um, phantom.y_um), (measured.x_um, measured.y_um), 3.0)
    assert score.f1 >= 0.85, score
    assert np.median(measured.area_um2) == pytest.approx(np.median(phantom.area_um2), rel=0.3)


def test_no_nuclei_on_glass_nor_in_eosin_alone() -> None:
    empty = replace(DIFFICULTIES["plain"], density_mm2=0.0)
    phantom = make_phantom((800, 800), 0.25, empty, np.random.default_rng(3))
    grid, tissue = make_slide_grid((800, 800), 0.25), fit_tissue(level_histogram(phantom.image))
    stains = fit_stains(sample_pixels(phantom.image, (0, 0), 10, 1), tissue)
    assert len(found_in(separate(phantom.image, tissue, stains, grid.factor), grid)[0].row) == 0


@pytest.mark.parametrize(("long", "short"), [(7.0, 7.0), (9.0, 6.0), (10.0, 5.0)])
def test_ellipse_in_closed_form(long: float, short: float) -> None:
    """Centre, eccentricity and stain of a lone ellipse; its area to a fifth, as the edge is the filter's."""
    y, x = np.mgrid[0:100, 0:100]
    inside = ((x - 48) / long) ** 2 + ((y - 52) / short) ** 2 <= 1.0
    _, measured = found_in(*blocks_of(0.05 + 0.6 * inside))
    assert len(measured.x_um) == 1
    assert (measured.x_um[0], measured.y_um[0]) == pytest.approx((24.25, 26.25), abs=0.05)
    assert measured.area_um2[0] == pytest.approx(np.pi * long * short * 0.25, rel=0.2)
    assert measured.eccentricity[0] == pytest.approx(np.sqrt(1 - (short / long) ** 2), abs=0.12)


def test_measures_of_a_square_of_pixels_by_hand() -> None:
    """Three by one pixels: variances 2/3 + 1/12 and 1/12, so the eccentricity is sqrt(1 - 1/9)."""
    one = np.array([1])
    nuclei = Nuclei(one * 10, one * 20, one * 3, one * 0, one * 0, one * 0, one * 2, one * 0, one * 3 * 512)
    measured = measure(nuclei, make_slide_grid((100, 100), 0.5))
    assert measured.eccentricity[0] == pytest.approx(np.sqrt(8.0 / 9.0), rel=1e-12)
    assert (measured.x_um[0], measured.y_um[0], measured.area_um2[0]) == (10.25, 5.25, 0.75)
    assert measured.intensity[0] == 0.5


@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.7])
def test_taps_are_a_gaussian(sigma: float) -> None:
    """Against SciPy's Gaussian cut at the same width; the taps are rounded to 1/4,096."""
    taps = gaussian_taps(sigma)
    radius = len(taps) - 1
    spike = np.zeros(2 * radius + 1)
    spike[radius] = 1.0
    theirs = gaussian_filter(spike, sigma, radius=radius, mode="constant")
    np.testing.assert_allclose(taps / 4096, theirs[radius:], atol=5e-4)
    assert 2 * taps.sum() - taps[0] == 4096


def test_narrow_halo_and_wrong_block_are_refused() -> None:
    grid = make_slide_grid((1000, 1000), 0.5)
    block, _ = blocks_of(np.zeros((100, 100)))
    narrow = next(tile_windows(grid, 90, 10))
    with pytest.raises(ConfigurationError, match="nuclei need"):
        find_nuclei(block, narrow, grid, RULE)
    with pytest.raises(ConfigurationError, match="for a window of"):
        find_nuclei(block, next(tile_windows(grid, 500, halo(grid, RULE))), grid, RULE)


def test_rules_that_nothing_meets_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="sigma_um"):
        NucleiRule(sigma_um=float("nan"))
    with pytest.raises(ConfigurationError, match="swap"):
        NucleiRule(least_area_um2=300.0)


def test_nothing_merges_to_nothing() -> None:
    assert len(merge_nuclei([]).row) == 0
