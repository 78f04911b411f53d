"""A slide as OME-Zarr, read: which array, how its axes lie, how large a pixel is, and blocks of its finest level.

Ours are channel, row, column; others put channels last, or carry time and depth of length one. The pixel size must be
said in a unit of length: it is never assumed.

Source: OME-NGFF specification 0.5 and 0.4, section "multiscales" metadata.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from oncotwin.adapters.arrays.shard_reader import ShardReader, shard_reader
from oncotwin.adapters.arrays.zarr_check import CheckedZarr, check_zarr
from oncotwin.domain.claim import ArrayError

_UM = {
    "nanometer": 1e-3, "nanometre": 1e-3, "nm": 1e-3, "micrometer": 1.0, "micrometre": 1.0, "um": 1.0, "µm": 1.0,
    "millimeter": 1e3, "millimetre": 1e3, "mm": 1e3, "meter": 1e6, "metre": 1e6, "m": 1e6,
}  # fmt: skip
_LARGEST_DIFFERENCE = 0.01
"""Of a pixel's two sides, relative: nuclei are measured on square pixels."""


@dataclass(frozen=True, slots=True)
class StoredSlide:
    """The finest level of a slide, named so that any process can read it.

    Attributes:
        folder: of the OME-Zarr.
        path: of the level's array below it.
        stamp: when the folder was written: one of the same name written since is another one.
        axes: names of the array's dimensions.
        shape: rows and columns.
        um_per_pixel: side of a pixel.
        origin_um: y and x of the centre of the first pixel.
        chunk: side of a chunk, at which cuts are cheap to read.
        n_stored: bytes of all files.
    """

    folder: str
    path: str
    stamp: int
    axes: tuple[str, ...]
    shape: tuple[int, int]
    um_per_pixel: float
    origin_um: tuple[float, float]
    chunk: int
    n_stored: int

    @property
    def fingerprint(self) -> str:
        """Changes when the slide is written anew."""
        return f"{self.folder} {self.stamp} {self.n_stored}"

    def read(self, rows: slice, columns: slice) -> NDArray[np.uint8]:
        """Red, green and blue of some rows and columns: (3, rows, columns), contiguous."""
        wanted = {"y": rows, "x": columns, "c": slice(0, 3)}
        array, reader = _opened(self.folder, self.path, self.stamp)
        if reader is not None:
            block = reader.read(tuple(wanted.get(axis, slice(0, 1)) for axis in self.axes))
            block = block.reshape([n for n, axis in zip(block.shape, self.axes, strict=True) if axis in wanted])
        else:
            block = np.asarray(array[tuple(wanted.get(axis, 0) for axis in self.axes)])
        left = [axis for axis in self.axes if axis in wanted]
        return np.ascontiguousarray(block.transpose([left.index(axis) for axis in ("c", "y", "x")]))


@lru_cache(maxsize=4)
def _opened(folder: str, path: str, stamp: int) -> tuple[Any, ShardReader | None]:
    """Opened once in each process; consolidated headers were not checked and are not used."""
    array: Any = zarr.open_group(folder, mode="r", use_consolidated=False)[path]
    return array, shard_reader(array, Path(folder, path))


def open_slide(folder: Path) -> StoredSlide:
    """Check a slide and find its finest level.

    Args:
        folder: OME-Zarr 0.5 or 0.4, of anybody.
    Raises:
        ArrayError: it is hostile or damaged (see `check_zarr`), no image of three channels of bytes, or does not say
            how large its pixels are.
    """
    checked = check_zarr(folder)
    image = _image(checked, folder.name)
    axes = [_mapping(axis) for axis in _list(image.get("axes"))]
    names = tuple(str(axis.get("name")) for axis in axes)
    level = _mapping(next(iter(_list(image.get("datasets"))), None))
    path = str(level.get("path"))
    header = checked.arrays.get(path)
    if header is None:
        raise ArrayError("bad_slide", f"its finest level, {path!r}, is no array", folder.name, "send the whole folder")
    sizes = dict(zip(names, header.shape, strict=False))
    others = [axis for axis in names if axis not in "cyx" and sizes.get(axis) != 1]
    if len(names) != len(header.shape) or len(sizes) != len(names) or not {"c", "y", "x"} <= set(names) or others:
        raise ArrayError(
            "bad_slide", f"axes {list(names)} of shape {list(header.shape)} are no plane in colour", folder.name,
            "send one plane: c, y and x, any other axis of length 1",
        )
    array, _ = _opened(place := str(folder.resolve()), path, stamp := _stamp(folder))
    if sizes["c"] != 3 or array.dtype != np.uint8:
        raise ArrayError(
            "bad_slide", f"{sizes['c']} channels of {array.dtype} are no stained slide", folder.name,
            "send red, green and blue as bytes",
        )
    scale, shift = _place(image, level, names)
    units = {str(axis.get("name")): axis.get("unit") for axis in axes}
    y, x = (_um(scale, units, axis, folder.name) for axis in "yx")
    if abs(y - x) > _LARGEST_DIFFERENCE * max(y, x):
        raise ArrayError(
            "bad_pixel_size", f"a pixel of {y:g} um by {x:g} um is no square", folder.name, "send square pixels"
        )
    start = tuple(shift[axis] * _UM[str(units[axis])] for axis in "yx")
    chunks = dict(zip(names, header.chunk, strict=True))
    return StoredSlide(
        place, path, stamp, names, (sizes["y"], sizes["x"]), x, (start[0], start[1]),
        max(chunks["y"], chunks["x"]), checked.n_stored,
    )


def _image(checked: CheckedZarr, name: str) -> Mapping[str, Any]:
    """The one multiscale image of the folder."""
    attributes = checked.attributes.get("", {})
    about = _mapping(attributes.get("ome", attributes))
    images = _list(about.get("multiscales"))
    if len(images) != 1:
        raise ArrayError(
            "bad_slide", f"describes {len(images)} images where there must be one", name, "send an OME-Zarr image"
        )
    return _mapping(images[0])


def _place(
    image: Mapping[str, Any], level: Mapping[str, Any], axes: tuple[str, ...]
) -> tuple[dict[str, float], dict[str, float]]:
    """Scale and translation of each axis: the level's own, then the image's."""
    scale, shift = dict.fromkeys(axes, 0.0), dict.fromkeys(axes, 0.0)
    for holder in (level, image):
        for one in _list(holder.get("coordinateTransformations")):
            step = _mapping(one)
            for axis, value in zip(axes, _numbers(step.get(str(step.get("type")))), strict=False):
                if step.get("type") == "scale":
                    # Without a scale of the level there is none at all.
                    scale[axis] = value if holder is level and not scale[axis] else scale[axis] * value
                    shift[axis] *= value
                elif step.get("type") == "translation":
                    shift[axis] += value
    return scale, shift


def _um(scale: Mapping[str, float], units: Mapping[str, Any], axis: str, name: str) -> float:
    unit = units.get(axis)
    if unit not in _UM or not scale[axis] > 0.0:
        raise ArrayError(
            "no_pixel_size", f"axis {axis} says no length of a pixel (scale {scale[axis]:g}, unit {unit})", name,
            "import the image anew and give the pixel size (--mpp)",
        )
    return scale[axis] * _UM[unit]


def _stamp(folder: Path) -> int:
    headers = (folder / name for name in ("zarr.json", ".zattrs"))
    return max(header.stat().st_mtime_ns for header in headers if header.exists())


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _numbers(value: Any) -> list[float]:
    return [float(one) for one in _list(value) if isinstance(one, int | float)]
