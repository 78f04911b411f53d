"""The working grid of a slide, and its tiles with their halo.

All measures are taken on working pixels of about half a micrometre: sums of whole squares of raw pixels, laid from the
slide's own corner. A tile of any size is cut to whole working pixels, so every tiling sees the very same pixels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from oncotwin.domain.errors import ConfigurationError

ByteImage = NDArray[np.uint8]

WORKING_UM = 0.5
"""Side of a working pixel that is aimed at, in um: a lymphocyte's nucleus is then a dozen pixels wide."""
_COARSEST_UM = 1.0
_LARGEST_FACTOR = 16

_u8 = types.uint64


@dataclass(frozen=True)
class SlideGrid:
    """Geometry of one slide.

    Args:
        shape: rows and columns of raw pixels.
        mpp: side of a raw pixel in um.
        factor: raw pixels along the side of a working pixel. Raw rows and columns beyond the last whole working pixel
            (fewer than ``factor``) are left out.
    """

    shape: tuple[int, int]
    mpp: float
    factor: int

    @property
    def pixel_um(self) -> float:
        """Side of a working pixel in um."""
        return self.mpp * self.factor

    @property
    def working_shape(self) -> tuple[int, int]:
        """Rows and columns of working pixels."""
        return self.shape[0] // self.factor, self.shape[1] // self.factor


@dataclass(frozen=True)
class Window:
    """A tile's own working pixels (its core) and the block that is read for it, as rows and columns on the slide.

    Args:
        core: (first row, last row + 1, first column, last column + 1) in working pixels.
        block: the same with the halo, cut at the slide's edge.
        factor: of the grid.
    """

    core: tuple[int, int, int, int]
    block: tuple[int, int, int, int]
    factor: int

    @property
    def raw(self) -> tuple[slice, slice]:
        """What to read of the raw image."""
        top, bottom, left, right = (edge * self.factor for edge in self.block)
        return slice(top, bottom), slice(left, right)

    @property
    def inner(self) -> tuple[int, int, int, int]:
        """The core, counted from the block's corner."""
        top, bottom, left, right = self.core
        return top - self.block[0], bottom - self.block[0], left - self.block[2], right - self.block[2]


def make_slide_grid(shape: tuple[int, int], mpp: float) -> SlideGrid:
    """Choose the working grid of a slide.

    Args:
        shape: rows and columns of raw pixels.
        mpp: side of a raw pixel in um, from the file or the user: there is no default.
    Raises:
        ConfigurationError: the pixel size is unknown, too coarse for nuclei or too fine, or the slide has no pixels.
    """
    if not (math.isfinite(mpp) and mpp > 0.0):
        raise ConfigurationError(f"pixel size {mpp} um: it must be positive and finite; give --mpp as the scanner says")
    if mpp > _COARSEST_UM:
        raise ConfigurationError(
            f"pixel size {mpp} um: nuclei cannot be told apart above {_COARSEST_UM} um; use a finer level of the slide"
        )
    factor = max(1, round(WORKING_UM / mpp))
    if factor > _LARGEST_FACTOR:
        raise ConfigurationError(
            f"pixel size {mpp} um: below {WORKING_UM / _LARGEST_FACTOR} um it is no light microscope; check the unit"
        )
    if min(shape) < factor:
        raise ConfigurationError(f"slide of {shape[0]} x {shape[1]} pixels holds no working pixel; check the image")
    return SlideGrid((int(shape[0]), int(shape[1])), float(mpp), factor)


def tile_windows(
    grid: SlideGrid, tile: int, halo: int, *, height: int | None = None, shift: int = 0
) -> Iterator[Window]:
    """Cut the slide into tiles, row by row.

    Args:
        tile: side of a tile in raw pixels. A working pixel belongs to the tile that holds its first raw pixel.
        halo: working pixels to read around each core.
        height: raw pixels from top to bottom of a tile, where it is not the same as its side.
        shift: raw pixels by which all cuts lie further, the first row and column of tiles being larger. Cuts in the
            middle of the image's chunks let the halo fall into chunks that are read anyway.
    Raises:
        ConfigurationError: the tile has no pixel, or the halo or the shift is negative.
    """
    tall = tile if height is None else height
    if min(tile, tall) < 1 or min(halo, shift) < 0:
        raise ConfigurationError(
            f"tile of {tall} x {tile} pixels with a halo of {halo}, shifted by {shift}: give a tile of at least 1, "
            "a halo and a shift of at least 0"
        )
    rows, columns = grid.working_shape
    tops, lefts = _cuts(rows, tall, grid.factor, shift), _cuts(columns, tile, grid.factor, shift)
    for top, bottom in itertools.pairwise(tops):
        for left, right in itertools.pairwise(lefts):
            block = (max(0, top - halo), min(rows, bottom + halo), max(0, left - halo), min(columns, right + halo))
            yield Window((top, bottom, left, right), block, grid.factor)


def _cuts(n_working: int, tile: int, factor: int, shift: int) -> list[int]:
    """Edges of the tiles in working pixels; a tile narrower than a working pixel may hold none and is left out."""
    edges = {min(n_working, -(-raw // factor)) for raw in range(shift + tile, n_working * factor + tile, tile)}
    return sorted(edges | {0, n_working})


def bands(window: Window, grid: SlideGrid, halo: int, height: int) -> Iterator[Window]:
    """Cut a tile into bands from top to bottom, so that reading each to its end reads no row twice.

    A band's block ends at a multiple of `height`, so its core ends a halo above; the next band's block begins two halos
    above that, with rows that the one before has read.

    Args:
        window: the tile, with a halo of `halo`.
        height: raw pixels, best a multiple of the image's chunks.
    """
    top, bottom, left, right = window.core
    first, last, *columns = window.block
    step = max(1, height // grid.factor)
    ends = [end for end in range((top + halo) // step * step + step, last, step) if top < end - halo < bottom]
    for begin, end in itertools.pairwise([top, *(end - halo for end in ends), bottom]):
        block = (max(first, begin - halo), min(last, end + halo), columns[0], columns[1])
        yield Window((begin, end, left, right), block, grid.factor)


@njit(_u8(_u8, _u8, _u8), cache=True, nogil=True)
def position_hash(row: int, column: int, seed: int) -> Any:
    """64 bits that look random and depend on the place and the seed alone.

    Source:
        Steele, Lea & Flood 2014, doi:10.1145/2714064.2660195 (the finaliser of SplitMix64, applied to each word).
    """
    mixed: Any = np.uint64(seed)
    for word in (np.uint64(row), np.uint64(column)):
        mixed = (mixed ^ word) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    return mixed


def patch_order(grid: SlideGrid, patch: int, seed: int) -> list[tuple[slice, slice]]:
    """All patches of a slide in an order that is random over the slide and the same for every tiling.

    A caller who needs a sample reads patches from the front until it is large enough, and so not the whole slide.

    Args:
        patch: side in raw pixels, best the chunks of the image.
    """
    rows, columns = -(-grid.shape[0] // patch), -(-grid.shape[1] // patch)
    places = [(int(position_hash(i, j, seed)), i, j) for i in range(rows) for j in range(columns)]
    return [
        (slice(i * patch, min((i + 1) * patch, grid.shape[0])), slice(j * patch, min((j + 1) * patch, grid.shape[1])))
        for _, i, j in sorted(places)
    ]


def check_image(image: ByteImage, name: str) -> None:
    """Refuse what is not an RGB image of bytes.

    Raises:
        ConfigurationError: another shape or type.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ConfigurationError(
            f"{name}: {image.dtype} of shape {image.shape} is not an RGB image; give uint8 of (rows, columns, 3)"
        )
