"""Headers of Zarr arrays, bounded before any byte of a chunk is decoded.

A header is a few hundred bytes of somebody's text, and a reader that believes it allocates what it says. Only what is
listed here is let through: regular grids, element types of known size, one compressor from the list.

Source: Zarr storage specification version 2; Zarr core specification 3.0 with sharding codec 1.0 (ZEP 1, ZEP 2).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from oncotwin.domain.claim import ArrayError

COMPRESSORS = frozenset({"blosc", "zstd", "gzip", "zlib", "lz4"})
"""Those whose decoded size can be bounded beforehand."""

_ELEMENT_BYTES = {
    "bool": 1, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "float16": 2, "int32": 4, "uint32": 4, "float32": 4,
    "int64": 8, "uint64": 8, "float64": 8, "complex64": 8, "complex128": 16,
}  # fmt: skip
_FIXED_TEXT = frozenset({"fixed_length_utf32", "null_terminated_bytes"})
_V2_TYPE = re.compile(r"[<>|](?:b1|[iu][1248]|f[248]|c8|c16|[SU][1-9]\d{0,4})")
_INDEX_ENTRY_BYTES = 16


@dataclass(frozen=True, slots=True)
class ArrayLimits:
    """What a foreign array may ask of us."""

    array_bytes: int = 1 << 42
    """Decoded size of one array."""
    shard_bytes: int = 1 << 31
    """Decoded size of one shard."""
    chunk_bytes: int = 1 << 28
    """Decoded size of one chunk: what is in memory at once."""
    n_chunks: int = 1 << 24
    """Chunks (or shards) of one array."""
    chunks_per_shard: int = 1 << 16
    strings_per_chunk: int = 1 << 22
    """Each becomes an object of some sixty bytes."""
    ratio: int = 1_000
    """Decoded over stored bytes of one chunk; a small chunk of one colour may exceed it harmlessly."""
    ratio_free_bytes: int = 1 << 24
    """Decoded size of a chunk up to which its ratio is not judged."""
    header_bytes: int = 1 << 22
    n_dimensions: int = 8


LIMITS = ArrayLimits()


@dataclass(frozen=True, slots=True)
class ArrayHeader:
    """What a header says, once it is within the limits."""

    path: str
    zarr_format: int
    shape: tuple[int, ...]
    element_bytes: int | None
    """None for strings of any length."""
    grid: tuple[int, ...]
    """Shape of what one file holds: a chunk, or a shard."""
    chunk: tuple[int, ...]
    """Shape of what is decoded at once: within a shard, smaller than `grid`."""
    compressor: str | None
    checksum: bool
    """A CRC-32C ends each chunk."""
    sharded: bool
    index_checksum: bool
    index_at_end: bool
    separator: str
    """Between the indices in a chunk's name."""
    prefix: str
    """Before the first index in a chunk's name: ``c`` or nothing."""

    @property
    def n_bytes(self) -> int:
        """Decoded size of the array; strings count as nothing."""
        return prod(self.shape) * (self.element_bytes or 0)

    @property
    def chunk_bytes(self) -> int | None:
        """Decoded size of one chunk; None for strings."""
        return None if self.element_bytes is None else prod(self.chunk) * self.element_bytes

    @property
    def chunks_per_shard(self) -> int:
        """Chunks in one file."""
        return prod(_counts(self.grid, self.chunk))

    @property
    def index_bytes(self) -> int:
        """Size of a shard's index."""
        return _INDEX_ENTRY_BYTES * self.chunks_per_shard + 4 * self.index_checksum

    @property
    def n_chunks(self) -> int:
        """Files that the array may have."""
        return prod(_counts(self.shape, self.grid))

    def has_chunk(self, name: str) -> bool:
        """Whether a file's name, below the array, is that of one of its chunks."""
        if not self.shape:
            return name == (self.prefix or "0")
        if self.prefix:
            start = self.prefix + self.separator
            if not name.startswith(start):
                return False
            name = name[len(start) :]
        parts = name.split(self.separator)
        counts = _counts(self.shape, self.grid)
        return len(parts) == len(counts) and all(
            re.fullmatch(r"0|[1-9]\d{0,17}", part) is not None and int(part) < n
            for part, n in zip(parts, counts, strict=True)
        )


def read_json(raw: bytes, where: str, limits: ArrayLimits = LIMITS) -> dict[str, Any]:
    """Read a header's JSON object.

    Raises:
        ArrayError: `bad_header`: too long, no JSON, nested too deeply, or no object.
    """
    if len(raw) > limits.header_bytes:
        raise _bad(where, f"has {len(raw)} bytes, more than {limits.header_bytes}")
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise _bad(where, f"is no JSON that can be read: {str(error)[:80]}") from None
    if not isinstance(content, dict):
        raise _bad(where, "is no JSON object")
    return content


