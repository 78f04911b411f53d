"""Slides imported into an OME-Zarr 0.5 pyramid, shard by shard.

Axes are channel, row, column: the specification wants channels before space. Each level halves the one before by the
mean of 2 x 2 pixels, rounded half up; places never depend on how the work was cut, since shards are even.

Source: Moore et al. 2023, OME-Zarr, doi:10.1007/s00418-023-02209-1; OME-NGFF specification 0.5, section 3.4.
"""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, BloscShuffle

from oncotwin.adapters.arrays.bounded import ProcessLimits, run_bounded
from oncotwin.domain.claim import ArrayError

CHUNK_PIXELS = 512
SHARD_PIXELS = 4_096
MAX_PIXELS = 20_000_000_000

_COLOURS = (("red", "FF0000"), ("green", "00FF00"), ("blue", "0000FF"))
_GLASS = 255
_IMAGE = "oncotwin.adapters.arrays.image_decoding:decode_image"
_DICOM = "oncotwin.adapters.arrays.slide_dicom:decode_dicom"

ReadRows = Callable[[slice, slice], NDArray[np.uint8]]
"""Pixels of some rows and columns: (rows, columns, 3)."""

Progress = Callable[[int, int], None]
"""Called with shards written and shards in all."""


@dataclass(frozen=True, slots=True)
class ImportedSlide:
    """What was written."""

    shapes: tuple[tuple[int, int], ...]
    """Rows and columns of each level, finest first."""
    um_per_pixel: tuple[float, float]
    """Of the finest level: row pitch and column pitch."""
    um_per_pixel_of_file: tuple[float, float] | None
    """What the file itself says, where it does; the caller's word goes before it."""


def import_slide(
    image: Path,
    out: Path,
    um_per_pixel: float | None = None,
    *,
    limits: ProcessLimits | None = None,
    max_pixels: int = MAX_PIXELS,
    origin_um: tuple[float, float] = (0.0, 0.0),
    progress: Progress | None = None,
) -> ImportedSlide:
    """Turn an image (JPEG, PNG, TIFF, SVS, DICOM) into a pyramid.

    Args:
        image: a foreign file, or a folder with the instances of one DICOM slide; it is decoded in a process of its own,
            into a temporary file beside `out`.
        out: the folder to make; it appears when it is whole.
        um_per_pixel: edge of a pixel in micrometres; without it the file must say it.
        limits: of the decoding.
        max_pixels: largest image that is taken.
        origin_um: y and x of the centre of the first pixel.
        progress: told of each shard.
    Returns:
        Shapes and pixel size. Memory here: two shards (100 MB), whatever the image's size.
    Raises:
        ArrayError: it cannot be decoded within the limits, or its pixel size is neither given nor in the file.
        FileExistsError: `out` is there already.
    """
    if um_per_pixel is not None and not 0 < um_per_pixel < 1_000:
        raise ArrayError("bad_pixel_size", f"{um_per_pixel} um is no size of a pixel", image.name, "give micrometres")
    if out.exists():
        raise FileExistsError(f"{out} is there already; remove it, or name another folder")
    with scratch_beside(out) as scratch:
        rows, partial = Path(scratch, "rows"), Path(scratch, "slide")
        decoded = run_bounded(
            _DICOM if is_dicom(image) else _IMAGE,
            {"path": str(image.resolve()), "out": str(rows), "max_pixels": max_pixels},
            image.name,
            limits,
        )
        said = decoded["um_per_pixel"]
        of_file = None if said is None else (float(said[0]), float(said[1]))
        size = of_file if um_per_pixel is None else (um_per_pixel, um_per_pixel)
        if size is None:
            raise ArrayError(
                "no_pixel_size", "the file does not say how large its pixels are", image.name, "give it (--mpp)"
            )
        shape = (int(decoded["height"]), int(decoded["width"]))
        if rows.stat().st_size != 3 * shape[0] * shape[1]:
            raise ArrayError("cannot_decode", "was decoded in part", image.name, "send an undamaged file")

        def read(which: slice, columns: slice) -> NDArray[np.uint8]:
            # Mapped anew each time: what stays mapped stays in memory.
            return np.memmap(rows, np.uint8, "r", shape=(*shape, 3))[which, columns]

        shapes = write_pyramid(read, shape, partial, image.stem, size, progress, origin_um)
        os.replace(partial, out)
    return ImportedSlide(shapes, size, of_file)


