"""Write what analysts read: estimates, innovations and live forecasts of every twin, as Parquet."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from oncotwin.adapters.parquet_history import ParquetHistory
from oncotwin.bootstrap import wiring
from oncotwin.bootstrap.settings import Settings
from oncotwin.domain.ids import split_twin_id
from oncotwin.ports.twin_store import TwinStore
from oncotwin.twin.expectation import HORIZONS_DAYS, live_forecasts
from oncotwin.twin.replay import believe
from oncotwin_flows.audit import record_reads
from oncotwin_flows.erase import drop_from_export

TABLES = ("estimates", "innovations", "forecasts")
_CHUNK = 50_000


class _Rows:
    """Rows on their way to a table, written in chunks."""

    def __init__(self, history: ParquetHistory, name: str) -> None:
        self._history = history
        self._name = name
        self._columns: dict[str, list[Any]] = defaultdict(list)
        self.n = 0
        history.clear(name)

    def add(self, **row: Any) -> None:
        """One row."""
        for name, value in row.items():
            self._columns[name].append(value)
        if len(self._columns["time"]) >= _CHUNK:
            self.flush()

    def flush(self) -> None:
        """Write what is waiting."""
        if self._columns:
            columns = {
                name: np.array(values, dtype="datetime64[us]") if name.endswith("time") else np.array(values)
                for name, values in self._columns.items()
            }
            self.n += self._history.append(self._name, columns, "time")
            self._columns.clear()


def export_history(
    settings: Settings, folder: Path, progress: Callable[[int], None] | None = None, by: str = "export"
) -> dict[str, Any]:
    """Write the tables ``estimates``, ``innovations`` and ``forecasts`` anew.

    The folder is noted in the store before anything is written to it, so that erasing a patient finds it; who is erased
    meanwhile is taken out at the end.

    Args:
        by: who asks, for the audit trail, which is told of every patient's data before they are written.
    Returns:
        Rows of each table and the folder.
    """
    folder = folder.absolute()
    history = ParquetHistory(folder)
    estimates, innovations = _Rows(history, "estimates"), _Rows(history, "innovations")
    forecasts = _Rows(history, "forecasts")
    store = wiring.open_store(settings)
    twin_ids = sorted(store.twin_heads())
    try:
        record_reads(store.audit, twin_ids, by, "export", wiring.SystemClock().now())
        store.erasures.record_export(str(folder), TABLES, wiring.SystemClock().now())
        for row in store.estimates():
            institution, patient = split_twin_id(row.twin_id)
            body = json.loads(row.body)
            time = row.time.replace(tzinfo=None)
            common = {
                "institution": institution, "patient": patient, "time": time, "model": body["model"],
                "model_version": row.model_version, "source": row.source, "event_id": row.event_id,
            }
            for component, q in body["components"].items():
                estimates.add(**common, component=component, **q)
            if (seen := body.get("innovation")) is not None:
                innovations.add(**common, nis=math.nan if row.nis is None else row.nis, **seen)
            if progress is not None:
                progress(1)
        _write_forecasts(settings, store, forecasts, progress)
        for table in (estimates, innovations, forecasts):
            table.flush()
        for twin_id in sorted(store.erased(twin_ids)):
            drop_from_export(folder, TABLES, twin_id)
    finally:
        store.close()
    return {
        "folder": str(folder), "estimates": estimates.n, "innovations": innovations.n, "forecasts": forecasts.n,
        "horizons_days": list(HORIZONS_DAYS),
    }


def _write_forecasts(
    settings: Settings, store: TwinStore, forecasts: _Rows, progress: Callable[[int], None] | None
) -> None:
    """From each twin's last event on, at standard horizons, under the plan or the present therapy."""
    binding = wiring.binding(settings)
    for twin_id in store.twin_heads():
        institution, patient = split_twin_id(twin_id)
        belief = believe(binding, twin_id, store.journal(twin_id))
        for one in live_forecasts(binding, belief):
            forecasts.add(
                institution=institution, patient=patient, time=one.target_time.replace(tzinfo=None),
                origin_time=one.origin_time.replace(tzinfo=None), observable=one.observable, target=one.target,
                unit=one.unit, horizon_days=one.horizon_days, model_version=binding.version, **one.quantiles,
            )
        if progress is not None:
            progress(1)
