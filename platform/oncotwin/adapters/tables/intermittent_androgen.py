"""Men under intermittent androgen suppression: `psa.csv` with one row for each visit.

Columns: patient, date, psa (ng/mL), testosterone (nmol/L), cpa_mg, leuprolide, cycle, on_treatment; further
columns are not read. See docs/data.md for every oddity.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from oncotwin.adapters.tables.reading import CellError, Report, Row, RowProblem, event, find, read_number, rows
from oncotwin.domain.envelope import Event

INSTITUTION = "bruchovsky"
TABLE = "psa"
REGIMEN = "androgen_suppression"

PSA_CODE = "2857-1"
TESTOSTERONE_CODE = "14913-8"

_DATE = re.compile(r"(\d{4})[/-](\d{1,2})[/-](\d{1,2})(?:[ T].*)?")
_TEXT_DOSE = re.compile(r"([A-Za-z][A-Za-z -]*?)\s*(\d+(?:\.\d+)?)?\s*(?:mg)?", re.IGNORECASE)

_AGENTS = {
    "flu": "flutamide", "flutamide": "flutamide", "nil": "nilutamide", "nilutamide": "nilutamide",
    "casodex": "bicalutamide", "bicalutamide": "bicalutamide", "zoladex": "goserelin", "goserelin": "goserelin",
    "lupron": "leuprolide", "leuprolide": "leuprolide", "cpa": "cyproterone_acetate",
}  # fmt: skip
"""Names written into a dose column instead of a number."""

_ON_OFF = {"on": True, "true": True, "yes": True, "off": False, "false": False, "no": False}

_MARKERS = (("psa", PSA_CODE, "ng/mL"), ("testosterone", TESTOSTERONE_CODE, "nmol/L"))
_DOSES = (("cpa_mg", "cyproterone_acetate", "oral"), ("leuprolide", "leuprolide", "depot"))


def read(path: Path, report: Report) -> Iterator[Event]:
    """Yield the events of a table, not yet in order.

    Args:
        path: `psa.csv`, or a folder that holds it.
        report: told of each row or cell that cannot be read.
    Raises:
        TableError: no such file, or a needed column is missing.
    """
    table = find(path, "psa.csv")
    men: dict[str, list[tuple[datetime, float, int, Row]]] = defaultdict(list)
    for row in rows(table, ("patient", "psa", "date|day_abs")):
        try:
            men[row.pseudonym("patient")].append((_date(row), _cycle(row), row.line, row))
        except CellError as error:
            report(RowProblem(table.name, row.line, str(error)))
    for man, visits in men.items():
        # By date, not by row: two men's rows have a later cycle before the first.
        visits.sort(key=lambda visit: visit[:3])
        yield from _events_of(man, visits, table.name, report)


def _events_of(man: str, visits: list[tuple[datetime, float, int, Row]], file: str, report: Report) -> Iterator[Event]:
    markers: dict[tuple[str, str, datetime], dict[tuple[tuple[str, Any], ...], int]] = defaultdict(dict)
    doses: dict[tuple[str, datetime], dict[tuple[tuple[str, Any], ...], int]] = defaultdict(dict)
    switches: dict[datetime, tuple[str, int]] = {}
    before = False
    on = False
    today: datetime | None = None
    for date, _, line, row in visits:
        if date != today:
            before, today = on, date
        try:
            state = _on(row)
            if state is not None:
                on = state
                # The last row of a day says how the day ended.
                switches.pop(date, None)
                if on != before:
                    switches[date] = ("on" if on else "off", line)
        except CellError as error:
            report(RowProblem(file, line, str(error)))
        for column, code, unit in _MARKERS:
            try:
                result = _result(row, column)
            except CellError as error:
                report(RowProblem(file, line, str(error)))
                continue
            if result is not None:
                data = {"code": code, "unit": unit, **result}
                markers[column, unit, date].setdefault(tuple(sorted(data.items())), line)
        for column, agent, route in _DOSES:
            dose = _dose(row.text(column), agent)
            if dose is not None:
                doses[column, date].setdefault(tuple(sorted({"route": route, **dose}.items())), line)
    sendings = [
        ("lab.result", f"{column}/{date:%Y-%m-%d}/{number}", date, dict(data), line)
        for (column, _, date), results in markers.items()
        for number, (data, line) in enumerate(sorted(results.items(), key=repr))
    ]
    sendings += [
        ("treatment.administered", f"treatment/{date:%Y-%m-%d}/{column}/{number}", date, dict(data), line)
        for (column, date), given in doses.items()
        for number, (data, line) in enumerate(sorted(given.items(), key=repr))
    ]
    sendings += [
        (
            "treatment.administered", f"treatment/{date:%Y-%m-%d}/{action}", date,
            {"agent": REGIMEN, "action": action}, line,
        )
        for date, (action, line) in switches.items()
    ]  # fmt: skip
    for kind, name, date, data, line in sendings:
        try:
            yield event(kind, INSTITUTION, TABLE, man, name, date, data)
        except CellError as error:
            report(RowProblem(file, line, str(error)))


def _date(row: Row) -> datetime:
    """Return the day of a visit: `date`, or where the file has none `day_abs`, days since 1970.

    Raises:
        CellError: neither is a day.
    """
    written = row.text("date")
    if not written:
        return datetime.fromtimestamp(row.day("day_abs") * 86_400, UTC)
    matched = _DATE.fullmatch(written)
    try:
        if matched is None:
            raise ValueError
        return datetime(int(matched[1]), int(matched[2]), int(matched[3]), tzinfo=UTC)
    except ValueError:
        raise CellError(f"date {written!r} is no date; write year/month/day") from None


def _on(row: Row) -> bool | None:
    """Return whether the man was on treatment, None where the row does not say.

    Raises:
        CellError: it says neither.
    """
    said = row.text("on_treatment").lower()
    if said in _ON_OFF:
        return _ON_OFF[said]
    state = row.number("on_treatment")
    return None if state is None else state != 0


def _cycle(row: Row) -> float:
    try:
        return row.number("cycle") or 0.0
    except CellError:
        return 0.0


def _result(row: Row, column: str) -> dict[str, Any] | None:
    """Return value and censoring of a marker, None where it was not measured.

    Raises:
        CellError: the cell holds neither a number nor a bound.
    """
    cell = row.text(column)
    if not cell:
        return None
    if cell[0] in "<>":
        return {"value": read_number(cell[1:].strip(), column), "censoring": cell[0]}
    return {"value": read_number(cell, column)}


def _dose(cell: str, agent: str) -> dict[str, Any] | None:
    """Return what a dose cell says, None where nothing was given; free text is kept as a note."""
    if not cell:
        return None
    try:
        amount = read_number(cell, "dose")
        return {"agent": agent, "dose": amount, "unit": "mg"} if amount != 0 else None
    except CellError:
        pass
    matched = _TEXT_DOSE.fullmatch(cell)
    named = (matched[1] if matched else re.split(r"[^A-Za-z]", cell, maxsplit=1)[0]).strip().lower()
    said: dict[str, Any] = {"agent": _AGENTS.get(named, named or "unknown"), "note": cell}
    # A number is taken as the drug's dose only where the drug is known and the text says nothing else.
    if matched is not None and matched[2] and named in _AGENTS and float(matched[2]) > 0:
        said.update(dose=float(matched[2]), unit="mg")
    return said
