"""Frozen limits of drift detection; ``python -m oncotwin.testing.freeze_thresholds`` writes them."""

from __future__ import annotations

LIMITS: dict[str, tuple[float, float, float, float]] = {
    "longest_diameter": (2.623, 1.753, 0.592, 15.324),
    "psa": (2.338, 1.419, 0.295, 12.473),
    "sum_of_longest_diameters": (2.623, 1.753, 0.592, 15.324),
    "testosterone": (2.662, 1.688, 0.533, 15.988),
    "volume": (2.623, 1.753, 0.592, 15.324),
}
"""By observable: outlier |z|, CUSUM height, and the lower and upper end of the band of windowed NIS."""

FALLBACK: tuple[float, float, float, float] = (2.662, 1.753, 0.295, 15.988)
"""For observables that were not simulated: the widest limits of those that were."""

PROVENANCE: dict[str, object] = {
    "seed": 20261,
    "patients": 2500,
    "false_alarms_per_patient_year": 0.5,
    "patient_years_longest_diameter": 4844,
    "patient_years_psa": 6708,
    "patient_years_testosterone": 6708,
}
"""Seed, number of patients and patient-years that the limits were set on, and the nominal rate."""
