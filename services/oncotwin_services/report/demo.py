"""The report of a cohort whose institutions were each left out of training once."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from oncotwin.ports.twin_store import TwinStore
from oncotwin.twin.backtest import ForecastTable
from oncotwin.twin.fold import Binding
from oncotwin.twin.quantiles import Array
from oncotwin.twin.references import LastValue
from oncotwin.twin.replay import Belief, believe
from oncotwin.twin.scores import crps, log_crps
from oncotwin_services.report.cohort import evaluate, skill_row
from oncotwin_services.report.content import CohortReport, InstitutionRow, SkillRow
from oncotwin_services.report.pages import write_report
from oncotwin_services.report.patient import patient_report, predictive_check

OBSERVABLE = "longest_diameter"

NOTES = (
    "Each forecast is of a patient of a trial that its model version has not seen: three versions, each trained on the "
    "two other trials.",
    "On these data neither published growth models nor gradient boosting beat carrying the last value forward by more "
    "than a hair; what the twin adds is an honest spread, which CRPS measures.",
    "Live twins follow the version that was trained on all three trials.",
    "Lesion diameters: S1 data of Ghaffari Laleh et al. 2022, PLoS Comput Biol 18:e1009822, CC BY 4.0.",
)


def demo_report(
    binding: Binding, store: TwinStore, tables: Sequence[ForecastTable], floors: Mapping[str, float],
    events: Mapping[str, int], folder: Path, n_pages: int, now: datetime, also: Sequence[str] = (),
) -> tuple[Path, list[dict[str, Any]], list[dict[str, Any]]]:
    """Write the pages.

    Args:
        tables: held-out forecasts, one table an institution.
        events: events of each institution; twins of others are not part of the cohort.
        also: twins that get a page beside those.
    Returns:
        The first page, and the skill and coverage tables as plain values.
    """
    pooled = ForecastTable({name: np.concatenate([t.columns[name] for t in tables]) for name in tables[0].columns})
    evaluation = evaluate(pooled, floors)
    skill = (*evaluation.skill, *_spread(tables, floors[OBSERVABLE]))
    alerts = [row for row in store.alerts() if row.twin_id.partition("/")[0] in events]
    heads = [twin_id for twin_id in store.twin_heads() if twin_id.partition("/")[0] in events]
    by_institution = Counter(twin_id.partition("/")[0] for twin_id in heads)
    alerted = Counter(row.twin_id.partition("/")[0] for row in alerts)
    beliefs = _chosen(binding, store, set(heads), n_pages)
    check = predictive_check(binding, beliefs, OBSERVABLE)
    cohort = CohortReport(
        title="Lesions under atezolizumab or docetaxel: 628 patients of three trials",
        subtitle="FIR, POPLAR and BIRCH as three institutions' feeds, replayed in clinical-time order",
        model_version=binding.version, generated_at=now,
        institutions=tuple(
            InstitutionRow(name, by_institution[name], events[name], 0, alerted[name])
            for name in sorted(by_institution)
        ),
        skill=skill, coverage=evaluation.coverage, pit=evaluation.pit,
        checks=() if check is None else (check,),
        alerts_by_kind=tuple(sorted(Counter(row.kind for row in alerts).items())), notes=NOTES,
    )
    beliefs += [believe(binding, twin_id, store.journal(twin_id)) for twin_id in also]
    index = write_report(folder, cohort, [patient_report(binding, belief, now) for belief in beliefs])
    skill_rows = [
        {
            "observable": row.observable, "score": row.score, "visits_ahead": row.visits_ahead, "n": row.n,
            "value": row.value, "reference": row.reference, "ratio": row.ratio, "ratio_low": row.ratio_low,
            "ratio_high": row.ratio_high,
        }
        for row in skill
    ]
    coverage = [
        {"visits_ahead": row.visits_ahead, "n": row.n, "covered": row.covered} for row in evaluation.coverage
    ]
    return index, skill_rows, coverage


def _spread(tables: Sequence[ForecastTable], floor: float) -> list[SkillRow]:
    """CRPS beside the last value with the spread of its errors on the other institutions, by length of interval."""
    ours: dict[int, list[Array]] = defaultdict(list)
    theirs: dict[int, list[Array]] = defaultdict(list)
    twins: dict[int, list[str]] = defaultdict(list)
    for table in tables:
        carried = _last_value([other for other in tables if other is not table], floor)
        for visits in (1, 2, 3):
            part = _seen(table, visits)
            observed, last = part.columns["observed"], part.columns["last_observed"]
            levels = carried.quantiles(part.columns["horizon_days"], np.log(np.maximum(last, floor)))
            ours[visits].append(log_crps(part.quantiles, observed, floor))
            theirs[visits].append(crps(levels, np.log(np.maximum(observed, floor))))
            twins[visits].extend(part.twins)
    return [
        skill_row(
            OBSERVABLE, "CRPS (log mm)", visits, twins[visits], np.concatenate(ours[visits]),
            np.concatenate(theirs[visits]),
        )
        for visits in sorted(ours)
    ]


def _seen(table: ForecastTable, visits: int | None = None) -> ForecastTable:
    """Rows whose outcome was measured."""
    chosen = ~table.columns["censored"].astype(np.bool_)
    return table.rows(chosen if visits is None else chosen & (table.columns["visits_ahead"] == visits))


def _last_value(tables: Sequence[ForecastTable], floor: float) -> LastValue:
    """How the last value carried forward errs, by the length of the interval."""
    seen = [_seen(table) for table in tables]
    horizon, last, outcome = (
        np.concatenate([table.columns[name] for table in seen])
        for name in ("horizon_days", "last_observed", "observed")
    )
    return LastValue.learn(horizon, np.log(np.maximum(last, floor)), np.log(np.maximum(outcome, floor)))


def _chosen(binding: Binding, store: TwinStore, cohort: Collection[str], n_pages: int) -> list[Belief]:
    """Patients with most alerts and most events, so that the pages have something to show."""
    alerts = Counter(row.twin_id for row in store.alerts())
    heads = store.twin_heads()
    ranked = sorted(cohort, key=lambda twin_id: (-min(alerts[twin_id], 3), -heads[twin_id].version, twin_id))
    return [believe(binding, twin_id, store.journal(twin_id)) for twin_id in ranked[:n_pages]]
