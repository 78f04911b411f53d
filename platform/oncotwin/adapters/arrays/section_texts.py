"""Text files of sections read within bounds: decompressed size, length of a line, number of fields."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from oncotwin.domain.claim import ArrayError

MAX_LINE_BYTES = 1 << 25
MAX_TEXT_BYTES = 1 << 36
"""64 GiB, decompressed."""

PIECE_BYTES = 1 << 22


@contextmanager
def open_text(path: Path) -> Iterator[BinaryIO]:
    """Open a file, decompressed if its name ends in ``.gz``; what cannot be decompressed is a rejection."""
    if not path.is_file():
        raise ArrayError("not_found", "is not there", path.name, "send the whole folder")
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        try:
            yield cast(BinaryIO, file)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ArrayError("bad_text", f"cannot be decompressed: {error}", path.name, "send the whole file") from None


def read_lines(file: BinaryIO, where: str) -> Iterator[str]:
    """Lines without their ends.

    Raises:
        ArrayError: `bad_text`: a line or the text is too long, or is not UTF-8.
    """
    n_read, number = 0, 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        n_read += len(line)
        number += 1
        if len(line) > MAX_LINE_BYTES or n_read > MAX_TEXT_BYTES:
            raise ArrayError("bad_text", f"line {number} makes it longer than any table", where, "send a table")
        try:
            yield line.decode().rstrip("\r\n")
        except UnicodeDecodeError:
            raise ArrayError("bad_text", f"line {number} is not UTF-8", where, "send a table in UTF-8") from None


def numbers(fields: str, separator: str, n: int, where: str) -> NDArray[np.float64]:
    """Read so many numbers from a line.

    Raises:
        ArrayError: `bad_text`.
    """
    parts = fields.split(separator) if fields else []
    if len(parts) != n:
        raise ArrayError("bad_text", f"has {len(parts)} fields where {n} belong", where, "mend the table")
    try:
        return np.array(parts, dtype=np.float64)
    except ValueError as error:
        raise ArrayError("bad_text", f"has a field that is no number: {str(error)[:80]}", where, "mend it") from None


def number(text: str, where: str) -> float:
    """Read one number; NaN where nothing is said.

    Raises:
        ArrayError: `bad_text`.
    """
    if text in ("", "NA", "NaN", "nan"):
        return float("nan")
    try:
        return float(text)
    except ValueError:
        raise ArrayError("bad_text", f"'{text[:40]}' is no number", where, "mend it, or leave it empty") from None


def column_of(header: Sequence[str], names: Sequence[str], what: str, where: str) -> int:
    """Place of the first of some names in a header.

    Raises:
        ArrayError: `missing_column`.
    """
    for name in names:
        if name in header:
            return list(header).index(name)
    raise ArrayError(
        "missing_column", f"has no column for {what} ({', '.join(names)})", where, "name the columns so, or rename them"
    )


def is_plain_name(name: str) -> bool:
    """Whether a column's name can be that of an array: a folder's name."""
    return 0 < len(name) <= 100 and name.isprintable() and "/" not in name and not name.startswith((".", "_"))
