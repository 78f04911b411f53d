"""Set the limits of drift detection on simulated patients: ``python -m oncotwin.testing.freeze_thresholds``.

Each statistic of each observable gets a share of the nominal rate of false alarms; its limit is found by bisection on
the patients of `FREEZE_SEED`. The patients of `TEST_SEED` are not looked at.
"""

from __future__ import annotations

import math
from pathlib import Path

from oncotwin.testing.drift_scenarios import FREEZE_SEED, Scenario, Watched, false_alarms, follow, scenarios
from oncotwin.twin import drift_thresholds
from oncotwin.twin.drift import DriftSettings, Limits

NOMINAL_RATE = 0.5
"""False alarms a patient-year, all kinds of one observable together."""

SHARES = {"outlier": 0.25, "drift": 0.55, "inconsistent": 0.15, "overcautious": 0.05}
"""How the nominal rate is divided among the statistics."""

N_PATIENTS = 2_500
N_BISECTIONS = 10


def freeze(patients: list[Watched], observable: str) -> Limits:
    """Limits at which each statistic raises its share of the nominal rate on these patients.

    The four statistics do not influence each other, so all are bisected in the same passes.
    """
    low = {"outlier": 2.0, "drift": 1.0, "inconsistent": 8.0, "overcautious": 0.0}
    high = {"outlier": 4.0, "drift": 4.0, "inconsistent": 28.0, "overcautious": 2.0}
    for _ in range(N_BISECTIONS):
        middle = {kind: 0.5 * (low[kind] + high[kind]) for kind in low}
        limits = Limits(middle["outlier"], middle["drift"], middle["overcautious"], middle["inconsistent"])
        counts, years = false_alarms(patients, observable, DriftSettings(limits={observable: limits}))
        for kind, share in SHARES.items():
            too_many = counts[kind] > share * NOMINAL_RATE * years
            # The lower end of the band raises more the higher it lies; all others less.
            if too_many != (kind == "overcautious"):
                low[kind] = middle[kind]
            else:
                high[kind] = middle[kind]
    return limits


def render(frozen: dict[str, Limits], provenance: dict[str, object]) -> str:
    """The text of `oncotwin.twin.drift_thresholds`."""
    rows = {
        name: tuple(round(value, 3) for value in (limits.outlier, limits.cusum, limits.nis_low, limits.nis_high))
        for name, limits in frozen.items()
    }
    fallback = (
        max(row[0] for row in rows.values()), max(row[1] for row in rows.values()),
        min(row[2] for row in rows.values()), max(row[3] for row in rows.values()),
    )
    lines = [
        '"""Frozen limits of drift detection; ``python -m oncotwin.testing.freeze_thresholds`` writes them."""',
        "",
        "from __future__ import annotations",
        "",
        "LIMITS: dict[str, tuple[float, float, float, float]] = {",
        *(f'    "{name}": {row},' for name, row in sorted(rows.items())),
        "}",
        '"""By observable: outlier |z|, CUSUM height, and the lower and upper end of the band of windowed NIS."""',
        "",
        f"FALLBACK: tuple[float, float, float, float] = {fallback}",
        '"""For observables that were not simulated: the widest limits of those that were."""',
        "",
        "PROVENANCE: dict[str, object] = {",
        *(f'    "{name}": {value!r},' for name, value in provenance.items()),
        "}",
        '"""Seed, number of patients and patient-years that the limits were set on, and the nominal rate."""',
        "",
    ]
    return "\n".join(lines).replace("'", '"')


def main() -> None:
    """Freeze all scenarios and write the module."""
    frozen: dict[str, Limits] = {}
    years: dict[str, float] = {}
    for scenario in scenarios():
        limits, years[scenario.observable] = _freeze(scenario)
        frozen.update(dict.fromkeys((scenario.observable, *scenario.same), limits))
        print(scenario.observable, limits, flush=True)
    provenance: dict[str, object] = {
        "seed": FREEZE_SEED, "patients": N_PATIENTS, "false_alarms_per_patient_year": NOMINAL_RATE,
        **{f"patient_years_{name}": round(value) for name, value in years.items()},
    }
    Path(drift_thresholds.__file__).write_text(render(frozen, provenance), encoding="utf-8")


def _freeze(scenario: Scenario) -> tuple[Limits, float]:
    patients = follow(scenario, N_PATIENTS, FREEZE_SEED)
    return freeze(patients, scenario.observable), math.fsum(patient.years for patient in patients)


if __name__ == "__main__":
    main()
