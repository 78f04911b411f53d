"""A whole foreign Zarr folder, checked before a library opens it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oncotwin.adapters.arrays.manifest import files_below, open_below
from oncotwin.adapters.arrays.zarr_chunks import check_file
from oncotwin.adapters.arrays.zarr_headers import LIMITS, ArrayHeader, ArrayLimits, parse_header, read_json
from oncotwin.domain.claim import ArrayError

_HEADERS = frozenset({"zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata"})

MAX_ARRAYS = 10_000

SPARSE_FREE_BYTES = 1 << 30
"""Decoded size of an array up to which it may be empty."""

MIN_PRESENT = 1_000
"""Of this many bytes that a larger array claims, at least one is in a chunk that is there."""


@dataclass(frozen=True, slots=True)
class CheckedZarr:
    """What a folder holds."""

    arrays: Mapping[str, ArrayHeader]
    """By path below the folder; ``""`` is the folder itself."""
    attributes: Mapping[str, Mapping[str, Any]]
    """Of groups and arrays, by path."""
    n_stored: int
    """Bytes of all files."""
    n_other_files: int
    """Files that belong to no array; nothing reads them."""


def check_zarr(folder: Path, limits: ArrayLimits = LIMITS) -> CheckedZarr:
    """Check every header and every chunk of a folder; nothing is decoded but what a bound needs.

    Memory: the headers and one chunk. A file that changes afterwards was not checked: check a copy of ours.

    Raises:
        ArrayError: see `parse_header`, `check_file` and `files_below`; `where` names the file below the folder.
    """
    nodes: dict[str, dict[str, Any]] = {}
    attributes: dict[str, Mapping[str, Any]] = {}
    copies: list[tuple[str, Mapping[str, Any]]] = []
    n_stored = 0
    with open_below(folder, ()) as opened:
        for name, file in files_below(opened):
            n_stored += os.fstat(file).st_size
            above, _, last = name.rpartition("/")
            if last in _HEADERS:
                content = read_json(os.pread(file, limits.header_bytes + 1, 0), name, limits)
                _sort_in(above, last, content, nodes, attributes, copies)
                if len(nodes) > MAX_ARRAYS:
                    raise ArrayError("too_large", f"holds more than {MAX_ARRAYS} arrays", name, "split the folder")
    if not nodes and not attributes:
        raise ArrayError("not_zarr", "holds no Zarr header", folder.name, "name the folder that holds zarr.json")
    arrays = {path: parse_header(content, path or folder.name, limits) for path, content in nodes.items()}
    _check_copies(copies, nodes)
    n_other = _check_chunks(folder, arrays, limits)
    return CheckedZarr(arrays, attributes, n_stored, n_other)


def _sort_in(
    above: str,
    last: str,
    content: dict[str, Any],
    nodes: dict[str, dict[str, Any]],
    attributes: dict[str, Mapping[str, Any]],
    copies: list[tuple[str, Mapping[str, Any]]],
) -> None:
    """Put one header where it belongs."""
    where = f"{above}/{last}" if above else last
    if last == ".zmetadata":
        copies.append((above, _object(content.get("metadata"), where)))
    elif last == ".zattrs":
        attributes[above] = content
    elif last == ".zgroup":
        attributes.setdefault(above, {})
    elif last == ".zarray" or content.get("node_type") == "array":
        if above in nodes:
            raise ArrayError("bad_header", "is an array of version 2 and of version 3 at once", where, "keep one")
        nodes[above] = content
        if last == "zarr.json":
            attributes[above] = _object(content.get("attributes", {}), where)
    elif content.get("node_type") == "group":
        attributes[above] = _object(content.get("attributes", {}), where)
        consolidated = content.get("consolidated_metadata")
        if consolidated is not None:
            copies.append((above, _object(_object(consolidated, where).get("metadata"), where)))
    else:
        raise ArrayError("bad_header", "is neither an array nor a group", where, "write it with a Zarr library")


def _check_copies(copies: list[tuple[str, Mapping[str, Any]]], nodes: Mapping[str, Mapping[str, Any]]) -> None:
    """Consolidated headers must be those that were checked: a library may read these instead."""
    for above, copied in copies:
        for name, content in copied.items():
            relative = name.removesuffix(".zarray").rstrip("/") if name.endswith(".zarray") else name
            is_array = name.endswith(".zarray") or (isinstance(content, dict) and content.get("node_type") == "array")
            path = "/".join(filter(None, (above, relative)))
            if is_array and nodes.get(path) != content:
                raise ArrayError(
                    "bad_header", "the consolidated header is not the array's own", path, "consolidate again, or remove"
                )


def _check_chunks(folder: Path, arrays: Mapping[str, ArrayHeader], limits: ArrayLimits) -> int:
    """Check every file that is a chunk; return how many files are none."""
    n_other = 0
    present = dict.fromkeys(arrays, 0)
    with open_below(folder, ()) as opened:
        for name, file in files_below(opened):
            if name.rpartition("/")[2] in _HEADERS:
                continue
            owner = _owner(name, arrays)
            if owner is None:
                n_other += 1
                continue

            def read(offset: int, n_bytes: int, file: int = file) -> bytes:
                return os.pread(file, n_bytes, offset)

            present[owner] += check_file(read, os.fstat(file).st_size, arrays[owner], name, limits)
    for path, header in arrays.items():
        # What is not there reads as the fill value: days of work made of nothing.
        if header.n_bytes > max(SPARSE_FREE_BYTES, MIN_PRESENT * present[path]):
            raise ArrayError(
                "mostly_empty",
                f"claims {header.n_bytes:,} bytes, of which {present[path]:,} are there",
                path or folder.name,
                "crop the array to what was measured",
            )
    return n_other


def _owner(name: str, arrays: Mapping[str, ArrayHeader]) -> str | None:
    """Path of the array that a file is a chunk of, if any."""
    parts = name.split("/")
    for n in range(len(parts)):
        path = "/".join(parts[:n])
        if path in arrays and arrays[path].has_chunk("/".join(parts[n:])):
            return path
    return None


def _object(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ArrayError("bad_header", "has other than an object where attributes belong", where)
    return value
