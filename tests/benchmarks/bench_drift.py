"""Drift detection on simulated patients of unseen seeds: false alarms, and how soon an onset of resistance is found."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from tests.benchmarks.record import record

from oncotwin.testing.drift_scenarios import (
    RELAPSES,
    TEST_SEED,
    Scenario,
    false_alarms,
    follow,
    scenarios,
    visits_to_detection,
)
from oncotwin.twin import drift_thresholds
from oncotwin.twin.drift import DriftSettings

COMMAND = "python -m tests.benchmarks.bench_drift"
N_WELL_SPECIFIED = 2_000
N_RELAPSING = 1_000


def main() -> None:
    """Print and record both figures for every observable."""
    nominal = float(str(drift_thresholds.PROVENANCE["false_alarms_per_patient_year"]))
    print(f"{'observable':18s} {'alarms':>7s} {'years':>7s} {'rate':>7s} {'nominal':>8s}  found within 1, 2, 3 visits")
    for scenario in scenarios():
        followed = follow(scenario, N_WELL_SPECIFIED, TEST_SEED)
        counts, years = false_alarms(followed, scenario.observable, DriftSettings())
        n_uncertain = counts.pop("uncertain", 0)
        rate = counts.total() / years
        kinds = ", ".join(f"{kind} {n}" for kind, n in sorted(counts.items()))
        record(
            f"drift/false_alarms/{scenario.observable}", rate, "alarms/patient-year", reference=nominal,
            ratio=rate / nominal, bar="0.8 to 1.2 of the nominal rate, at least 400 alarms", command=COMMAND,
            note=f"{counts.total()} alarms in {years:.0f} patient-years of well-specified simulated patients, unseen "
            f"seed ({kinds}); {n_uncertain} notes of growing uncertainty are no alarms",
        )
        print(f"{scenario.observable:18s} {counts.total():7d} {years:7.0f} {rate:7.3f} {nominal:8.3f}")
        for label, found in detection(scenario).items():
            print(f"{'':51s}  {label}: {', '.join(f'{share:.0%}' for share in found)}")
            record(
                f"drift/onsets_found/{scenario.observable}/{label}", found[2], "share", command=COMMAND,
                bar=">= 0.8" if label == scenario.relapse_name else None,
                note=f"within three visits of the onset; within one {found[0]:.2f}, within two {found[1]:.2f}; "
                f"{N_RELAPSING} simulated patients, onset: {label}",
            )


def detection(scenario: Scenario) -> dict[str, tuple[float, float, float]]:
    """Share of onsets found within one, two and three visits, for each strength of relapse."""
    found = {}
    for label, relapse in RELAPSES[scenario.observable].items():
        patients = follow(replace(scenario, relapse=relapse), N_RELAPSING, TEST_SEED, relapsing=True)
        visits = np.array([visits_to_detection(patient, scenario.observable, DriftSettings()) for patient in patients])
        found[label] = (float(np.mean(visits <= 1)), float(np.mean(visits <= 2)), float(np.mean(visits <= 3)))
    return found


if __name__ == "__main__":
    main()
