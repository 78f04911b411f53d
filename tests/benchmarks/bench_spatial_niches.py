"""Niches of `her2_spatial` sections against the pathologist's regions: one configuration, five seeds, no tuning.

Sections go through `oncotwin section import` and `oncotwin signatures --niches K --seed S`; spots that were kept out
count as a niche of their own.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from tests.benchmarks.her2_sections import SECTIONS, imported, judged_spots
from tests.benchmarks.record import record

COMMAND = "python -m tests.benchmarks.bench_spatial_niches"
SEEDS = range(5)
BAR = 0.29


def main() -> None:
    """Print and record."""
    medians = []
    print("section  spots regions  ARI (median of seeds; each)                    NMI")
    for name in SECTIONS:
        rand, shared = [], []
        with tempfile.TemporaryDirectory() as folder:
            section = imported(name, Path(folder))
            for seed in SEEDS:
                spots = judged_spots(section, seed)
                niches = spots.niche.astype(str)
                rand.append(float(adjusted_rand_score(spots.pathologist, niches)))
                shared.append(float(normalized_mutual_info_score(spots.pathologist, niches)))
        medians.append(float(np.median(rand)))
        each = " ".join(f"{value:.3f}" for value in rand)
        n_regions, common = spots.pathologist.nunique(), float(np.median(shared))
        print(f"{name:7} {len(spots):6} {n_regions:7}   {medians[-1]:.3f} ({each})   {common:.3f}")
        record(
            f"spatial/niches/{name}", medians[-1], "1", command=COMMAND,
            note=f"NMI {common:.3f}; {len(spots)} spots of {n_regions} regions; median of five seeds",
        )
    overall = float(np.median(medians))
    print(f"median of the sections {overall:.3f}, mean {np.mean(medians):.3f}")
    record(
        "spatial/niches/median", overall, "1", bar=f"at least {BAR}", is_met=overall >= BAR, command=COMMAND,
        reference="spatial PCA, published: median 0.300 over eight sections",
        note="median over the sections A1 to E1; one configuration, the number of regions given",
    )


if __name__ == "__main__":
    main()
