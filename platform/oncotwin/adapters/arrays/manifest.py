"""Folders read without following a link: each file is opened segment by segment below an open folder.

`O_NOFOLLOW` on every segment holds even while somebody exchanges folders for links under us, which a check of the
resolved path beforehand does not.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from oncotwin.domain.claim import ArrayError, ManifestEntry, check_path

BLOCK_BYTES = 1 << 20
"""Read at a time: what hashing holds in memory."""

MAX_FILES = 1_000_000
"""In one folder; shards keep honest arrays far below."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# A pipe that nobody writes to must not hold us up: without O_NONBLOCK its opening would wait.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@contextmanager
def open_below(root: Path, segments: Sequence[str]) -> Iterator[int]:
    """Open a file or folder below a root, through no link.

    Args:
        root: may itself be reached through links: whoever configured it meant it.
        segments: as `check_path` returns them.
    Yields:
        A descriptor, closed afterwards.
    Raises:
        ArrayError: it is not there, lies behind a link, or is neither a plain file nor a folder.
    """
    here = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for at, segment in enumerate(segments):
            where = "/".join(segments[: at + 1])
            below = _open_one(here, segment, where, last=at == len(segments) - 1)
            os.close(here)
            here = below
        yield here
    finally:
        os.close(here)


def _open_one(folder: int, name: str, where: str, *, last: bool) -> int:
    try:
        opened = os.open(name, _FILE if last else _FOLDER, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK) or _is_link(folder, name):
            raise ArrayError("link", "is a link", where, "put the files themselves into the store") from None
        raise ArrayError("not_found", f"cannot be opened: {error.strerror}", where, "put it into the store") from None
    mode = os.fstat(opened).st_mode
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return opened
    os.close(opened)
    raise ArrayError("not_a_file", "is neither a plain file nor a folder", where, "put plain files into the store")


def _is_link(folder: int, name: str) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except OSError:
        return False


def files_below(folder: int, prefix: str = "", max_files: int = MAX_FILES) -> Iterator[tuple[str, int]]:
    """Walk a folder in the order of names.

    Args:
        folder: descriptor, as `open_below` yields it.
        prefix: put before every path.
        max_files: bound on entries of all kinds.
    Yields:
        (path relative to the folder, open descriptor of the file, closed when the next is asked for).
    Raises:
        ArrayError: a link, a special file, an unprintable name, or more entries than `max_files`.
    """
    count = 0

    def walk(here: int, above: str) -> Iterator[tuple[str, int]]:
        nonlocal count
        # A folder of a hundred million names must be noticed before they are sorted.
        names: list[str] = []
        with os.scandir(here) as entries:
            for entry in entries:
                count += 1
                if count > max_files:
                    raise ArrayError(
                        "too_many_files", f"holds more than {max_files} files", above, "write larger chunks, or shards"
                    )
                names.append(entry.name)
        for name in sorted(names, key=os.fsencode):
            path = f"{above}{name}"
            check_path(path, path)
            opened = _open_one(here, name, path, last=True)
            try:
                if stat.S_ISDIR(os.fstat(opened).st_mode):
                    yield from walk(opened, f"{path}/")
                else:
                    yield path, opened
            finally:
                os.close(opened)

    yield from walk(folder, prefix)


def read_blocks(file: int, max_bytes: int, where: str) -> Iterator[bytes]:
    """Read a file block by block.

    Raises:
        ArrayError: it is longer than `max_bytes`; the reading ends there, however long it is.
    """
    n_read = 0
    while block := os.read(file, BLOCK_BYTES):
        n_read += len(block)
        if n_read > max_bytes:
            raise ArrayError("too_large", f"holds more than {max_bytes} bytes", where, "send what was claimed")
        yield block


def read_manifest(folder: Path, max_bytes: int = 1 << 50) -> list[ManifestEntry]:
    """Hash every file of a folder; the entries are in the order of the walk.

    Raises:
        ArrayError: see `files_below`; or the files hold more than `max_bytes` together.
    """
    with open_below(folder, ()) as opened:
        entries, left = [], max_bytes
        for path, file in files_below(opened):
            digest, n_bytes = sha256(), 0
            for block in read_blocks(file, left, path):
                digest.update(block)
                n_bytes += len(block)
            left -= n_bytes
            entries.append(ManifestEntry(path, n_bytes, digest.hexdigest()))
    return entries
