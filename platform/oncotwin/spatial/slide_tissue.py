"""Where a slide holds tissue, and which of it cannot be used: pen marks and blur.

The white of the glass and the threshold of tissue come from one histogram of levels. It is a sum of integers over
blocks or over a sample of them, so that no cut into blocks changes it.

Source:
    Otsu 1979, doi:10.1109/TSMC.1979.4310076 (threshold of largest variance between classes); Pech-Pacheco et al.
    2000, doi:10.1109/ICPR.2000.903548 (variance of the Laplacian as a measure of focus).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial.slide_grid import ByteImage, check_image

IntArray = NDArray[np.int64]
OpticalTable = NDArray[np.int32]

OD_STEPS = 1024
"""Steps of one unit of optical density (log10) in the integers that all kernels work with."""
TISSUE, PEN = 1, 2
"""Bits of a working pixel's flags."""

_DARKEST_GLASS = 200
_DEFAULT_GLASS = 240
_LEAST_GLASS_SHARE = 0.01
_LEAST_OD, _LARGEST_OD = 0.06, 0.15

_i4, _u1, _l2 = types.int32, types.uint8, types.int64[:, ::1]


@dataclass(frozen=True)
class TissueModel:
    """What separates tissue from glass on one slide.

    Args:
        white: level (R, G, B) of the empty glass.
        threshold_od: optical density in green from which a pixel counts as tissue. Haematoxylin and eosin both absorb
            green most.
        glass_found: False where too little glass was seen and its level was taken to be 240, as Macenko et al. do.
    """

    white: tuple[int, int, int]
    threshold_od: float
    glass_found: bool


def level_histogram(image: ByteImage) -> IntArray:
    """Count levels; histograms of disjoint blocks add up to the histogram of all.

    Args:
        image: RGB bytes (rows, columns, 3).
    Returns:
        (4, 256) counts: green of all pixels, then red, green and blue of those at or above 200 in all channels, which
        may be glass.
    """
    check_image(image, "level_histogram")
    counts: IntArray = _count_levels(np.ascontiguousarray(image))
    return counts


@njit(_l2(types.uint8[:, :, ::1]), cache=True, nogil=True)
def _count_levels(image: ByteImage) -> IntArray:
    counts = np.zeros((4, 256), np.int64)
    for i in range(image.shape[0]):
        for j in range(image.shape[1]):
            red, green, blue = image[i, j, 0], image[i, j, 1], image[i, j, 2]
            counts[0, green] += 1
            if min(red, min(green, blue)) >= _DARKEST_GLASS:
                counts[1, red] += 1
                counts[2, green] += 1
                counts[3, blue] += 1
    return counts


def fit_tissue(histogram: IntArray) -> TissueModel:
    """Find the glass and the threshold of tissue.

    The glass is the commonest level of each channel among the bright pixels. The threshold is Otsu's on green, kept
    between 0.06 and 0.15 OD: a slide that is all tissue has no two classes, and Otsu's cut then falls inside it.

    Args:
        histogram: (4, 256) by `level_histogram`, summed over blocks.
    Raises:
        ConfigurationError: another shape, or no pixels.
    """
    if histogram.shape != (4, 256) or histogram[0].sum() == 0:
        raise ConfigurationError("histogram of levels is empty or not (4, 256); sum level_histogram over the blocks")
    white, found = (_DEFAULT_GLASS,) * 3, bool(histogram[1].sum() >= _LEAST_GLASS_SHARE * histogram[0].sum())
    if found:
        bright = histogram[1:, _DARKEST_GLASS:]
        red, green, blue = (_DARKEST_GLASS + int(np.argmax(np.convolve(c, [1, 2, 3, 2, 1], "same"))) for c in bright)
        white = (red, green, blue)
    cut = -np.log10(max(otsu_level(histogram[0]), 1) / white[1])
    return TissueModel(white, float(np.clip(cut, _LEAST_OD, _LARGEST_OD)), found)


def otsu_level(counts: IntArray) -> int:
    """Last level of the darker of two classes with the largest variance between them (Otsu 1979, equation 18).

    Args:
        counts: (n_levels,) of a histogram.
    """
    total, levels = counts.astype(np.float64), np.arange(len(counts), dtype=np.float64)
    weight = np.cumsum(total)
    moment = np.cumsum(total * levels)
    rest = weight[-1] - weight
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (moment[-1] * weight - moment * weight[-1]) ** 2 / (weight * rest)
    return int(np.argmax(np.nan_to_num(between, nan=0.0, posinf=0.0)))


def optical_table(white: tuple[int, int, int], factor: int) -> OpticalTable:
    """Optical density of each sum of levels over a working pixel, in steps.

    Args:
        white: levels of the glass.
        factor: raw pixels along the side of a working pixel.
    Returns:
        (3, 255 factor^2 + 1) of -log10(level / white), zero where brighter than the glass; level 0 counts as 1.
    """
    levels = np.maximum(np.arange(255 * factor**2 + 1) / factor**2, 1.0)
    od = -np.log10(levels[None, :] / np.array(white, dtype=np.float64)[:, None])
    return np.asarray(np.rint(np.maximum(od, 0.0) * OD_STEPS), dtype=np.int32)


@njit(_u1(_i4, _i4, _i4, _i4), cache=True, nogil=True, inline="always")
def flags_of(red: int, green: int, blue: int, threshold: int) -> int:
    """Flags of a pixel from its optical densities in steps.

    Pens are inks that no mixture of haematoxylin and eosin looks like, at 0.3 OD or more: both stains absorb green
    more than blue, and red at most a third more than green. Green ink absorbs green least; blue ink absorbs red far
    more than green; black ink absorbs all alike; red ink absorbs blue as much as green and hardly any red.
    """
    strongest = max(red, max(green, blue))
    # Without a jump, so that the compiler does many pixels at a time.
    is_ink = (strongest > 307) & (
        ((2 * green < red + blue) & (green * 5 < red * 4))
        | (5 * red > 8 * green)
        | ((green > 922) & (10 * blue > 9 * green) & (10 * red > 9 * green))
        | ((green > 614) & (10 * blue > 10 * green) & (5 * red < green))
    )
    return PEN * is_ink + TISSUE * ((green >= threshold) & (not is_ink))
