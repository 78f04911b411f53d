"""Haematoxylin and eosin apart: stain vectors of a slide, and the separation of a block in one pass of integers.

Source:
    Ruifrok & Johnston 2001, Anal Quant Cytol Histol 23:291-299, PMID 11531144 (separation by optical density, fixed
    vectors); Macenko et al. 2009, doi:10.1109/ISBI.2009.5193250 (vectors of a slide from its own pixels).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial.slide_grid import ByteImage, check_image, position_hash
from oncotwin.spatial.slide_tissue import OD_STEPS, PEN, OpticalTable, TissueModel, flags_of, optical_table

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
LevelArray = NDArray[np.uint16]
FlagArray = NDArray[np.uint8]

FIXED_VECTORS = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11))
"""Haematoxylin and eosin of Ruifrok & Johnston 2001, in optical density (R, G, B)."""
LARGEST_STAIN = 4095
"""Largest amount of a stain that is kept, in steps of OD."""

_LEAST_OD = 0.15
_ANGLE_PERCENT = 1.0
_LEAST_PIXELS = 1000
_LEAST_ANGLE = 10.0
_LARGEST_TURN = 40.0
_WEIGHT_STEPS = 4096

_i4, _i8 = types.int32, types.int64
_image, _h2, _b2 = types.uint8[:, :, ::1], types.uint16[:, ::1], types.uint8[:, ::1]


@dataclass(frozen=True)
class PixelSample:
    """Raw pixels drawn by their place.

    Args:
        places: (n,) row x 2^32 + column, increasing.
        levels: (n, 3) RGB.
    """

    places: IntArray
    levels: ByteImage


@dataclass(frozen=True)
class StainModel:
    """Two stain vectors of unit length, (2, 3): haematoxylin, eosin.

    Args:
        vectors: rows in optical density (R, G, B).
        source: ``macenko`` or ``fixed``.
        reason: why the fixed vectors were taken; "" otherwise.
    """

    vectors: FloatArray
    source: str
    reason: str


@dataclass(frozen=True)
class StainedBlock:
    """A block on the working grid.

    Args:
        haematoxylin, eosin: (rows, columns) amounts in steps of 1/1024 OD.
        grey: (rows, columns) mean of the three channels of the raw pixels, times four.
        flags: (rows, columns) of TISSUE and PEN bits.
    """

    haematoxylin: LevelArray
    eosin: LevelArray
    grey: LevelArray
    flags: FlagArray


def sample_pixels(image: ByteImage, origin: tuple[int, int], one_in: int, seed: int) -> PixelSample:
    """Draw about one raw pixel in ``one_in``, by a hash of its place on the slide.

    Args:
        image: RGB block without halo.
        origin: row and column of its first pixel on the slide.
    """
    check_image(image, "sample_pixels")
    if one_in < 1:
        raise ConfigurationError(f"one pixel in {one_in}: give at least 1")
    rows, columns = _draw(image.shape[0], image.shape[1], origin[0], origin[1], one_in, seed)
    return PixelSample(((rows + origin[0]) << 32) | (columns + origin[1]), image[rows, columns])


@njit(cache=True, nogil=True)
def _draw(
    n_rows: int, n_columns: int, first_row: int, first_column: int, one_in: int, seed: int
) -> tuple[IntArray, IntArray]:
    limit = np.uint64(0xFFFFFFFFFFFFFFFF) // np.uint64(one_in)
    rows, columns = [0][:0], [0][:0]
    for i in range(n_rows):
        for j in range(n_columns):
            if position_hash(np.uint64(first_row + i), np.uint64(first_column + j), np.uint64(seed)) <= limit:
                rows.append(i)
                columns.append(j)
    return np.array(rows, np.int64), np.array(columns, np.int64)


def merge_samples(samples: Iterable[PixelSample]) -> PixelSample:
    """Join samples of disjoint blocks, in the order of their places, whatever the order they come in."""
    parts = list(samples)
    places = np.concatenate([part.places for part in parts])
    order = np.argsort(places, kind="stable")
    return PixelSample(places[order], np.concatenate([part.levels for part in parts])[order])


def fit_stains(sample: PixelSample, tissue: TissueModel) -> StainModel:
    """Stain vectors of a slide by Macenko's method, or the fixed ones where they cannot be had.

    Pixels of at least 0.15 OD in green are projected on the plane of their two main directions; the 1st and 99th
    percentile of their angle there are the stains. (Macenko et al. ask for 0.15 OD in every channel, which drops pure
    eosin, as it hardly absorbs red.) The fixed vectors serve where fewer than 1,000 pixels count, where the two stains
    are less than 10 degrees apart, or where one is more than 40 degrees from its fixed vector: then there is one stain
    only, or no H&E.

    Source:
        Macenko et al. 2009, section 2.
    """
    fixed = np.array(FIXED_VECTORS)
    fixed = fixed / np.linalg.norm(fixed, axis=1, keepdims=True)
    table = optical_table(tissue.white, 1)
    od = np.stack([table[c][sample.levels[:, c]] for c in range(3)], axis=1)
    ink = _inks(np.ascontiguousarray(od, dtype=np.int32))
    od_kept = od[(od[:, 1] >= _LEAST_OD * OD_STEPS) & ~ink]
    if len(od_kept) < _LEAST_PIXELS:
        return StainModel(fixed, "fixed", f"only {len(od_kept)} of {len(od)} sampled pixels hold stain")
    # Integers sum exactly, so the directions depend on the sample alone.
    whole = od_kept.astype(np.int64)
    products = (whole.T @ whole).astype(np.float64) / len(whole)
    mean = whole.sum(axis=0) / len(whole)
    plane = np.linalg.eigh(products - np.outer(mean, mean))[1][:, [2, 1]]
    plane = plane * np.where(plane.sum(axis=0) < 0.0, -1.0, 1.0)
    projected = od_kept @ plane
    angles = np.arctan2(projected[:, 1], projected[:, 0])
    ends = np.percentile(angles, [_ANGLE_PERCENT, 100.0 - _ANGLE_PERCENT])
    vectors = np.stack([np.cos(ends), np.sin(ends)], axis=1) @ plane.T
    vectors = np.maximum(vectors, 0.0)
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    # Haematoxylin is the one that absorbs more red for its green.
    vectors = vectors[np.argsort(-vectors[:, 0], kind="stable")]
    apart = _degrees(vectors[0], vectors[1])
    turns = [_degrees(vectors[k], fixed[k]) for k in range(2)]
    if apart < _LEAST_ANGLE:
        return StainModel(fixed, "fixed", f"the two stains found are {apart:.0f} degrees apart")
    if max(turns) > _LARGEST_TURN:
        return StainModel(fixed, "fixed", f"a stain found is {max(turns):.0f} degrees from haematoxylin or eosin")
    return StainModel(vectors, "macenko", "")


def _degrees(one: FloatArray, other: FloatArray) -> float:
    return float(np.degrees(np.arccos(np.clip(one @ other, -1.0, 1.0))))


@njit(types.boolean[::1](types.int32[:, ::1]), cache=True, nogil=True)
def _inks(od: NDArray[np.int32]) -> NDArray[np.bool_]:
    found = np.empty(len(od), np.bool_)
    for k in range(len(od)):
        found[k] = flags_of(od[k, 0], od[k, 1], od[k, 2], np.int32(0)) == PEN
    return found


def separate(image: ByteImage, tissue: TissueModel, stains: StainModel, factor: int) -> StainedBlock:
    """As `separate_planes`, of an image (rows, columns, 3)."""
    check_image(image, "separate")
    return separate_planes(np.ascontiguousarray(np.moveaxis(image, 2, 0)), tissue, stains, factor)


def separate_planes(planes: ByteImage, tissue: TissueModel, stains: StainModel, factor: int) -> StainedBlock:
    """Bring a block to working pixels, separate its stains and flag its pixels, in one pass of integers.

    Args:
        planes: (3, rows, columns) bytes of red, green and blue, whose first pixel begins a working pixel; rows and
            columns beyond whole ones are left out.
        factor: raw pixels along the side of a working pixel.
    Raises:
        ConfigurationError: another shape or type.
    """
    if planes.ndim != 3 or planes.shape[0] != 3 or planes.dtype != np.uint8:
        raise ConfigurationError(
            f"separate_planes: {planes.dtype} of shape {planes.shape} is no image; give uint8 of (3, rows, columns)"
        )
    inverse = np.linalg.pinv(stains.vectors.T)
    weights = np.rint(inverse * _WEIGHT_STEPS).astype(np.int32)
    table = optical_table(tissue.white, factor)
    greys = (4 * np.arange(3 * 255 * factor**2 + 1) // (3 * factor**2)).astype(np.uint16)
    threshold = round(tissue.threshold_od * OD_STEPS)
    shape = planes.shape[1] // factor, planes.shape[2] // factor
    out = StainedBlock(
        np.empty(shape, np.uint16), np.empty(shape, np.uint16), np.empty(shape, np.uint16), np.empty(shape, np.uint8)
    )
    parts = (out.haematoxylin, out.eosin, out.grey, out.flags)
    _separate(np.ascontiguousarray(planes), factor, table, weights, threshold, greys, *parts)
    return out


def stack_blocks(upper: StainedBlock, lower: StainedBlock, n_dropped: int) -> StainedBlock:
    """Two blocks of the same columns as one, without some of the first rows."""
    return StainedBlock(
        *(
            np.concatenate([getattr(upper, name)[n_dropped:], getattr(lower, name)])
            for name in ("haematoxylin", "eosin", "grey", "flags")
        )
    )


@njit(types.void(types.uint8[:, ::1], _i8, types.uint16[::1], types.uint32[::1]), cache=True, nogil=True)
def _add_up(rows: ByteImage, factor: int, down: LevelArray, levels: NDArray[np.uint32]) -> None:
    """Sums of squares of one channel, from their rows; 16 x 16 bytes add up to less than 2^16."""
    columns = len(levels)
    first = rows[0]
    for k in range(factor * columns):
        down[k] = first[k]
    for d in range(1, factor):
        line = rows[d]
        for k in range(factor * columns):
            down[k] += line[k]
    if factor == 2:
        for j in range(columns):
            levels[j] = down[2 * j] + down[2 * j + 1]
    else:
        for j in range(columns):
            levels[j] = 0
            for k in range(factor * j, factor * (j + 1)):
                levels[j] += down[k]


@njit(
    types.void(_image, _i8, types.int32[:, ::1], types.int32[:, ::1], _i4, types.uint16[::1], _h2, _h2, _h2, _b2),
    cache=True,
    nogil=True,
)
def _separate(
    planes: ByteImage,
    factor: int,
    table: OpticalTable,
    weights: NDArray[np.int32],
    threshold: int,
    greys: LevelArray,
    haematoxylin: LevelArray,
    eosin: LevelArray,
    grey: LevelArray,
    flags: FlagArray,
) -> None:
    rows, columns = haematoxylin.shape
    down = np.empty(factor * columns, np.uint16)
    levels, densities = np.empty((3, columns), np.uint32), np.empty((3, columns), np.int32)
    third_of = np.int32(4 * 43_691 if factor == 1 else 43_691)
    h_r, h_g, h_b = weights[0, 0], weights[0, 1], weights[0, 2]
    e_r, e_g, e_b = weights[1, 0], weights[1, 1], weights[1, 2]
    for i in range(rows):
        # One loop for each thing: so the compiler does eight pixels at a time.
        for c in range(3):
            own, density, steps = levels[c], densities[c], table[c]
            if factor == 1:
                pixels = planes[c, i]
                for j in range(columns):
                    own[j] = pixels[j]
            else:
                _add_up(planes[c, i * factor : (i + 1) * factor], factor, down, own)
            for j in range(columns):
                density[j] = steps[own[j]]
        red, green, blue = densities[0], densities[1], densities[2]
        h_row, e_row, g_row, f_row = haematoxylin[i], eosin[i], grey[i], flags[i]
        for j in range(columns):
            h = np.int32(h_r * red[j] + h_g * green[j] + h_b * blue[j]) >> 12
            e = np.int32(e_r * red[j] + e_g * green[j] + e_b * blue[j]) >> 12
            h_row[j] = min(max(np.int32(h), 0), LARGEST_STAIN)
            e_row[j] = min(max(np.int32(e), 0), LARGEST_STAIN)
        first, second, third = levels[0], levels[1], levels[2]
        if factor <= 2:
            # The same as `greys`: a third of four times or once the sum, by a product.
            for j in range(columns):
                whole = np.int32(np.int32(first[j]) + np.int32(second[j]) + np.int32(third[j]))
                g_row[j] = np.int32(whole * third_of) >> 17
        else:
            for j in range(columns):
                g_row[j] = greys[first[j] + second[j] + third[j]]
        for j in range(columns):
            f_row[j] = flags_of(red[j], green[j], blue[j], threshold)
