"""Slides in DICOM turned into plain rows of pixels; called in a process of its own, see `bounded`.

A slide is a folder of instances, one for each level and one each for label and overview; the finest level is read, one
row of tiles in memory at a time. Only what slides are made of: 8 bits a colour, one focal plane, tiles stored plain, as
JPEG or as JPEG 2000.

Source: DICOM PS3.3 A.32.8 (VL Whole Slide Microscopy Image), C.8.12.4 and C.8.12.6; PS3.5 A.4 (encapsulated frames).
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image

from oncotwin.adapters.arrays.tiff_tiles import check_pixels, jpeg_pixels
from oncotwin.domain.claim import ArrayError

MAX_INSTANCES = 1_000
_SLIDE_CLASS = "1.2.840.10008.5.1.4.1.1.77.1.6"
_IMPLICIT = "1.2.840.10008.1.2"
_PLAIN = (_IMPLICIT, "1.2.840.10008.1.2.1")
_JPEG = "1.2.840.10008.1.2.4.50"
_JPEG_2000 = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
_PIXEL_DATA = b"\xe0\x7f\x10\x00"
_ITEM, _END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_MAX_TILE_PIXELS = 1 << 26
_GLASS = 255


@dataclass(frozen=True, slots=True)
class _Level:
    """One instance: a level of the slide."""

    path: Path
    height: int
    width: int
    tile_height: int
    tile_width: int
    n_samples: int
    photometric: str
    syntax: str
    um_per_pixel: tuple[float, float] | None
    places: tuple[tuple[int, int], ...]
    """Row and column of tiles of each frame, in the order of the frames."""
    pixels_at: int
    """Where in the file the element with the pixels begins."""


def decode_dicom(path: str, out: str, max_pixels: int) -> dict[str, Any]:
    """Decode the finest level of a slide into a file of rows: (height, width, 3) bytes, red, green, blue.

    Args:
        path: one instance, or the folder of all.
        out: the file to write.
        max_pixels: bound on height times width.
    Returns:
        As `image_decoding.decode_image`. What no frame covers is glass.
    Raises:
        ArrayError: no slide, several of the same size, too many pixels, another coding, or damaged.
    """
    source = Path(path)
    files = sorted(one for one in source.iterdir() if one.is_file()) if source.is_dir() else [source]
    if len(files) > MAX_INSTANCES:
        raise ArrayError("too_many_files", f"holds {len(files)} files, more than {MAX_INSTANCES}", source.name)
    headers = [(one, header) for one in files if (header := _volume(one)) is not None]
    if not headers:
        raise ArrayError("no_slide", "holds no DICOM instance of a slide's tissue", source.name, "send the whole study")
    sizes = [int(one.TotalPixelMatrixRows) * int(one.TotalPixelMatrixColumns) for _, one in headers]
    if sizes.count(max(sizes)) > 1:
        raise ArrayError(
            "several_slides", "holds its finest level in several files", source.name,
            "send one slide; join a concatenation into one instance",
        )  # fmt: skip
    level = _level(*headers[sizes.index(max(sizes))], max_pixels)
    with level.path.open("rb") as file, open(out, "wb") as rows:
        for band in _bands(file, level):
            rows.write(band.data)
    size = None if level.um_per_pixel is None else list(level.um_per_pixel)
    return {"height": level.height, "width": level.width, "format": "DICOM", "um_per_pixel": size}


def _volume(path: Path) -> Any:
    """Header of an instance that shows the tissue; None for labels, overviews and anything else."""
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True)
    except pydicom.errors.InvalidDicomError:
        return None
    kind = [str(one) for one in header.get("ImageType", [])]
    is_volume = header.get("SOPClassUID") == _SLIDE_CLASS and "VOLUME" in kind
    return header if is_volume and "TotalPixelMatrixRows" in header else None


def _level(path: Path, header: Any, max_pixels: int) -> _Level:
    height, width = int(header.TotalPixelMatrixRows), int(header.TotalPixelMatrixColumns)
    check_pixels(height, width, max_pixels)
    tile_height, tile_width = int(header.Rows), int(header.Columns)
    n_samples, photometric = int(header.SamplesPerPixel), str(header.PhotometricInterpretation)
    syntax = str(header.file_meta.TransferSyntaxUID)
    where = path.name
    if min(tile_height, tile_width) < 1 or tile_height * tile_width > _MAX_TILE_PIXELS:
        raise ArrayError("bad_header", f"has tiles of {tile_height} x {tile_width} pixels", where)
    if int(header.BitsAllocated) != 8 or n_samples not in (1, 3) or int(header.get("PlanarConfiguration", 0)):
        raise ArrayError("type_not_allowed", "has pixels of other than 8 bits a colour, beside each other", where)
    if syntax not in (*_PLAIN, _JPEG, *_JPEG_2000):
        raise ArrayError("codec_not_allowed", f"is coded by {syntax}", where, "send JPEG, JPEG 2000 or plain tiles")
    if syntax in _PLAIN and photometric not in ("RGB", "MONOCHROME2"):
        raise ArrayError("codec_not_allowed", f"stores {photometric} plainly", where, "send RGB")
    for name in ("NumberOfOpticalPaths", "TotalPixelMatrixFocalPlanes"):
        if int(header.get(name, 1) or 1) > 1:
            raise ArrayError("several_slides", f"has several planes ({name})", where, "send one focal plane")
    with path.open("rb") as file:
        pydicom.dcmread(file, stop_before_pixels=True)
        pixels_at = file.tell()
    return _Level(
        path, height, width, tile_height, tile_width, n_samples, photometric, syntax, _pixel_size(header),
        _places(header, (height, width), (tile_height, tile_width), where), pixels_at,
    )  # fmt: skip


def _pixel_size(header: Any) -> tuple[float, float] | None:
    """Micrometres per pixel, y and x, from the spacing in millimetres."""
    try:
        spacing = header.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing
        size = 1_000.0 * float(spacing[0]), 1_000.0 * float(spacing[1])
    except (AttributeError, IndexError, TypeError, ValueError):
        return None
    return size if all(0.0 < one < 1_000.0 for one in size) else None


def _places(header: Any, shape: tuple[int, int], tile: tuple[int, int], where: str) -> tuple[tuple[int, int], ...]:
    """Row and column of tiles of each frame."""
    n_frames = int(header.get("NumberOfFrames", 1))
    down, across = -(-shape[0] // tile[0]), -(-shape[1] // tile[1])
    if header.get("DimensionOrganizationType") == "TILED_FULL" or n_frames == down * across == 1:
        if n_frames != down * across:
            raise ArrayError("bad_header", f"has {n_frames} frames where {down * across} belong", where)
        return tuple(divmod(at, across) for at in range(n_frames))
    groups = header.get("PerFrameFunctionalGroupsSequence", [])
    if len(groups) != n_frames:
        raise ArrayError("bad_header", f"says where {len(groups)} of {n_frames} frames lie", where)
    places = []
    for group in groups:
        position = group.PlanePositionSlideSequence[0]
        y = int(position.RowPositionInTotalImagePixelMatrix) - 1
        x = int(position.ColumnPositionInTotalImagePixelMatrix) - 1
        if y % tile[0] or x % tile[1] or not (0 <= y < shape[0] and 0 <= x < shape[1]):
            raise ArrayError("bad_header", f"has a tile at row {y + 1}, column {x + 1}: off its grid", where)
        places.append((y // tile[0], x // tile[1]))
    if len(set(places)) != len(places):
        raise ArrayError("several_slides", "has two tiles in one place", where, "send one focal plane")
    return tuple(places)


def _bands(file: BinaryIO, level: _Level) -> Iterator[NDArray[np.uint8]]:
    """Pixels of one row of tiles after the other: (rows, width, 3)."""
    frames = _frames(file, level)
    by_row: dict[int, list[tuple[int, int]]] = {}
    for at, (row, column) in enumerate(level.places):
        by_row.setdefault(row, []).append((column, at))
    for row in range(-(-level.height // level.tile_height)):
        n_rows = min(level.tile_height, level.height - row * level.tile_height)
        band = np.full((n_rows, level.width, 3), _GLASS, np.uint8)
        for column, at in by_row.get(row, ()):
            left = column * level.tile_width
            raw = b"".join(_read(file, offset, length, f"frame {at + 1}") for offset, length in frames[at])
            tile = _decode(raw, level, f"frame {at + 1}")
            band[:, left : left + level.tile_width] = tile[:n_rows, : level.width - left]
        yield band


def _frames(file: BinaryIO, level: _Level) -> list[list[tuple[int, int]]]:
    """Where the parts of each frame lie in the file: offset and length."""
    n_frames = len(level.places)
    implicit = level.syntax == _IMPLICIT
    head = _read(file, level.pixels_at, 8 if implicit else 12, "the pixels")
    if head[:4] != _PIXEL_DATA:
        raise ArrayError("cannot_decode", "has no pixels", level.path.name, "send the whole file")
    start = level.pixels_at + len(head)
    if level.syntax in _PLAIN:
        size = level.tile_height * level.tile_width * level.n_samples
        return [[(start + at * size, size)] for at in range(n_frames)]
    items = _items(file, start, level.path.name)
    offsets = _read(file, *items[0], "the table of frames")
    parts = items[1:]
    if len(parts) == n_frames:
        return [[part] for part in parts]
    if len(offsets) != 4 * n_frames:
        raise ArrayError("bad_header", f"has {len(parts)} parts for {n_frames} frames", level.path.name)
    first = parts[0][0] - 8
    starts = [first + offset for offset in struct.unpack(f"<{n_frames}I", offsets)]
    frames: list[list[tuple[int, int]]] = [[] for _ in range(n_frames)]
    for part in parts:
        frames[int(np.searchsorted(starts, part[0] - 8, side="right")) - 1].append(part)
    return frames


def _items(file: BinaryIO, start: int, where: str) -> list[tuple[int, int]]:
    """Offset and length of each item of encapsulated pixels: first the table of offsets, then the parts of frames."""
    found: list[tuple[int, int]] = []
    at = start
    while True:
        head = _read(file, at, 8, "the pixels")
        if head[:4] == _END:
            break
        (length,) = struct.unpack("<I", head[4:])
        if head[:4] != _ITEM or length == 0xFFFFFFFF:
            raise ArrayError("cannot_decode", "has frames that are no items: damaged", where, "send the whole file")
        found.append((at + 8, length))
        at += 8 + length
    if len(found) < 2:
        raise ArrayError("cannot_decode", "has no frame", where, "send the whole file")
    return found


def _decode(raw: bytes, level: _Level, where: str) -> NDArray[np.uint8]:
    """One frame: (tile height, tile width, 3)."""
    if level.syntax in _PLAIN:
        shape = (level.tile_height, level.tile_width, level.n_samples)
        return np.broadcast_to(np.frombuffer(raw, np.uint8).reshape(shape), (*shape[:2], 3))
    if level.syntax == _JPEG:
        heights = (level.tile_height, level.tile_height)
        return jpeg_pixels(raw, level.tile_width, heights, plain_colours=level.photometric == "RGB", where=where)
    with Image.open(io.BytesIO(raw), formats=("JPEG2000",)) as tile:
        if tile.size != (level.tile_width, level.tile_height) or tile.mode not in ("L", "RGB"):
            raise ArrayError("cannot_decode", f"holds {tile.height} x {tile.width} pixels of mode {tile.mode}", where)
        return np.asarray(tile.convert("RGB"))


def _read(file: BinaryIO, offset: int, length: int, where: str) -> bytes:
    file.seek(offset)
    raw = file.read(length)
    if len(raw) != length:
        raise ArrayError("cannot_decode", "lies beyond the end of the file: cut off", where, "send the whole file")
    return raw