def parse_header(content: Mapping[str, Any], path: str, limits: ArrayLimits = LIMITS) -> ArrayHeader:
    """Read an array's header (`zarr.json` of an array, or `.zarray`) and hold it to the limits.

    Args:
        content: as `read_json` returns it.
        path: of the array, for messages.
        limits: what may be asked of us.
    Raises:
        ArrayError: `bad_header`, `codec_not_allowed`, `type_not_allowed` or `too_large`.
    """
    version = content.get("zarr_format")
    if version == 3:
        header = _version_3(content, path, limits)
    elif version == 2:
        header = _version_2(content, path, limits)
    else:
        raise _bad(path, f"has zarr_format {str(version)[:20]!r}, not 2 or 3")
    _check_sizes(header, limits)
    return header


def _version_3(content: Mapping[str, Any], path: str, limits: ArrayLimits) -> ArrayHeader:
    shape = _shape(content.get("shape"), path, "shape", limits)
    grid = _shape(_named(content.get("chunk_grid"), path, "regular").get("chunk_shape"), path, "chunk_shape", limits)
    key_name, key = _name_and_settings(content.get("chunk_key_encoding"), path)
    if key_name not in ("default", "v2"):
        raise _bad(path, f"names its chunks by '{key_name}', not by 'default' or 'v2'")
    separator = key.get("separator", "/" if key_name == "default" else ".")
    if content.get("storage_transformers"):
        raise ArrayError("codec_not_allowed", "has a storage transformer", path, "write the array without")
    element_bytes = _v3_element(content.get("data_type"), path)
    codecs = _chain(content.get("codecs"), path)
    chunk, sharded, index_checksum, index_at_end = grid, False, False, True
    if codecs and codecs[0][0] == "sharding_indexed":
        if len(codecs) > 1:
            raise ArrayError("codec_not_allowed", "puts a codec around its shards", path, "compress within the shards")
        settings = codecs[0][1]
        sharded = True
        chunk = _shape(settings.get("chunk_shape"), path, "chunk_shape of the shards", limits)
        index = [name for name, _ in _chain(settings.get("index_codecs"), path)]
        if index not in (["bytes"], ["bytes", "crc32c"]):
            raise ArrayError("codec_not_allowed", f"has a shard index coded by {index}", path, "use bytes and crc32c")
        index_checksum = len(index) == 2
        location = settings.get("index_location", "end")
        if location not in ("start", "end"):
            raise _bad(path, "has its shard index neither at the start nor at the end")
        index_at_end = location == "end"
        codecs = _chain(settings.get("codecs"), path)
    compressor, checksum = _v3_codecs(codecs, path, strings=element_bytes is None)
    return ArrayHeader(
        path, 3, shape, element_bytes, grid, chunk, compressor, checksum, sharded, index_checksum, index_at_end,
        _separator(separator, path), "c" if key_name == "default" else "",
    )  # fmt: skip


def _v3_codecs(codecs: Sequence[tuple[str, Mapping[str, Any]]], path: str, *, strings: bool) -> tuple[str | None, bool]:
    """Hold a chain to `[transpose] bytes|vlen-utf8 [compressor] [crc32c]`."""
    names = [name.removeprefix("numcodecs.") for name, _ in codecs]
    rest = list(names)
    while rest[:1] == ["transpose"]:
        del rest[0]
    if rest[:1] != ["vlen-utf8" if strings else "bytes"]:
        raise ArrayError("codec_not_allowed", f"has codecs {names}", path, f"use {_ALLOWED}")
    del rest[0]
    compressor = rest.pop(0) if rest and rest[0] in COMPRESSORS else None
    checksum = rest == ["crc32c"]
    if rest and not checksum:
        # Two compressors would hide the size that the inner one claims.
        raise ArrayError("codec_not_allowed", f"has codecs {names}", path, f"use {_ALLOWED}")
    return compressor, checksum


def _version_2(content: Mapping[str, Any], path: str, limits: ArrayLimits) -> ArrayHeader:
    shape = _shape(content.get("shape"), path, "shape", limits)
    grid = _shape(content.get("chunks"), path, "chunks", limits)
    kind = content.get("dtype")
    filters = [_v2_id(one, path) for one in content.get("filters") or ()]
    if kind == "|O":
        # Objects are strings here, or else somebody's pickles.
        if filters != ["vlen-utf8"]:
            raise ArrayError("type_not_allowed", f"holds objects coded by {filters}", path, "store strings or numbers")
        element_bytes = None
    elif isinstance(kind, str) and _V2_TYPE.fullmatch(kind):
        element_bytes = int(kind[2:]) * (4 if kind[1] == "U" else 1)
        if filters not in ([], ["shuffle"]):
            raise ArrayError("codec_not_allowed", f"has filters {filters}", path, "write the array without")
    else:
        raise ArrayError("type_not_allowed", f"has elements of type {str(kind)[:60]!r}", path, "use plain numbers")
    settings = content.get("compressor")
    compressor = None if settings is None else _v2_id(settings, path)
    if compressor is not None and compressor not in COMPRESSORS:
        raise ArrayError("codec_not_allowed", f"has compressor '{compressor[:60]}'", path, f"use {_ALLOWED}")
    separator = _separator(content.get("dimension_separator", "."), path)
    return ArrayHeader(
        path, 2, shape, element_bytes, grid, grid, compressor, False, False, False, True, separator, ""
    )  # fmt: skip


