"""Claim checks: what an event says of an array that stays in its store, and the hash that binds a folder's files.

A folder's hash is the SHA-256 of its manifest: one line `PATH<tab>BYTES<tab>SHA-256<newline>` for each file, the paths
relative, with `/`, in UTF-8, sorted by their bytes. Empty folders do not count. `sha256sum` and `sort` can make it, so
a sender needs no program of ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from urllib.parse import unquote, urlsplit

from oncotwin.domain.errors import EventError

MAX_PATH_BYTES = 1_024
"""Of a reference below its store, and of a file's path below its folder."""

MAX_SEGMENTS = 32

_HEX = re.compile(r"[0-9a-f]{64}")


class ArrayError(EventError):
    """An array, section or slide cannot be read safely, or is not what was claimed; it ends as a rejection."""


@dataclass(frozen=True, slots=True)
class ClaimCheck:
    """Reference, hash and size of an array, as an event carries them."""

    reference: str
    """URI below one of the allowed stores."""
    sha256: str
    """Of the file's bytes, or of the folder's manifest (hexadecimal, small letters)."""
    n_bytes: int
    """Of the file, or of all files of the folder together."""

    def __post_init__(self) -> None:
        """Refuse what cannot be a claim."""
        if not _HEX.fullmatch(self.sha256):
            raise ArrayError("bad_datahash", "datahash is no SHA-256", "datahash", "send 64 hexadecimal digits")
        if self.n_bytes < 0:
            raise ArrayError("bad_datasize", f"datasize {self.n_bytes} is negative", "datasize", "send its bytes")


@dataclass(frozen=True, slots=True)
class ManifestEntry:
    """One file of a folder."""

    path: str
    """Relative to the folder."""
    n_bytes: int
    sha256: str


def segments_below(reference: str, store: str) -> tuple[str, ...] | None:
    """Path segments of a reference below a store.

    Args:
        reference: URI as the event names it.
        store: URI of an allowed store; scheme and authority must be the same to the letter.
    Returns:
        The decoded segments, at least one; None if the reference does not lie below the store.
    Raises:
        ArrayError: it does, by a path that no honest sender writes (`..`, empty segments, control characters, ...).
    """
    try:
        there, allowed = urlsplit(reference), urlsplit(store)
    except ValueError:
        return None
    if (there.scheme, there.netloc) != (allowed.scheme, allowed.netloc):
        return None
    if there.query or there.fragment:
        raise _bad_path(reference, "has a query or a fragment")
    path, root = unquote(there.path), unquote(allowed.path).rstrip("/") + "/"
    if not path.startswith(root):
        return None
    # A second decoding somewhere further on must not make another path of it.
    if "%" in path:
        raise _bad_path(reference, "is encoded twice")
    below = path[len(root) :].rstrip("/")
    return check_path(below, reference)


def check_path(path: str, where: str) -> tuple[str, ...]:
    """Segments of a relative path, once it is sure that they lead nowhere but down.

    Raises:
        ArrayError: empty, too long or too deep; a segment is empty, `.` or `..`; it holds a backslash or a control
            character.
    """
    segments = tuple(path.split("/"))
    if not path or len(path.encode(errors="surrogateescape")) > MAX_PATH_BYTES or len(segments) > MAX_SEGMENTS:
        raise _bad_path(where, f"is empty, longer than {MAX_PATH_BYTES} bytes or deeper than {MAX_SEGMENTS} folders")
    for segment in segments:
        if segment in ("", ".", ".."):
            raise _bad_path(where, f"has a segment '{segment}'")
        if "\\" in segment or not segment.isprintable():
            raise _bad_path(where, "has a backslash or a character that cannot be shown")
    return segments


def manifest_bytes(entries: Iterable[ManifestEntry]) -> bytes:
    """Text of a folder's manifest, in the one order it has whatever the order of the entries.

    Raises:
        ArrayError: a path occurs twice, or is none that `check_path` lets through.
    """
    lines: dict[bytes, bytes] = {}
    for entry in entries:
        check_path(entry.path, entry.path)
        name = entry.path.encode()
        if name in lines:
            raise ArrayError("duplicate_path", "the manifest names a path twice", entry.path, "name each file once")
        lines[name] = b"%b\t%d\t%b\n" % (name, entry.n_bytes, entry.sha256.encode())
    return b"".join(lines[name] for name in sorted(lines))


def manifest_hash(entries: Iterable[ManifestEntry]) -> str:
    """SHA-256 (hexadecimal) of a folder's manifest."""
    return sha256(manifest_bytes(entries)).hexdigest()


def check_claim(claim: ClaimCheck, sha256_found: str, n_bytes_found: int) -> None:
    """Compare what was read with what was claimed.

    Raises:
        ArrayError: `size_mismatch` or `hash_mismatch`.
    """
    where, remedy = claim.reference, "send the claim of the array as it lies in the store, and leave it unchanged there"
    if n_bytes_found != claim.n_bytes:
        raise ArrayError(
            "size_mismatch", f"the store holds {n_bytes_found} bytes, datasize says {claim.n_bytes}", where, remedy
        )
    if sha256_found != claim.sha256:
        raise ArrayError("hash_mismatch", "the bytes in the store have another SHA-256 than datahash", where, remedy)


def _bad_path(where: str, what: str) -> ArrayError:
    shown = where[:200].encode("unicode_escape").decode()
    return ArrayError("bad_path", f"the path {what}", shown, "send a plain path below an allowed store")