def is_dicom(image: Path) -> bool:
    """Whether a file, or a folder's first file, begins as DICOM does: 128 bytes of anything, then four letters."""
    first = next((path for path in sorted(image.iterdir()) if path.is_file()), None) if image.is_dir() else image
    if first is None or not first.is_file():
        return False
    with first.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def write_pyramid(
    read: ReadRows,
    shape: tuple[int, int],
    out: Path,
    name: str,
    um_per_pixel: tuple[float, float],
    progress: Progress | None = None,
    origin_um: tuple[float, float] = (0.0, 0.0),
) -> tuple[tuple[int, int], ...]:
    """Write an image and its coarser levels, one whole shard at a time.

    Args:
        read: asked for one shard's pixels at a time.
        shape: rows and columns of the image.
        out: the folder to make.
        name: of the image.
        um_per_pixel: row pitch and column pitch.
        progress: told of each shard.
        origin_um: y and x of the centre of the first pixel.
    Returns:
        Rows and columns of each level.
    """
    shapes = [shape]
    while max(shapes[-1]) > CHUNK_PIXELS:
        shapes.append((-(-shapes[-1][0] // 2), -(-shapes[-1][1] // 2)))
    n_shards, n_written = sum(len(_shards(size)) for size in shapes), 0
    group = zarr.create_group(out, zarr_format=3)
    finer: zarr.Array[Any] | None = None
    for level, size in enumerate(shapes):
        array = group.create_array(
            str(level),
            shape=(3, *size),
            chunks=(3, CHUNK_PIXELS, CHUNK_PIXELS),
            shards=(3, SHARD_PIXELS, SHARD_PIXELS),
            dtype="uint8",
            compressors=BloscCodec(cname="lz4", clevel=5, shuffle=BloscShuffle.bitshuffle),
            fill_value=_GLASS,
            dimension_names=("c", "y", "x"),
        )
        for rows, columns in _shards(size):
            block = _planes(read(rows, columns)) if finer is None else _halved(finer, rows, columns)
            array[:, rows, columns] = block
            n_written += 1
            if progress is not None:
                progress(n_written, n_shards)
        finer = array
    # Last, so that a folder without it was not finished.
    group.attrs.update({"ome": _metadata(name, um_per_pixel, origin_um, len(shapes))})
    return tuple(shapes)


@contextmanager
def scratch_beside(out: Path) -> Iterator[Path]:
    """A folder for the parts of an import, gone at its end; what a killed import of the same name left goes first."""
    mark = f".{out.name}.import-"
    out.parent.mkdir(parents=True, exist_ok=True)
    for left in out.parent.glob(f"{glob.escape(mark)}*"):
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=mark) as scratch:
        yield Path(scratch)


def _shards(shape: Sequence[int]) -> list[tuple[slice, slice]]:
    """Rows and columns of each shard, in order."""
    return [
        (slice(top, min(top + SHARD_PIXELS, shape[0])), slice(left, min(left + SHARD_PIXELS, shape[1])))
        for top in range(0, shape[0], SHARD_PIXELS)
        for left in range(0, shape[1], SHARD_PIXELS)
    ]


def _planes(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """One shard of the finest level, its channels taken apart."""
    return np.ascontiguousarray(np.moveaxis(pixels, 2, 0))


def _halved(finer: Any, rows: slice, columns: slice) -> NDArray[np.uint8]:
    """One shard of a coarser level, from the up to four shards below it, each read once."""
    block = np.empty((3, rows.stop - rows.start, columns.stop - columns.start), np.uint8)
    half = SHARD_PIXELS // 2
    for top in range(rows.start, rows.stop, half):
        for left in range(columns.start, columns.stop, half):
            below, right = min(top + half, rows.stop), min(left + half, columns.stop)
            fine = np.asarray(finer[:, 2 * top : 2 * below, 2 * left : 2 * right])
            for channel in range(3):
                place = block[
                    channel, top - rows.start : below - rows.start, left - columns.start : right - columns.start
                ]
                place[...] = halve(fine[channel])
    return block


def halve(plane: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Mean of 2 x 2 pixels, rounded half up; a last odd row or column counts twice.

    Args:
        plane: (rows, columns).
    Returns:
        (rows / 2, columns / 2), rounded up.
    """
    n_rows, n_columns = plane.shape
    if n_rows % 2 or n_columns % 2:
        plane = np.pad(plane, ((0, n_rows % 2), (0, n_columns % 2)), mode="edge")
    total = plane[0::2, 0::2].astype(np.uint16)
    for part in (plane[0::2, 1::2], plane[1::2, 0::2], plane[1::2, 1::2]):
        total += part
    return ((total + 2) >> 2).astype(np.uint8)


def _metadata(
    name: str, um_per_pixel: tuple[float, float], origin_um: tuple[float, float], n_levels: int
) -> dict[str, Any]:
    """The `ome` attributes: a pixel's value stands at its centre, so a coarser level begins half a pixel further in."""
    datasets = []
    for level in range(n_levels):
        factor = 2**level
        scale = [1.0, *(size * factor for size in um_per_pixel)]
        shift = [
            0.0,
            *(start + size * (factor - 1) / 2 for start, size in zip(origin_um, um_per_pixel, strict=True)),
        ]
        datasets.append(
            {
                "path": str(level),
                "coordinateTransformations": [
                    {"type": "scale", "scale": scale},
                    {"type": "translation", "translation": shift},
                ],
            }
        )
    window = {"min": 0, "max": 255, "start": 0, "end": 255}
    return {
        "version": "0.5",
        "multiscales": [
            {
                "name": name,
                "axes": [
                    {"name": "c", "type": "channel"},
                    {"name": "y", "type": "space", "unit": "micrometer"},
                    {"name": "x", "type": "space", "unit": "micrometer"},
                ],
                "datasets": datasets,
                "type": "mean of 2 x 2 pixels, rounded half up",
            }
        ],
        "omero": {
            "channels": [
                {"label": label, "color": colour, "active": True, "window": window} for label, colour in _COLOURS
            ]
        },
    }
