"""Patient-derived xenografts: a folder with `volumes.csv`, `models.csv` and, if there is one, `drugs.csv`.

The patient is the mouse (`model.id`), the lesion the tumour that it carries (`patient.id`), so that folds can
be made by tumour. See docs/data.md for every oddity.
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from oncotwin.adapters.tables.reading import CellError, Report, RowProblem, event, find, on_day, rows
from oncotwin.domain.envelope import Event
from oncotwin.domain.errors import TableError
from oncotwin.domain.units import VOLUME

INSTITUTION = "pdxe"
TABLE = "volumes"
WEIGHT_CODE = "29463-7"
MODALITY = "caliper"


def read(path: Path, report: Report) -> Iterator[Event]:
    """Yield the events of a folder, not yet in order.

    Args:
        path: the folder.
        report: told of each row or cell that cannot be read.
    Raises:
        TableError: `volumes.csv` or `models.csv` is missing, or a needed column.
    """
    if not path.is_dir():
        raise TableError(f"{path}: give the folder that holds volumes.csv and models.csv")
    table = find(path, "volumes.csv")
    mice = _mice(find(path, "models.csv"), report)
    names = _drug_names(path)
    volumes: dict[tuple[str, int], dict[float, int]] = defaultdict(dict)
    weights: dict[tuple[str, int], dict[float, int]] = defaultdict(dict)
    drugs: dict[str, tuple[str, int]] = {}
    for row in rows(table, ("model.id", "time", "volume")):
        try:
            mouse, day = row.pseudonym("model.id"), row.day("time")
            if mouse not in mice:
                raise CellError(f"mouse {mouse!r} is not in models.csv")
            drug = row.text("drug") or mice[mouse]["drug"]
            if drug and drugs.setdefault(mouse, (drug, row.line))[0] != drug:
                report(RowProblem(table.name, row.line, f"drug {drug} after {drugs[mouse][0]}; kept the first"))
        except CellError as error:
            report(RowProblem(table.name, row.line, str(error)))
            continue
        for column, values in (("volume", volumes), ("body.weight", weights)):
            try:
                value = row.number(column)
                if value is not None:
                    values[mouse, day].setdefault(value, row.line)
            except CellError as error:
                report(RowProblem(table.name, row.line, str(error)))
    sendings = [
        (
            "lesion.measured", mouse, f"volume/d{day}/{number}", day, line,
            {"lesion": mice[mouse]["tumour"], "kind": VOLUME, "value": value, "unit": "mm3", "modality": MODALITY}
            | ({"tissue": mice[mouse]["tissue"]} if mice[mouse]["tissue"] else {}),
        )
        for (mouse, day), found in volumes.items()
        for number, (value, line) in enumerate(sorted(found.items()))
    ]  # fmt: skip
    sendings += [
        ("lab.result", mouse, f"body_weight/d{day}/{number}", day, line,
         {"code": WEIGHT_CODE, "value": value, "unit": "g"})
        for (mouse, day), found in weights.items()
        for number, (value, line) in enumerate(sorted(found.items()))
    ]  # fmt: skip
    sendings += [
        ("treatment.administered", mouse, "treatment/d0/on", 0, line,
         {"agent": names.get(drug, drug), "action": "on", "line_of_therapy": 1})
        for mouse, (drug, line) in drugs.items()
    ]  # fmt: skip
    for kind, mouse, name, day, line, data in sendings:
        try:
            yield event(kind, INSTITUTION, TABLE, mouse, name, on_day(day), data)
        except CellError as error:
            report(RowProblem(table.name, line, str(error)))


def _mice(table: Path, report: Report) -> dict[str, dict[str, str]]:
    """Return mouse -> its tumour, tissue ("" where not said) and drug ("" where not said)."""
    mice: dict[str, dict[str, str]] = {}
    for row in rows(table, ("model.id", "patient.id")):
        try:
            mice[row.needed("model.id")] = {
                "tumour": row.needed("patient.id"),
                "tissue": row.text("tissue"),
                "drug": row.text("drug"),
            }
        except CellError as error:
            report(RowProblem(table.name, row.line, str(error)))
    return mice


def _drug_names(folder: Path) -> dict[str, str]:
    """Return drug id -> standard name; empty where the folder has no drugs.csv."""
    try:
        table = find(folder, "drugs.csv")
    except TableError:
        return {}
    return {
        row.text("drug.id"): row.text("standard.name")
        for row in rows(table, ("drug.id", "standard.name"))
        if row.text("drug.id") and row.text("standard.name")
    }
