"""Maps of a section: what its cells carry, drawn on a grid of square pixels, as OME-Zarr images with their scale."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from zarr.codecs import BloscCodec, BloscShuffle

FloatArray = NDArray[np.float64]

SCHEMA = "org.oncotwin.maps.v1"
MOST_PIXELS = 2048
"""Of a side; a map is to be looked at, values are in the table of cells."""
_CHUNK = 512
_PER_PITCH = 2.0
_REACH = 0.75
"""Pitches from a pixel to the cell it shows: the middle of four spots lies 0.71 away, the glass beyond is blank."""


@dataclass(frozen=True, slots=True)
class SectionMap:
    """A grid over a section, and the cell that each pixel shows.

    Attributes:
        pixel_um: side of a pixel.
        origin_um: x and y of the centre of the first pixel.
        cells: (rows, columns) int32 place of the nearest cell, -1 where there is none; rows run along y.
    """

    pixel_um: float
    origin_um: tuple[float, float]
    cells: NDArray[np.int32]

    def draw(self, values: NDArray[Any], blank: Any) -> NDArray[Any]:
        """Values (n_cells,) on the grid."""
        return np.where(self.cells >= 0, values[self.cells], blank)


def make_map(points_um: FloatArray, pitch_um: float) -> SectionMap:
    """A grid of half a pitch, or coarser where the section is so large that a side had more than 2,048 pixels.

    Args:
        points_um: (n_cells, 2).
        pitch_um: of the section.
    """
    low, high = points_um.min(axis=0), points_um.max(axis=0)
    pixel = max(pitch_um / _PER_PITCH, float((high - low).max()) / (MOST_PIXELS - 4))
    # A margin of one pitch around the outermost cells.
    start = low - 2 * pixel
    columns, rows = (math.ceil(extent / pixel) + 5 for extent in (high - low))
    x, y = start[0] + np.arange(columns) * pixel, start[1] + np.arange(rows) * pixel
    tree = cKDTree(points_um)
    cells = np.full((rows, columns), -1, dtype=np.int32)
    for i in range(0, rows, _CHUNK):
        part = np.stack(np.meshgrid(x, y[i : i + _CHUNK]), axis=-1)
        away, nearest = tree.query(part, distance_upper_bound=_REACH * max(pitch_um, pixel))
        cells[i : i + _CHUNK] = np.where(np.isfinite(away), nearest, -1)
    return SectionMap(pixel, (float(start[0]), float(start[1])), cells)


def write_maps(
    out: Path, grid: SectionMap, columns: Mapping[str, tuple[NDArray[Any], str]], name: str
) -> None:
    """Write one OME-Zarr 0.5 image for each column, ``out/COLUMN/0``.

    Args:
        out: folder to make.
        grid: of the section.
        columns: name to (n_cells,) values and their unit; floats are blank where NaN, whole numbers where -1.
        name: of the section.
    """
    root = zarr.create_group(out, zarr_format=3)
    for column, (values, unit) in columns.items():
        drawn = _drawn(grid, values)
        image = root.create_group(column, attributes=_image(grid, f"{name} {column}", unit))
        array = image.create_array(
            "0", shape=drawn.shape, chunks=(min(_CHUNK, drawn.shape[0]), min(_CHUNK, drawn.shape[1])),
            dtype=drawn.dtype, compressors=BloscCodec(cname="lz4", shuffle=BloscShuffle.shuffle),
            dimension_names=("y", "x"),
        )  # fmt: skip
        array[...] = drawn
    root.attrs["oncotwin"] = {
        "schema": SCHEMA, "um_per_pixel": grid.pixel_um, "origin_um": list(grid.origin_um),
        "maps": {column: unit for column, (_, unit) in columns.items()},
    }


def _drawn(grid: SectionMap, values: NDArray[Any]) -> NDArray[Any]:
    if values.dtype.kind == "f":
        return grid.draw(values.astype(np.float32), np.float32(math.nan))
    return grid.draw(values.astype(np.int16), np.int16(-1))


def _image(grid: SectionMap, name: str, unit: str) -> dict[str, Any]:
    """Attributes of an image; in OME-Zarr a pixel's place is that of its centre."""
    x, y = grid.origin_um
    place = [
        {"type": "scale", "scale": [grid.pixel_um, grid.pixel_um]}, {"type": "translation", "translation": [y, x]},
    ]
    axes = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in ("y", "x")]
    image = {"name": name, "axes": axes, "datasets": [{"path": "0", "coordinateTransformations": place}]}
    return {"ome": {"version": "0.5", "multiscales": [image]}, "oncotwin": {"unit": unit}}
