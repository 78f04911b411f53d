"""From a back-test's forecasts to the tables and plots of the cohort's page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from oncotwin.twin.backtest import ForecastTable
from oncotwin.twin.quantiles import MEDIAN
from oncotwin.twin.references import LastValue
from oncotwin.twin.scores import bootstrap_ratio, covered, crps, log_crps, log_error, pit_histogram
from oncotwin_services.report.content import CoverageRow, PitRow, SkillRow

Array = NDArray[np.float64]

N_BINS = 10
NOMINAL = 0.9
REFERENCE = "last value carried forward"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What the cohort's page shows of a back-test."""

    skill: tuple[SkillRow, ...]
    coverage: tuple[CoverageRow, ...]
    pit: tuple[PitRow, ...]


def evaluate(
    table: ForecastTable, floors: Mapping[str, float], references: Mapping[str, LastValue] | None = None
) -> Evaluation:
    """Score forecasts beside the last value carried forward, by observable and visits ahead; censored targets left out.

    Args:
        floors: smallest value told apart on the log scale, by observable, in its unit.
        references: by observable, the spread of the last value's errors on the log scale in training; without it the
            distributions are not compared.
    """
    skill: list[SkillRow] = []
    coverage: list[CoverageRow] = []
    histograms: list[PitRow] = []
    seen = table.rows(~table.columns["censored"].astype(np.bool_))
    for observable in sorted(set(seen.columns["observable"])):
        mine = seen.rows(seen.columns["observable"] == observable)
        floor = floors[observable]
        shares = pit_histogram(mine.quantiles, mine.columns["observed"], N_BINS)
        histograms.append(PitRow(str(observable), tuple(shares.tolist()), len(mine)))
        errors, spreads = [], []
        for visits in sorted(set(mine.columns["visits_ahead"].tolist())):
            part = mine.rows(mine.columns["visits_ahead"] == visits)
            observed, last, levels = part.columns["observed"], part.columns["last_observed"], part.quantiles
            name, unit = str(observable), str(part.columns["unit"][0])
            errors.append(
                skill_row(name, f"MAE (log {unit})", visits, part.twins, log_error(levels[:, MEDIAN], observed, floor),
                     log_error(last, observed, floor))
            )
            if references is not None and observable in references:
                carried = references[observable].quantiles(
                    part.columns["horizon_days"], np.log(np.maximum(last, floor))
                )
                spreads.append(
                    skill_row(name, f"CRPS (log {unit})", visits, part.twins, log_crps(levels, observed, floor),
                         crps(carried, np.log(np.maximum(observed, floor))))
                )
            inside = covered(levels, observed)
            coverage.append(CoverageRow(name, int(visits), len(inside), NOMINAL, float(inside.mean())))
        skill.extend((*errors, *spreads))
    return Evaluation(tuple(skill), tuple(coverage), tuple(histograms))


def skill_row(observable: str, score: str, visits: int, twins: list[str], ours: Array, theirs: Array) -> SkillRow:
    """One line of the skill table: mean scores of the same forecasts, and their ratio's interval over patients.

    Args:
        twins: (m,) whose forecast each is; ours, theirs: (m,) scores, smaller is better.
    """
    ratio = bootstrap_ratio(ours, theirs, twins)
    return SkillRow(
        observable, score, int(visits), len(ours), float(ours.mean()), REFERENCE, float(theirs.mean()), ratio.low,
        ratio.high,
    )
