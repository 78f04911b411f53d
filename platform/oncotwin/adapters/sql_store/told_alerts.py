"""Alerts as readers were shown them: each line's only while its model version was believed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, Row, select

from oncotwin.adapters.sql_store import records, schema
from oncotwin.ports.twin_rows import AlertRow


@dataclass(frozen=True, slots=True)
class _Reign:
    """Commit positions from which and up to which (not included) a version was believed, and what came after it."""

    begin: int
    end: float
    successor: str


def told(connection: Connection, rows: Sequence[Row[Any]], position: int) -> list[AlertRow]:
    """Alerts that were in force at some moment up to a commit position, with what explained them away.

    An alert of a version that is believed no more, and that the champion's line does not have, was explained away by
    the promotion: ``superseded_by`` names the version.

    Args:
        rows: of the table of alerts, each with ``stands``: whether nothing had superseded it by then.
    """
    reigns = _reigns(connection, position)
    champion = next((name for name, found in reigns.items() if found[-1].end == math.inf), "")
    standing = {row.alert_id for row in rows if row.stands and row.model_version in ("", champion)}
    shown: list[AlertRow] = []
    left: dict[str, tuple[float, AlertRow]] = {}
    for row in rows:
        alert = replace(records.alert_row(row), superseded_by="") if row.stands else records.alert_row(row)
        if row.model_version == "":
            shown.append(alert)
            continue
        ended = math.inf if row.stands else row.superseded_at
        reign = next(
            (
                one
                for one in reversed(reigns.get(row.model_version, ()))
                if row.position < one.end and ended > one.begin
            ),
            None,
        )
        if reign is None:
            continue
        if reign.end == math.inf or ended < reign.end:
            shown.append(alert)
        elif row.alert_id not in standing and reign.end > left.get(row.alert_id, (0.0, alert))[0]:
            left[row.alert_id] = reign.end, replace(alert, superseded_by=f"model {reign.successor}")
    shown += [alert for _, alert in left.values()]
    return sorted(shown, key=lambda alert: (alert.time, alert.twin_id, alert.alert_id))


def _reigns(connection: Connection, position: int) -> dict[str, list[_Reign]]:
    """When each version was believed, up to a commit position."""
    table = schema.champions.c
    query = select(table.position, table.model_version).where(table.position <= position).order_by(table.position)
    rows = connection.execute(query).all()
    found: dict[str, list[_Reign]] = {}
    for number, row in enumerate(rows):
        last = number == len(rows) - 1
        end, successor = (math.inf, "") if last else (rows[number + 1].position, rows[number + 1].model_version)
        found.setdefault(row.model_version, []).append(_Reign(row.position, end, successor))
    return found
