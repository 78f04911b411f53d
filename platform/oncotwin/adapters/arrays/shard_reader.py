"""Blocks of a sharded array of bytes, decoded in the thread that asks for them.

The Zarr library hands every chunk through one event loop for all threads: two threads that read whole shards needed as
long as one after the other. This reader knows one layout, that of the
slides we write and of most that others write: Zarr 3, shards, bytes compressed by Blosc or Zstandard and not turned
round. Every other array is read by the library.

Source: Zarr core specification 3.0, sharding codec 1.0 (ZEP 2): the index at a shard's end holds offset and length of
each chunk, little-endian, and 2^64 - 1 twice for one that is not there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs import blosc, zstd  # type: ignore[import-untyped]
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, ShardingCodec, ShardingCodecIndexLocation, ZstdCodec

from oncotwin.domain.claim import ArrayError

ByteArray = NDArray[np.uint8]
Index = NDArray[np.uint64]

_EMPTY = 2**64 - 1
_MOST_INDICES = 4_096
_CHECKSUM_BYTES = 4


@dataclass(frozen=True, slots=True)
class ShardReader:
    """Reads blocks of one array; any thread may.

    Attributes:
        folder: of the array.
        shape, shard, chunk: of the array, of one file, and of what is decoded at once.
        fill: value of what was never written.
        decode: from stored bytes into a buffer of one chunk.
    """

    folder: Path
    shape: tuple[int, ...]
    shard: tuple[int, ...]
    chunk: tuple[int, ...]
    fill: int
    decode: Callable[[bytes, ByteArray], object]
    name: Callable[[tuple[int, ...]], str]
    checksum: bool
    indices: dict[tuple[int, ...], Index | None] = field(default_factory=dict)

    def read(self, selection: tuple[slice, ...]) -> ByteArray:
        """A block, by slices with both ends inside the array.

        Raises:
            ArrayError: a shard changed or was damaged since it was checked.
        """
        starts = [part.start for part in selection]
        out = np.full([part.stop - part.start for part in selection], self.fill, dtype=np.uint8)
        buffer = np.empty(self.chunk, dtype=np.uint8)
        for place in product(*(_cut(part, size) for part, size in zip(selection, self.shard, strict=True))):
            index = self._index(place)
            if index is None:
                continue
            begin = [at * size for at, size in zip(place, self.shard, strict=True)]
            inside = [
                slice(max(part.start, low), min(part.stop, low + size))
                for part, low, size in zip(selection, begin, self.shard, strict=True)
            ]
            self._read_shard(place, index, inside, begin, starts, buffer, out)
        return out

    def _read_shard(
        self, place: tuple[int, ...], index: Index, inside: list[slice], begin: list[int], starts: list[int],
        buffer: ByteArray, out: ByteArray,
    ) -> None:
        path = self.folder / self.name(place)
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            local = [slice(part.start - low, part.stop - low) for part, low in zip(inside, begin, strict=True)]
            for at in product(*(_cut(part, size) for part, size in zip(local, self.chunk, strict=True))):
                offset, length = (int(value) for value in index[at])
                if offset == length == _EMPTY:
                    continue
                self._decode(os.pread(file, length, offset), length, buffer, self._where(path))
                low = [b + i * size for b, i, size in zip(begin, at, self.chunk, strict=True)]
                both = [
                    (max(part.start, a), min(part.stop, a + size))
                    for part, a, size in zip(inside, low, self.chunk, strict=True)
                ]
                here = tuple(slice(a - s, b - s) for (a, b), s in zip(both, starts, strict=True))
                there = tuple(slice(a - s, b - s) for (a, b), s in zip(both, low, strict=True))
                out[here] = buffer[there]
        finally:
            os.close(file)

    def _decode(self, stored: bytes, length: int, buffer: ByteArray, where: str) -> None:
        try:
            if len(stored) != length:
                raise ValueError(f"{len(stored)} of {length} bytes are there")
            self.decode(stored, buffer)
        except (ValueError, RuntimeError) as error:
            raise ArrayError(
                "bad_chunk", f"a chunk cannot be decoded ({error})", where, "write or send the array again"
            ) from error

    def _where(self, path: Path) -> str:
        return str(path.relative_to(self.folder.parent))

    def _index(self, place: tuple[int, ...]) -> Index | None:
        """Offsets and lengths of a shard's chunks; None for a shard that is not there."""
        if place in self.indices:
            return self.indices[place]
        counts = [whole // part for whole, part in zip(self.shard, self.chunk, strict=True)]
        size = 16 * int(np.prod(counts))
        tail = size + (_CHECKSUM_BYTES if self.checksum else 0)
        path, found = self.folder / self.name(place), None
        if path.exists():
            raw = path.read_bytes() if path.stat().st_size < tail else _end_of(path, tail)
            if len(raw) != tail:
                raise ArrayError("bad_shard", "is cut off", self._where(path), "write or send the array again")
            found = np.frombuffer(raw[:size], "<u8").astype(np.uint64).reshape(*counts, 2)
        if len(self.indices) >= _MOST_INDICES:
            self.indices.clear()
        self.indices[place] = found
        return found


def shard_reader(array: Any, folder: Path) -> ShardReader | None:
    """A reader of an array that was checked, or None where its layout is another.

    Args:
        array: of Zarr, opened.
        folder: in which it lies.
    """
    metadata: Any = array.metadata
    codecs: Any = getattr(metadata, "codecs", ())
    if metadata.zarr_format != 3 or array.dtype != np.uint8 or len(codecs) != 1:
        return None
    outer = codecs[0]
    if not isinstance(outer, ShardingCodec) or outer.index_location is not ShardingCodecIndexLocation.end:
        return None
    inner, index = list(outer.codecs), [type(codec) for codec in outer.index_codecs]
    decoders = {BloscCodec: blosc.decompress, ZstdCodec: zstd.decompress}
    decode = decoders.get(type(inner[-1]))
    if [type(codec) for codec in inner[:-1]] != [BytesCodec] or decode is None:
        return None
    if index not in ([BytesCodec], [BytesCodec, Crc32cCodec]):
        return None
    encoding = metadata.chunk_key_encoding
    shard = tuple(int(size) for size in metadata.chunk_grid.chunk_shape)
    return ShardReader(
        folder, tuple(array.shape), shard, tuple(outer.chunk_shape), int(metadata.fill_value), decode,
        encoding.encode_chunk_key, len(index) == 2,
    )  # fmt: skip


def _end_of(path: Path, n_bytes: int) -> bytes:
    with path.open("rb") as file:
        file.seek(-n_bytes, os.SEEK_END)
        return file.read()


def _cut(part: slice, size: int) -> Iterator[int]:
    """Numbers of the cells of some size that a slice touches."""
    return iter(range(part.start // size, -(-part.stop // size))) if part.stop > part.start else iter(())
