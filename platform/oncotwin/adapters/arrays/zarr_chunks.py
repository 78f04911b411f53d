"""Chunks and shards of a foreign Zarr, checked against their header before a library decodes them.

The decoded size of a chunk is known from the header of its array. What its compressor's own header announces must be
exactly that, so that a decoder allocates what we expect and nothing else. Formats whose header is not binding (gzip,
zlib) are decoded once into a bounded buffer that is thrown away.

Source: Blosc 1 chunk format; RFC 8878 (Zstandard), section 3.1.1; RFC 1952 (gzip); Zarr sharding codec 1.0 (ZEP 2).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from math import prod
from typing import Any

import crc32c
import numcodecs  # type: ignore[import-untyped]
import numpy as np

from oncotwin.adapters.arrays.zarr_headers import LIMITS, ArrayHeader, ArrayLimits
from oncotwin.domain.claim import ArrayError

Read = Callable[[int, int], bytes]
"""Bytes of a file: offset and number."""

_EMPTY = 2**64 - 1
_HEAD_BYTES = 32
# blosclz, lz4, zlib, zstd; snappy is not built into the library that decodes.
_BLOSC_FORMATS = {0, 1, 3, 4}
_INFLATE_BYTES = 1 << 16


def check_file(read: Read, n_bytes: int, header: ArrayHeader, where: str, limits: ArrayLimits = LIMITS) -> int:
    """Check one chunk file, or every chunk of one shard.

    Args:
        read: the file.
        n_bytes: its size.
        header: of its array, within the limits.
        where: the file, for messages.
        limits: what may be asked of us.
    Returns:
        Decoded bytes of the chunks that the file holds; strings count as they lie in the decoded chunk.
    Raises:
        ArrayError: `bad_chunk`, `bad_shard`, `too_large`, or `ratio` for a chunk that expands beyond all honesty.
    """
    if not header.sharded:
        return _check_chunk(read, 0, n_bytes, header, where, limits)
    decoded = 0
    for at, (offset, length) in enumerate(_shard_index(read, n_bytes, header, where)):
        if offset != _EMPTY or length != _EMPTY:
            decoded += _check_chunk(read, offset, length, header, f"{where}, chunk {at}", limits)
    return decoded


def _shard_index(read: Read, n_bytes: int, header: ArrayHeader, where: str) -> list[tuple[int, int]]:
    """Offsets and lengths of a shard's chunks: inside the file, outside the index, none within another."""
    size = header.index_bytes
    if n_bytes < size:
        raise _bad_shard(where, f"has {n_bytes} bytes, fewer than its index of {size}")
    start = n_bytes - size if header.index_at_end else 0
    raw = read(start, size)
    entries = raw[: size - 4] if header.index_checksum else raw
    if header.index_checksum and crc32c.crc32c(entries) != int.from_bytes(raw[-4:], "little"):
        raise _bad_shard(where, "has an index whose checksum is wrong: cut off, or damaged")
    index = np.frombuffer(entries, "<u8").reshape(-1, 2)
    used = index[(index != np.uint64(_EMPTY)).any(axis=1)]
    low, high = (0, start) if header.index_at_end else (size, n_bytes)
    offsets, lengths = used[:, 0], used[:, 1]
    # Unsigned sums wrap around: each is held to the file's size before they are added.
    if (offsets > high).any() or (lengths > high).any() or (offsets < low).any() or (offsets + lengths > high).any():
        raise _bad_shard(where, "has chunks that lie outside of it: cut off, or damaged")
    order = np.argsort(offsets, kind="stable")
    ends = (offsets + lengths)[order][:-1]
    if (offsets[order][1:] < ends).any():
        raise _bad_shard(where, "has chunks that lie over each other")
    return [(int(offset), int(length)) for offset, length in index]


def _check_chunk(read: Read, offset: int, length: int, header: ArrayHeader, where: str, limits: ArrayLimits) -> int:
    """Check one chunk at a place in a file; return its decoded size."""
    n_stored = length - 4 * header.checksum
    if n_stored <= 0:
        raise _bad_chunk(where, f"has only {length} bytes")
    expected = header.chunk_bytes
    announced = _announced(read, offset, n_stored, header.compressor, where, limits)
    if expected is not None and announced != expected:
        raise _bad_chunk(where, f"decodes to {announced:,} bytes where the header says {expected:,}")
    if announced > limits.chunk_bytes:
        raise ArrayError("too_large", f"decodes to {announced:,} bytes, more than {limits.chunk_bytes:,}", where)
    if announced > limits.ratio_free_bytes and announced > limits.ratio * n_stored:
        raise ArrayError(
            "ratio", f"{n_stored:,} bytes would expand to {announced:,}, more than {limits.ratio:,} times", where,
            "write smaller chunks",
        )  # fmt: skip
    if expected is None:
        _check_strings(read(offset, n_stored), announced, header, where)
    return announced