_ALLOWED = f"one of {', '.join(sorted(COMPRESSORS))}, once"


def _check_sizes(header: ArrayHeader, limits: ArrayLimits) -> None:
    """Hold every product of a header to its limit; Python's integers do not overflow."""
    path = header.path
    if len(header.grid) != len(header.shape) or len(header.chunk) != len(header.shape):
        raise _bad(path, f"has shape {header.shape} in chunks {header.grid} of {header.chunk}")
    for n, whole, part in zip(header.shape, header.grid, header.chunk, strict=True):
        if (n and not (whole and part)) or (part and whole % part):
            raise _bad(path, f"has chunks {header.grid} of {header.chunk}: empty, or not whole")
    element = header.element_bytes
    sizes = [
        (header.n_chunks, limits.n_chunks, "chunks"),
        (header.chunks_per_shard, limits.chunks_per_shard, "chunks in a shard"),
        (header.n_bytes, limits.array_bytes, "bytes"),
        (prod(header.grid) * (element or 1), limits.shard_bytes, "bytes in a shard"),
        (prod(header.chunk) * (element or 1), limits.chunk_bytes, "bytes in a chunk"),
    ]
    if element is None:
        sizes.append((prod(header.chunk), limits.strings_per_chunk, "strings in a chunk"))
        sizes.append((prod(header.shape), limits.array_bytes, "strings"))
    for found, limit, what in sizes:
        if found > limit:
            raise ArrayError(
                "too_large",
                f"claims {found:,} {what}, more than {limit:,}",
                path,
                "check the header, or raise the limit",
            )


def _shape(value: Any, path: str, what: str, limits: ArrayLimits) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > limits.n_dimensions:
        raise _bad(path, f"has a {what} that is no list of at most {limits.n_dimensions} numbers")
    # True is an integer to Python, and 1e3 is none to Zarr.
    if not all(type(n) is int and 0 <= n < 1 << 62 for n in value):
        raise _bad(path, f"has a {what} of other than whole numbers from 0 to 2^62")
    return tuple(value)


def _name_and_settings(value: Any, path: str) -> tuple[str, Mapping[str, Any]]:
    if isinstance(value, str):
        return value, {}
    if isinstance(value, dict) and isinstance(value.get("name"), str):
        settings = value.get("configuration") or {}
        if isinstance(settings, dict):
            return value["name"], settings
    raise _bad(path, f"has {str(value)[:60]!r} where a name and its configuration belong")


def _named(value: Any, path: str, name: str) -> Mapping[str, Any]:
    found, settings = _name_and_settings(value, path)
    if found != name:
        raise _bad(path, f"has '{found[:60]}' where only '{name}' is read")
    return settings


def _chain(value: Any, path: str) -> list[tuple[str, Mapping[str, Any]]]:
    if not isinstance(value, list) or not 1 <= len(value) <= 8:
        raise _bad(path, "has no list of one to eight codecs")
    return [_name_and_settings(one, path) for one in value]


def _v2_id(value: Any, path: str) -> str:
    if isinstance(value, dict) and isinstance(value.get("id"), str):
        return str(value["id"])
    raise _bad(path, f"has {str(value)[:60]!r} where a codec belongs")


def _v3_element(kind: Any, path: str) -> int | None:
    """Bytes of one element; None for strings."""
    if kind == "string":
        return None
    if isinstance(kind, str) and kind in _ELEMENT_BYTES:
        return _ELEMENT_BYTES[kind]
    if isinstance(kind, dict) and kind.get("name") in _FIXED_TEXT:
        length = _name_and_settings(kind, path)[1].get("length_bytes")
        if type(length) is int and 0 < length <= 1 << 18:
            return length
    raise ArrayError("type_not_allowed", f"has elements of type {str(kind)[:60]!r}", path, "use numbers or strings")


def _separator(value: Any, path: str) -> str:
    if value not in ("/", "."):
        raise _bad(path, f"separates indices by {str(value)[:20]!r}, not by '/' or '.'")
    return str(value)


def _counts(whole: Sequence[int], part: Sequence[int]) -> list[int]:
    """How many parts cover each axis."""
    return [-(-n // p) if p else 0 for n, p in zip(whole, part, strict=True)]


def _bad(where: str, what: str) -> ArrayError:
    return ArrayError("bad_header", f"the header {what}", where, "write the array with a Zarr library")
