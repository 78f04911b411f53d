"""Lesion diameters of trials of atezolizumab: `lesions.csv` with study, patient, arm, day, diam_mm and raw.

One target lesion a patient, days from the start of treatment. See docs/data.md for every oddity.
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from oncotwin.adapters.tables.reading import (
    CellError,
    Report,
    Row,
    RowProblem,
    event,
    find,
    institution_name,
    on_day,
    read_number,
    rows,
)
from oncotwin.domain.envelope import Event
from oncotwin.domain.units import DIAMETER, TOO_SMALL_MM

TABLE = "lesions"
LESION = "target-1"
MODALITY = "CT"

Size = tuple[tuple[str, Any], ...]


def read(path: Path, report: Report) -> Iterator[Event]:
    """Yield the events of a table, not yet in order.

    Args:
        path: `lesions.csv`, or a folder that holds it.
        report: told of each row that cannot be read.
    Raises:
        TableError: no such file, or a needed column is missing.
    """
    table = find(path, "lesions.csv")
    days: dict[tuple[str, str, int], dict[Size, int]] = defaultdict(dict)
    arms: dict[tuple[str, str], tuple[str, int]] = {}
    studies: dict[str, str] = {}
    for row in rows(table, ("study", "patient", "day", "raw|diam_mm")):
        try:
            study, patient = _institution(row.needed("study"), studies), row.pseudonym("patient")
            days[study, patient, row.day("day")].setdefault(tuple(sorted(_size(row).items())), row.line)
            arm = row.text("arm")
            if arm and arms.setdefault((study, patient), (arm, row.line))[0] != arm:
                report(
                    RowProblem(table.name, row.line, f"arm {arm} after arm {arms[study, patient][0]}; kept the first")
                )
        except CellError as error:
            report(RowProblem(table.name, row.line, str(error)))
    for (study, patient, day), sizes in days.items():
        # Two different sizes of one day are both kept; their order must not depend on the file's.
        for occurrence, (size, line) in enumerate(sorted(sizes.items(), key=lambda item: repr(item[0]))):
            data = {"lesion": LESION, "kind": DIAMETER, "modality": MODALITY, **dict(size)}
            try:
                yield event("lesion.measured", study, TABLE, patient, f"lesion/d{day}/{occurrence}", on_day(day), data)
            except CellError as error:
                report(RowProblem(table.name, line, str(error)))
    for (study, patient), (arm, line) in arms.items():
        try:
            yield event(
                "treatment.administered", study, TABLE, patient, "treatment/d0/on", on_day(0),
                {"agent": arm, "action": "on", "line_of_therapy": 1},
            )  # fmt: skip
        except CellError as error:
            report(RowProblem(table.name, line, str(error)))


def _institution(study: str, studies: dict[str, str]) -> str:
    """Return the institution of a study; `studies` holds the study of each institution met so far.

    Raises:
        CellError: no institution can be named so, or another study has the name.
    """
    name = institution_name(study)
    if studies.setdefault(name, study) != study:
        raise CellError(f"study {study!r} and study {studies[name]!r} would both be institution {name}; rename one")
    return name


def _size(row: Row) -> dict[str, Any]:
    """Return the part of the payload that says how large the lesion was.

    Raises:
        CellError: the cells say neither a size nor why there is none.
    """
    raw = row.text("raw") or row.text("diam_mm")
    said = " ".join(raw.upper().split())
    if said == "TOO SMALL TO MEASURE":
        return {"too_small": True, "limit": TOO_SMALL_MM, "unit": "mm"}
    # A visit with neither a size nor a reason: somebody looked, and nothing is known.
    if said in ("", "NOT EVALUABLE"):
        return {"not_evaluable": True}
    if said.startswith("<"):
        return {"too_small": True, "limit": read_number(said[1:].strip(), "raw"), "unit": "mm"}
    try:
        value = read_number(said, "raw")
    except CellError:
        number = row.number("diam_mm")
        if number is None:
            raise
        value = number
    return {"value": value, "unit": "mm"}
