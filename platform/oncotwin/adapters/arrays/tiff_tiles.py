"""TIFF and BigTIFF read tile by tile: the finest image of a slide, never the whole of it in memory.

Only what slides are made of: 8-bit grey or colour samples beside each other, in tiles or strips, stored plain, deflated
or as JPEG. Anything else is left to the imaging library, which decodes whole images.

Source: Adobe 1992, TIFF revision 6.0; Adobe 2002, TIFF technical note 2 (JPEG); BigTIFF, AWare Systems 2007.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from oncotwin.domain.claim import ArrayError

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _DESCRIPTION = 256, 257, 258, 259, 262, 270
_STRIP_OFFSETS, _SAMPLES, _STRIP_ROWS, _STRIP_BYTES = 273, 277, 278, 279
_X_RESOLUTION, _Y_RESOLUTION, _PLANAR, _UNIT, _PREDICTOR = 282, 283, 284, 296, 317
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_BYTES, _JPEG_TABLES = 322, 323, 324, 325, 347
_PLAIN, _JPEG, _DEFLATE = 1, 7, (8, 32946)
_GREY, _RGB, _YCBCR = 1, 2, 6
_UM_PER_UNIT = {2: 25_400.0, 3: 10_000.0}

_NAMED_RGB = re.compile(rb"\xff[\xc0-\xc2].{7}\x03R..G..B", re.DOTALL)
_FORMATS = {1: "B", 2: "c", 3: "H", 4: "I", 5: "II", 7: "c", 16: "Q"}
_MAX_ENTRIES = 512
_MAX_VALUE_BYTES = 1 << 27
_MAX_TILE_PIXELS = 1 << 26


@dataclass(frozen=True, slots=True)
class Tiff:
    """The first image of a file, in tiles; a strip is a tile as wide as the image."""

    file: BinaryIO
    height: int
    width: int
    tile_height: int
    tile_width: int
    n_samples: int
    compression: int
    photometric: int
    offsets: tuple[int, ...]
    n_bytes: tuple[int, ...]
    tables: bytes
    """JPEG tables that all tiles share."""
    description: str
    resolution: tuple[float, float] | None
    """Micrometres per pixel, y and x, as the resolution says; whether that can be true is not judged."""

    def write_rows(self, out: Path) -> None:
        """Write (height, width, 3) bytes, one row of tiles in memory at a time."""
        across = -(-self.width // self.tile_width)
        with out.open("wb") as file:
            for top in range(0, self.height, self.tile_height):
                n_rows = min(self.tile_height, self.height - top)
                band = np.empty((n_rows, self.width, 3), np.uint8)
                for column in range(across):
                    left = column * self.tile_width
                    tile = self._tile((top // self.tile_height) * across + column, n_rows)
                    band[:, left : left + self.tile_width] = tile[:n_rows, : self.width - left]
                file.write(band.data)

    def _tile(self, at: int, n_rows: int) -> NDArray[np.uint8]:
        """Decode one tile: (at least `n_rows`, tile width, 3)."""
        where = f"tile {at}"
        self.file.seek(self.offsets[at])
        raw = self.file.read(self.n_bytes[at])
        if len(raw) != self.n_bytes[at]:
            raise ArrayError("cannot_decode", "lies beyond the end of the file: cut off", where, "send the whole file")
        if self.compression == _JPEG:
            return self._jpeg(raw, n_rows, where)
        row_bytes = self.tile_width * self.n_samples
        if self.compression in _DEFLATE:
            try:
                raw = zlib.decompressobj().decompress(raw, self.tile_height * row_bytes)
            except zlib.error as error:
                raise ArrayError("cannot_decode", f"cannot be inflated: {error}", where) from None
        if len(raw) < n_rows * row_bytes:
            raise ArrayError("cannot_decode", f"has {len(raw)} bytes, too few for {n_rows} rows", where)
        samples = np.frombuffer(raw, np.uint8, n_rows * row_bytes).reshape(n_rows, self.tile_width, self.n_samples)
        return samples[..., :3] if self.n_samples >= 3 else np.repeat(samples[..., :1], 3, axis=2)

    def _jpeg(self, raw: bytes, n_rows: int, where: str) -> NDArray[np.uint8]:
        # The tables are a JPEG of their own without an image: theirs up to its end, then the tile's after its start.
        stream = self.tables[:-2] + raw[2:] if self.tables else raw
        return jpeg_pixels(
            stream, self.tile_width, (n_rows, self.tile_height), plain_colours=self.photometric == _RGB, where=where
        )


def jpeg_pixels(
    stream: bytes, width: int, heights: tuple[int, int], *, plain_colours: bool, where: str
) -> NDArray[np.uint8]:
    """Decode one tile in JPEG.

    Args:
        stream: a whole JPEG.
        width: that it must have.
        heights: least and largest height that it may have.
        plain_colours: channels are red, green and blue unless the stream itself says otherwise.
        where: the tile, for messages.
    Returns:
        (height, width, 3).
    Raises:
        ArrayError: `cannot_decode`: another size, or other channels.
    """
    with Image.open(io.BytesIO(stream), formats=("JPEG",)) as tile:
        if tile.width != width or not heights[0] <= tile.height <= heights[1] or tile.mode not in ("L", "RGB"):
            raise ArrayError("cannot_decode", f"holds {tile.height} x {tile.width} pixels of mode {tile.mode}", where)
        if tile.mode == "RGB" and plain_colours and not _says_colours(stream):
            # Without a marker the library takes three channels for luminance and colour difference.
            tile.draft("YCbCr", tile.size)
            return np.asarray(tile)
        return np.asarray(tile.convert("RGB"))


def _says_colours(stream: bytes) -> bool:
    """Whether a JPEG itself says how its channels are meant: by Adobe's or JFIF's marker, or by components R, G, B."""
    head = stream[: stream.find(b"\xff\xda")]
    return b"Adobe" in head or b"JFIF" in head or _NAMED_RGB.search(head) is not None


def open_tiff(file: BinaryIO, max_pixels: int) -> Tiff | None:
    """Read the first directory of a TIFF.

    Args:
        file: kept open as long as the answer is used.
        max_pixels: bound on height times width.
    Returns:
        The image; None if it is of a kind that is left to the imaging library.
    Raises:
        ArrayError: damaged, or beyond the bound.
    """
    try:
        tags = _Directory(file)
        height, width = tags.one(_HEIGHT), tags.one(_WIDTH)
        check_pixels(height, width, max_pixels)
        tiled = tags.has(_TILE_OFFSETS)
        tile_height = tags.one(_TILE_HEIGHT) if tiled else min(height, tags.one(_STRIP_ROWS, height))
        tile_width = tags.one(_TILE_WIDTH) if tiled else width
        if min(tile_height, tile_width) < 1 or tile_height * tile_width > _MAX_TILE_PIXELS:
            return None
        n_samples, compression = tags.one(_SAMPLES, 1), tags.one(_COMPRESSION, 1)
        photometric = tags.one(_PHOTOMETRIC, _GREY)
        known = (
            set(tags.all(_BITS, (1,))) == {8}
            and tags.one(_PLANAR, 1) == 1
            and tags.one(_PREDICTOR, 1) == 1
            and (n_samples, photometric) in ((1, _GREY), (3, _RGB), (3, _YCBCR))
            and (compression == _JPEG or (compression in (_PLAIN, *_DEFLATE) and photometric != _YCBCR))
        )
        if not known:
            return None
        offsets = tags.all(_TILE_OFFSETS if tiled else _STRIP_OFFSETS)
        n_bytes = tags.all(_TILE_BYTES if tiled else _STRIP_BYTES)
        tables = tags.raw(_JPEG_TABLES)
        description = tags.raw(_DESCRIPTION).decode("utf-8", "replace")
        resolution = tags.resolution()
    except (struct.error, KeyError, IndexError) as error:
        raise ArrayError("bad_header", f"the TIFF directory is damaged: {error!r}", "", "send the whole file") from None
    n_tiles = -(-height // tile_height) * -(-width // tile_width)
    bound = 8 * tile_height * tile_width + (1 << 16)
    if len(offsets) != n_tiles or len(n_bytes) != n_tiles or max(n_bytes) > bound:
        raise ArrayError("bad_header", f"has {len(offsets)} tiles where {n_tiles} belong, or one too large", "")
    return Tiff(
        file, height, width, tile_height, tile_width, n_samples, compression, photometric, offsets, n_bytes, tables,
        description, resolution,
    )  # fmt: skip


def check_pixels(height: int, width: int, max_pixels: int) -> None:
    """Hold an image to its bound.

    Raises:
        ArrayError: `too_large`, or `bad_image` for an image without pixels.
    """
    if min(height, width) < 1:
        raise ArrayError("bad_image", f"has {height} x {width} pixels", "", "send an image")
    if height * width > max_pixels:
        raise ArrayError(
            "too_large", f"has {height:,} x {width:,} pixels, more than {max_pixels:,}", "", "raise the limit, or crop"
        )


class _Directory:
    """The first directory's entries; values are read when they are asked for."""

    def __init__(self, file: BinaryIO) -> None:
        file.seek(0)
        head = file.read(16)
        self._file = file
        self._order = "<" if head[:2] == b"II" else ">"
        self._big = head[2:4] in (b"+\0", b"\0+")
        (start,) = struct.unpack_from(self._order + ("Q" if self._big else "I"), head, 8 if self._big else 4)
        file.seek(start)
        (n,) = self._read("Q" if self._big else "H")
        if n > _MAX_ENTRIES:
            raise ArrayError("bad_header", f"has a directory of {n} entries", "", "send a plain TIFF")
        self._entries: dict[int, tuple[int, int, bytes]] = {}
        for _ in range(n):
            tag, kind, count = self._read("HHQ" if self._big else "HHI")
            self._entries[tag] = (kind, count, file.read(8 if self._big else 4))

    def has(self, tag: int) -> bool:
        return tag in self._entries

    def one(self, tag: int, otherwise: int | None = None) -> int:
        if otherwise is not None and tag not in self._entries:
            return otherwise
        return self.all(tag)[0]

    def all(self, tag: int, otherwise: tuple[int, ...] = ()) -> tuple[int, ...]:
        if tag not in self._entries and otherwise:
            return otherwise
        kind = self._entries[tag][0]
        raw = self.raw(tag)
        if kind not in (1, 3, 4, 5, 16):
            raise KeyError(tag)
        size = struct.calcsize("=" + _FORMATS[kind])
        letters = _FORMATS[kind]
        return tuple(struct.unpack(f"{self._order}{len(raw) // size * len(letters)}{letters[0]}", raw))

    def raw(self, tag: int) -> bytes:
        """Bytes of a value; empty if there is none."""
        if tag not in self._entries:
            return b""
        kind, count, field = self._entries[tag]
        n_bytes = struct.calcsize("=" + _FORMATS[kind]) * count
        if n_bytes > _MAX_VALUE_BYTES:
            raise ArrayError("bad_header", f"has a tag {tag} of {n_bytes} bytes", "", "send a plain TIFF")
        if n_bytes <= len(field):
            return field[:n_bytes]
        (at,) = struct.unpack(self._order + ("Q" if self._big else "I"), field)
        self._file.seek(at)
        value = self._file.read(n_bytes)
        if len(value) != n_bytes:
            raise IndexError(f"tag {tag} lies beyond the end")
        return value

    def resolution(self) -> tuple[float, float] | None:
        """Micrometres per pixel, y and x."""
        unit = _UM_PER_UNIT.get(self.one(_UNIT, 2))
        if unit is None or not (self.has(_X_RESOLUTION) and self.has(_Y_RESOLUTION)):
            return None
        sizes: list[float] = []
        for tag in (_Y_RESOLUTION, _X_RESOLUTION):
            above, below = self.all(tag)[:2]
            if not (above and below):
                return None
            sizes.append(unit * below / above)
        return sizes[0], sizes[1]

    def _read(self, letters: str) -> tuple[int, ...]:
        return struct.unpack(self._order + letters, self._file.read(struct.calcsize("=" + letters)))