def _announced(read: Read, offset: int, n_stored: int, compressor: str | None, where: str, limits: ArrayLimits) -> int:
    """Decoded size of a chunk, from its compressor's header or by a bounded decoding."""
    if compressor is None:
        return n_stored
    if compressor in ("gzip", "zlib"):
        return _inflated(read(offset, n_stored), 31 if compressor == "gzip" else 15, where, limits)
    head = read(offset, min(_HEAD_BYTES, n_stored))
    if compressor == "lz4":
        if len(head) < 4:
            raise _bad_chunk(where, "is no LZ4 block")
        return int.from_bytes(head[:4], "little")
    return _blosc_size(head, n_stored, where) if compressor == "blosc" else _zstd_size(head, where)


def _blosc_size(head: bytes, n_stored: int, where: str) -> int:
    if len(head) < 16:
        raise _bad_chunk(where, "is too short for Blosc")
    _, _, flags, _, n_bytes, _, n_compressed = struct.unpack("<BBBBIII", head[:16])
    if n_compressed != n_stored:
        raise _bad_chunk(where, f"has {n_stored} bytes, but its Blosc header says {n_compressed}: cut off, or damaged")
    if flags >> 5 not in _BLOSC_FORMATS:
        raise ArrayError("codec_not_allowed", f"has Blosc's format {flags >> 5}", where, "use lz4 or zstd within Blosc")
    return int(n_bytes)


def _zstd_size(head: bytes, where: str) -> int:
    if len(head) < 6 or head[:4] != b"\x28\xb5\x2f\xfd":
        raise _bad_chunk(where, "is no Zstandard frame")
    descriptor = head[4]
    single, size_flag = descriptor >> 5 & 1, descriptor >> 6
    n_size = (1 if single else 0, 2, 4, 8)[size_flag]
    at = 5 + (1 - single) + (0, 1, 2, 4)[descriptor & 3]
    field = head[at : at + n_size]
    if not n_size or len(field) < n_size:
        raise _bad_chunk(where, "is a Zstandard frame that does not say its size")
    return int.from_bytes(field, "little") + (256 if n_size == 2 else 0)


def _inflated(raw: bytes, window_bits: int, where: str, limits: ArrayLimits) -> int:
    """Decoded size of a deflate stream, by decoding it piece by piece into nothing."""
    total = 0
    while raw:
        stream = zlib.decompressobj(window_bits)
        try:
            while not stream.eof:
                piece = stream.decompress(raw, _INFLATE_BYTES)
                raw = stream.unconsumed_tail
                total += len(piece)
                if total > limits.chunk_bytes:
                    raise ArrayError("too_large", f"decodes to more than {limits.chunk_bytes:,} bytes", where)
                if not piece and not raw and not stream.eof:
                    raise _bad_chunk(where, "is cut off")
        except zlib.error as error:
            raise _bad_chunk(where, f"cannot be decoded: {error}") from None
        # gzip allows one member after another, and a decoder reads them all.
        raw = stream.unused_data
    return total


def _check_strings(raw: bytes, announced: int, header: ArrayHeader, where: str) -> None:
    """Check the number of strings in a chunk: the decoder makes a list of whatever number it finds there."""
    if header.compressor is not None:
        codec: Any = numcodecs.get_codec({"id": header.compressor})
        try:
            raw = bytes(codec.decode(raw))
        except Exception as error:
            raise _bad_chunk(where, f"cannot be decoded: {str(error)[:80]}") from None
    n_expected = prod(header.chunk)
    n_found = int.from_bytes(raw[:4], "little")
    if len(raw) != announced or len(raw) < 4 or n_found != n_expected or len(raw) < 4 + 4 * n_found:
        raise _bad_chunk(where, f"holds {n_found:,} strings in {len(raw):,} bytes where {n_expected:,} belong")


def _bad_chunk(where: str, what: str) -> ArrayError:
    return ArrayError("bad_chunk", f"the chunk {what}", where, "write the array again with a Zarr library")


def _bad_shard(where: str, what: str) -> ArrayError:
    return ArrayError("bad_shard", f"the shard {what}", where, "write or send the array again")
