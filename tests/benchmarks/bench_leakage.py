"""Leakage check on real patients: shuffling a patient's future changes no forecast made before it, to the bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from tests.benchmarks.accuracy import Items, data_folder, read_items
from tests.benchmarks.record import record

from oncotwin.domain.observation import Observation
from oncotwin.domain.treatment import Treatment
from oncotwin.models.androgen import AndrogenSuppression
from oncotwin.models.base import TumourModel
from oncotwin.models.tumour_burden import TumourBurden
from oncotwin.twin.backtest import ForecastTable, backtest_bundle
from oncotwin.twin.journal import fold_key
from oncotwin.twin.population import Effort, calibrate_bundle
from oncotwin.twin.quantiles import COLUMNS
from oncotwin.twin.timeline import Item

COMMAND = "python -m tests.benchmarks.bench_leakage"
SETS: dict[str, tuple[str, str, type[TumourModel], int]] = {
    "lesions": ("atezolizumab", "atezolizumab/lesions.csv", TumourBurden, 120),
    "psa": ("intermittent-androgen", "intermittent_androgen/psa.csv", AndrogenSuppression, 8),
    "xenografts": ("pdx", "pdx_encyclopedia", TumourBurden, 120),
}


def main() -> None:
    """Print and record the number of forecasts that moved."""
    for name, (kind, path, model, n_twins) in SETS.items():
        every = read_items(kind, data_folder() / path)
        items: Items = {twin: every[twin] for twin in list(every)[:: max(1, len(every) // n_twins)][:n_twins]}
        bundle = calibrate_bundle(items, [model()], effort=Effort(rounds=1, sweeps=0))
        told = backtest_bundle(items, [model()], bundle, "v")
        moved, kept = 0, 0
        for share in (0.3, 0.6):
            cuts = {twin: mine[int(share * (len(mine) - 1))] for twin, mine in items.items()}
            random = np.random.default_rng(7)
            altered = {twin: shuffled(mine, cuts[twin], random) for twin, mine in items.items()}
            again = backtest_bundle(altered, [model()], bundle, "v")
            stamps = {twin: stamp(cut) for twin, cut in cuts.items()}
            first, second = forecasts_before(told, stamps), forecasts_before(again, stamps)
            kept += len(first)
            moved += sum(second.get(key) != value for key, value in first.items())
        print(f"{name}: {moved} of {kept} forecasts moved when the future was shuffled")
        record(
            f"leakage.{name}", moved, "forecasts moved", bar="0", command=COMMAND,
            note=f"of {kept} forecasts made before the future that was shuffled; compared to the bit",
        )


def stamp(item: Item) -> Any:
    """Clinical time of an item as tables write it."""
    return np.datetime64(item.header.time.replace(tzinfo=None), "us")


def shuffled(items: list[Item], last_kept: Item, random: np.random.Generator) -> list[Item]:
    """Items with the values after a moment dealt out anew among the later observations of the same series."""
    past = [item for item in items if item.header.time <= last_kept.header.time]
    future = [item for item in items if item.header.time > last_kept.header.time]
    later: list[Item] = []
    series: dict[tuple[str, str], list[Observation]] = {}
    for item in future:
        if isinstance(item, Observation) and item.censoring == "not_evaluable":
            # It stays where it is: it is no target, so moving it would change which forecasts there are.
            later.append(item)
        elif isinstance(item, Observation):
            series.setdefault((item.observable, item.target), []).append(item)
        else:
            # Treatment that is still to come is turned round.
            turned = isinstance(item, Treatment) and item.action == "on"
            later.append(replace(item, action="off") if isinstance(item, Treatment) and turned else item)
    for mine in series.values():
        order = random.permutation(len(mine))
        later += [
            replace(mine[i], value=mine[j].value, censoring=mine[j].censoring, limit=mine[j].limit)
            for i, j in enumerate(order)
        ]
    return past + sorted(later, key=fold_key)


def forecasts_before(table: ForecastTable, stamps: Mapping[str, Any]) -> dict[tuple[str, ...], tuple[float, ...]]:
    """Quantiles of the forecasts whose origin lies within a second of the last kept item, or earlier."""
    second = np.timedelta64(1, "s")
    levels = np.column_stack([table.columns[name] for name in COLUMNS])
    found: dict[tuple[str, ...], tuple[float, ...]] = {}
    for row, twin in enumerate(table.twins):
        origin = table.columns["origin_time"][row]
        if origin <= stamps[twin] + second:
            key = (
                twin, table.columns["observable"][row], table.columns["target"][row], str(origin),
                str(table.columns["target_time"][row]),
            )
            found[key] = tuple(levels[row].tolist())
    return found


if __name__ == "__main__":
    main()
