"""Reading a table by rows: columns by name, cells as text, problems with the row's number."""

import csv
import gzip
import math
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from oncotwin.domain.envelope import Event
from oncotwin.domain.errors import TableError
from oncotwin.domain.ids import is_name
from oncotwin.domain.payloads import event_type

ANCHOR = datetime(2000, 1, 1, tzinfo=UTC)
"""Day 0 of tables that count days from the start of treatment and give no date."""

_GZIP = b"\x1f\x8b"
_MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "."})


@dataclass(frozen=True, slots=True)
class RowProblem:
    """A row, or a cell of it, that could not be turned into an event."""

    file: str
    line: int
    """1-based line of the file where the row ends."""
    reason: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.reason}"


Report = Callable[[RowProblem], None]


class CellError(ValueError):
    """A cell does not hold what its column should."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table."""

    line: int
    cells: Mapping[str, str]

    def text(self, column: str) -> str:
        """Return the stripped cell, "" where it is missing, blank or written as NA."""
        cell = self.cells.get(column) or ""
        cell = cell.strip()
        return "" if cell.lower() in _MISSING else cell

    def needed(self, column: str) -> str:
        """Return the cell.

        Raises:
            CellError: it is blank.
        """
        cell = self.text(column)
        if not cell:
            raise CellError(f"no {column}")
        return cell

    def number(self, column: str) -> float | None:
        """Return the cell as a finite number, None where it is blank.

        Raises:
            CellError: it holds something else.
        """
        cell = self.text(column)
        return read_number(cell, column) if cell else None

    def pseudonym(self, column: str) -> str:
        """Return the cell as a patient's pseudonym, as it stands.

        Raises:
            CellError: blank, or no pseudonym: to make one of it here could make one patient of two.
        """
        cell = self.needed(column)
        if not is_name(cell):
            raise CellError(
                f"{column} {cell!r} is no pseudonym; rename it to 1 to 64 of the characters A-Z a-z 0-9 . _ -"
            )
        return cell

    def day(self, column: str) -> int:
        """Return the cell as a whole day; a fraction of a day is cut towards the day's start.

        Raises:
            CellError: blank, no number, or beyond 200 years.
        """
        number = read_number(self.needed(column), column)
        if abs(number) > 73_000:
            raise CellError(f"{column} {number:g} is not within 200 years of the start")
        return math.floor(number)


def institution_name(written: str) -> str:
    """Return an institution for a trial's name: characters that an institution may not have become one hyphen.

    Raises:
        CellError: nothing of the name is left, or more than 64 characters.
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", written).strip("-")
    if not is_name(name):
        raise CellError(f"{written!r} cannot name an institution; use 1 to 64 of the characters A-Z a-z 0-9 . _ -")
    return name


def read_number(cell: str, column: str) -> float:
    """Return a finite number.

    Raises:
        CellError: the text is no number, or not a finite one.
    """
    try:
        number = float(cell)
    except ValueError:
        raise CellError(f"{column} {cell!r} is no number") from None
    if not math.isfinite(number):
        raise CellError(f"{column} {cell!r} is not finite")
    return number


def rows(path: Path, needed: Iterable[str]) -> Iterator[Row]:
    """Yield the rows of a CSV file (plain or gzip), whatever further columns it has.

    Args:
        needed: columns without which nothing can be read; "a|b" where either will do.
    Raises:
        TableError: no file, no header, no rows, a needed column is missing, or not UTF-8.
    """
    if not path.is_file():
        raise TableError(f"{path}: no such file; give the table's file or the folder that holds it")
    try:
        with path.open("rb") as start:
            opened: Any = gzip.open if start.read(len(_GZIP)) == _GZIP else open
        with opened(path, "rt", encoding="utf-8-sig", newline="") as lines:
            table = csv.DictReader(lines)
            header = [name.strip() for name in table.fieldnames or ()]
            missing = [" or ".join(names.split("|")) for names in needed if not {*names.split("|")} & {*header}]
            if missing:
                raise TableError(
                    f"{path.name}: no column {', '.join(missing)} among {', '.join(header) or 'none'}; "
                    "columns are separated by commas, see docs/data.md for the layout"
                )
            table.fieldnames = header
            empty = True
            for cells in table:
                if any(isinstance(cell, str) and cell.strip() for cell in cells.values()):
                    empty = False
                    yield Row(table.line_num, cells)
            if empty:
                raise TableError(f"{path.name}: has a header and no rows; export it again")
    except (UnicodeDecodeError, csv.Error, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise TableError(f"{path.name}: not a CSV table in UTF-8 ({error}); export it again") from error


def find(path: Path, *names: str) -> Path:
    """Return the table itself, or the first of `names` (plain or .gz) in a folder.

    Raises:
        TableError: the folder holds none of them.
    """
    if not path.is_dir():
        return path
    for name in names:
        for candidate in (path / name, path / f"{name}.gz"):
            if candidate.is_file():
                return candidate
    raise TableError(f"{path}: holds no {' or '.join(names)}; give the folder or the file of the table")


def on_day(day: int) -> datetime:
    """Return the start of a day counted from `ANCHOR`."""
    return ANCHOR + timedelta(days=day)


def event(
    kind: str, institution: str, table: str, patient: str, name: str, time: datetime, data: dict[str, Any]
) -> Event:
    """Build one event known to the day; what the table's text makes of it is for validation to judge.

    Args:
        kind: of the catalogue.
        institution: the trial.
        table: feed of the institution; `source` is ``urn:oncotwin:<institution>:<table>``.
        patient: as in the table.
        name: what tells the events of one patient apart, not depending on the row's number.
        time: start of the day.
        data: the payload.
    Raises:
        CellError: it cannot be written as an event, e.g. a patient with a slash in the name.
    """
    try:
        return Event.model_validate(
            {
                "specversion": "1.0",
                "id": f"{patient}/{name}",
                "source": f"urn:oncotwin:{institution}:{table}",
                "type": event_type(kind),
                "subject": f"{institution}/{patient}",
                "time": time,
                "timeprecision": "day",
                "recordedtime": time,
                "data": data,
            }
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        what = ".".join(str(part) for part in first["loc"]) or "row"
        raise CellError(f"{what}: {first['msg']}") from None


def in_order(events: Iterable[Event]) -> list[Event]:
    """Sort by clinical time, then source and id: the order of the journal."""
    return sorted(events, key=lambda item: (item.time, item.source, item.id))
