"""Fetching what a claim check names: from an allowed store, into a folder of ours, hashed as it is read.

The copy is what is used afterwards: bytes that were hashed in the store and read there again later may have changed in
between. A store is `file:///folder` or an address that fsspec reads without the web's redirects (`s3://bucket/...`).
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import fsspec  # type: ignore[import-untyped]

from oncotwin.adapters.arrays.manifest import BLOCK_BYTES, MAX_FILES, files_below, open_below, read_blocks
from oncotwin.domain.claim import (
    ArrayError,
    ClaimCheck,
    ManifestEntry,
    check_claim,
    check_path,
    manifest_hash,
    segments_below,
)
from oncotwin.domain.errors import ConfigurationError

OBJECT_STORES = frozenset({"s3", "gs", "gcs", "az", "abfs", "memory"})
"""Schemes left to fsspec. The web's own are not among them: a web server may redirect to anywhere."""

MAX_CLAIM_BYTES = 1 << 42
"""4 TiB: a claim beyond is refused unread."""


@dataclass(frozen=True, slots=True)
class ArrayStores:
    """The allow-list."""

    stores: tuple[str, ...]
    """Addresses, such as ``file:///srv/arrays`` or ``s3://sections``."""
    max_bytes: int = MAX_CLAIM_BYTES
    """Largest claim that is fetched."""

    def __post_init__(self) -> None:
        """Refuse a store that cannot be held to the rules."""
        for store in self.stores:
            address = urlsplit(store)
            local = address.scheme == "file" and not address.netloc and address.path.startswith("/")
            if not local and not (address.scheme in OBJECT_STORES and address.netloc):
                raise ConfigurationError(
                    f"array store '{store}' is neither file:///FOLDER nor one of {', '.join(sorted(OBJECT_STORES))}"
                )

    def locate(self, reference: str) -> tuple[str, tuple[str, ...]]:
        """Store that holds a reference, and its path segments there.

        Raises:
            ArrayError: `dataref_not_allowed` or `bad_path`.
        """
        for store in self.stores:
            segments = segments_below(reference, store)
            if segments is not None:
                return store, segments
        raise ArrayError(
            "dataref_not_allowed",
            f"dataref '{reference[:200]}' is in none of the allowed array stores",
            "dataref",
            "put the array in an allowed store, or have the store added to the settings",
        )


def fetch(claim: ClaimCheck, stores: ArrayStores, into: Path) -> Path:
    """Copy a claimed file or folder, and hand it out only if it is what was claimed.

    Args:
        claim: as the event carries it.
        stores: the allow-list.
        into: a folder of ours, made if need be.
    Returns:
        Path of the copy, named as in the store. Memory: one block of 1 MiB, whatever the size.
    Raises:
        ArrayError: not allowed, not there, behind a link, larger than claimed, or with another hash. Nothing of it
            is left behind then.
    """
    if claim.n_bytes > stores.max_bytes:
        raise ArrayError(
            "too_large", f"datasize {claim.n_bytes} is beyond the limit of {stores.max_bytes} bytes", "datasize"
        )
    store, segments = stores.locate(claim.reference)
    into.mkdir(parents=True, exist_ok=True)
    target = into / segments[-1]
    if target.exists():
        raise ArrayError("exists", "is there already", target.name, "fetch into an empty folder")
    try:
        found, n_bytes = _copy(store, segments, target, claim.n_bytes)
        check_claim(claim, found, n_bytes)
    except BaseException:
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)
        raise
    return target


def _copy(store: str, segments: Sequence[str], target: Path, max_bytes: int) -> tuple[str, int]:
    """Copy one file or one folder; return its hash and its size."""
    address = urlsplit(store)
    if address.scheme == "file":
        with open_below(Path(unquote(address.path)), segments) as opened:
            if stat.S_ISREG(os.fstat(opened).st_mode):
                only = _write(target, read_blocks(opened, max_bytes, segments[-1]))
                return only.sha256, only.n_bytes
            return _copy_all(
                (
                    (path, lambda left, file=file, path=path: read_blocks(file, left, path))
                    for path, file in files_below(opened)
                ),
                target,
                max_bytes,
            )
    files = fsspec.filesystem(address.scheme)
    path = "/".join((address.netloc, *filter(None, address.path.split("/")), *segments))
    if files.isfile(path):
        only = _write(target, _object_blocks(files, path, max_bytes))
        return only.sha256, only.n_bytes
    return _copy_all(
        (
            (name, lambda left, name=name: _object_blocks(files, f"{path}/{name}", left))
            for name in _object_names(files, path)
        ),
        target,
        max_bytes,
    )


def _copy_all(files: Iterable[tuple[str, Any]], target: Path, max_bytes: int) -> tuple[str, int]:
    """Copy the files of a folder; each comes with a function of the bytes that are left to read."""
    target.mkdir()
    entries, left = [], max_bytes
    for name, blocks in files:
        place = target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        entry = _write(place, blocks(left))
        left -= entry.n_bytes
        entries.append(ManifestEntry(name, entry.n_bytes, entry.sha256))
    return manifest_hash(entries), max_bytes - left


def _write(place: Path, blocks: Iterator[bytes]) -> ManifestEntry:
    """Write blocks to a new file and hash them on the way."""
    digest, n_bytes = sha256(), 0
    with place.open("xb") as out:
        for block in blocks:
            digest.update(block)
            out.write(block)
            n_bytes += len(block)
    return ManifestEntry(place.name, n_bytes, digest.hexdigest())


def _object_names(files: Any, path: str) -> list[str]:
    """Names of the objects below a prefix, relative to it, sorted."""
    found = files.find(path)
    if not found:
        raise ArrayError("not_found", "is not in the store", path, "put it into the store")
    if len(found) > MAX_FILES:
        raise ArrayError("too_many_files", f"holds more than {MAX_FILES} files", path, "write larger chunks, or shards")
    names = [name.lstrip("/").removeprefix(path.rstrip("/") + "/") for name in found]
    for name in names:
        # An object's name is any text: `a/../../b` is one, and must not become a path of ours.
        check_path(name, name)
    return sorted(names)


def _object_blocks(files: Any, path: str, max_bytes: int) -> Iterator[bytes]:
    """Read an object block by block, up to a bound."""
    n_read = 0
    with files.open(path, "rb") as opened:
        while block := opened.read(BLOCK_BYTES):
            n_read += len(block)
            if n_read > max_bytes:
                raise ArrayError("too_large", f"holds more than {max_bytes} bytes", path, "send what was claimed")
            yield block
