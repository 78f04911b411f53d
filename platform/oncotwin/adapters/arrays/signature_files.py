"""What `section_signatures` and `slide_signatures` wrote, read back as much as a page can show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import zarr
from numpy.typing import NDArray

_MOST_THINNED = 4
"""A level that is thinned is read as a whole: of a slide without coarse levels that would be all of it."""


@dataclass(frozen=True, slots=True)
class StoredMap:
    """One map.

    Attributes:
        name: of the column that it shows.
        values: (rows, columns): numbers, NaN where there is no tissue; or classes, -1 where there is none.
        unit: UCUM.
        um_per_pixel: side of a pixel of `values`.
    """

    name: str
    values: NDArray[Any]
    unit: str
    um_per_pixel: float

    @property
    def is_classes(self) -> bool:
        """Whether values are classes and not numbers."""
        return self.values.dtype.kind in "iub"


def read_maps(folder: Path, most_pixels: int) -> dict[str, StoredMap]:
    """All maps of ``maps.zarr`` by name; none where the folder is not there.

    Args:
        folder: of the maps.
        most_pixels: of a side; finer maps are thinned.
    """
    if not folder.is_dir():
        return {}
    root = zarr.open_group(folder, mode="r", use_consolidated=False)
    found = {}
    for name, group in sorted(root.groups(), key=lambda one: one[0]):
        array = group["0"]
        assert isinstance(array, zarr.Array)
        about: Any = group.attrs.asdict()
        scale = about["ome"]["multiscales"][0]["datasets"][0]["coordinateTransformations"][0]["scale"]
        step = max(1, -(-max(array.shape) // most_pixels))
        values = np.asarray(array[::step, ::step])
        found[name] = StoredMap(name, values, str(about["oncotwin"]["unit"]), float(scale[-1]) * step)
    return found


def coarse_picture(slide: Path, um_per_pixel: float, most_pixels: int) -> tuple[NDArray[np.uint8], float] | None:
    """Pixels of a slide's coarse level and their size in micrometres; None where no level is coarse.

    Args:
        slide: OME-Zarr that was checked.
        um_per_pixel: of its finest level.
        most_pixels: of a side.
    Returns:
        (rows, columns, 3), and the side of such a pixel.
    """
    group = zarr.open_group(slide, mode="r", use_consolidated=False)
    about: Any = group.attrs.asdict()
    image = about.get("ome", about)["multiscales"][0]
    axes = [str(axis["name"]) for axis in image["axes"]]
    levels: list[Any] = [group[level["path"]] for level in image["datasets"]]
    y, x = axes.index("y"), axes.index("x")
    array = next((one for one in levels if max(one.shape[y], one.shape[x]) <= most_pixels), levels[-1])
    step = -(-max(array.shape[y], array.shape[x]) // most_pixels)
    if step > _MOST_THINNED:
        return None
    cut = slice(None, None, step)
    block = np.asarray(array[tuple({"y": cut, "x": cut, "c": slice(None)}.get(axis, 0) for axis in axes)])
    left = [axis for axis in axes if axis in "cyx"]
    size = um_per_pixel * levels[0].shape[x] / array.shape[x] * step
    return block.transpose([left.index(axis) for axis in "yxc"]), size


def histograms(table: Path, edges: Mapping[str, NDArray[np.float64]]) -> dict[str, NDArray[np.int64]]:
    """How many rows of a table lie between which edges, by column; what lies beyond counts at the ends.

    The table is read some rows at a time; none at all where it is not there.
    """
    if not table.exists():
        return {}
    counts = {name: np.zeros(len(own) - 1, np.int64) for name, own in edges.items()}
    for batch in pq.ParquetFile(table).iter_batches(columns=list(edges)):
        for name, own in edges.items():
            counts[name] += np.histogram(np.clip(batch.column(name).to_numpy(), own[0], own[-1]), own)[0]
    return counts
