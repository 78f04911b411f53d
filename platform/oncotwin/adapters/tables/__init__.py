"""Converters of published tables into events: one module for each layout, one function to call them."""

from collections.abc import Callable, Iterator
from pathlib import Path

from oncotwin.adapters.tables import atezolizumab, intermittent_androgen, pdx
from oncotwin.adapters.tables.reading import Report, RowProblem, in_order
from oncotwin.domain.envelope import Event
from oncotwin.domain.errors import ConfigurationError, TableError

__all__ = ["KINDS", "RowProblem", "convert"]

_READERS: dict[str, Callable[[Path, Report], Iterator[Event]]] = {
    "atezolizumab": atezolizumab.read,
    "intermittent-androgen": intermittent_androgen.read,
    "pdx": pdx.read,
}

KINDS = tuple(_READERS)
"""Layouts that can be converted."""


def convert(kind: str, path: str | Path, report: Report | None = None) -> Iterator[Event]:
    """Turn a table into events in the order of the journal: clinical time, source, id.

    What a row says is not judged here: a negative size becomes an event that validation rejects, keeps and
    lists. Only a row that makes no event at all (no patient, no day, a value that is no number) is a problem.

    Args:
        kind: one of `KINDS`.
        path: the table's file, or the folder that holds it.
        report: called with each row or cell that cannot be read; conversion goes on. Without it the first
            problem raises, so that no row is ever lost in silence.
    Returns:
        Events with ids that depend on patient, day and content, never on the row's number: converting a part
        of a table again gives the same ids.
    Raises:
        ConfigurationError: the kind is unknown.
        TableError: a file or a needed column is missing, no row can be read, or (without `report`) any cannot.
    """
    reader = _READERS.get(kind)
    if reader is None:
        raise ConfigurationError(f"no converter for {kind!r}; choose one of {', '.join(KINDS)}")
    problems: list[RowProblem] = []

    def noted(problem: RowProblem) -> None:
        if report is None:
            raise TableError(f"{problem}; mend the row, or take it out")
        problems.append(problem)
        report(problem)

    events = in_order(reader(Path(path), noted))
    if not events and problems:
        raise TableError(f"no row of {path} can be read; the first: {problems[0]}")
    return iter(events)
