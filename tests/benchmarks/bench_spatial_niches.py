"""Niches of `her2_spatial` sections against the pathologist's regions: one configuration, five seeds, no tuning."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from tests.benchmarks.accuracy import data_folder
from tests.benchmarks.record import record

from oncotwin.spatial.niches import CellBlock, find_niches

COMMAND = "python -m tests.benchmarks.bench_spatial_niches"
SECTIONS = ("A1", "B1", "C1", "D1", "E1")
SEEDS = range(5)
UNDETERMINED = "undetermined"


def read_section(folder: Path, name: str) -> tuple[CellBlock, NDArray[np.str_]]:
    """Spots with counts, in pitches, and the region of each; "" where the pathologist gave none."""
    table = pd.read_csv(folder / "ST-cnts" / f"{name}.tsv.gz", sep="\t", index_col=0)
    table = table[table.sum(axis=1) > 0]
    marks = pd.read_csv(folder / "ST-pat" / "lbl" / f"{name}_labeled_coordinates.tsv", sep="\t").dropna()
    marks.index = pd.Index([f"{round(x)}x{round(y)}" for x, y in zip(marks.x, marks.y, strict=True)])
    marks = marks[~marks.index.duplicated()]
    labels = marks.label.reindex(table.index).fillna("").to_numpy(dtype=np.str_)
    places = np.array([[float(part) for part in spot.split("x")] for spot in table.index])
    return CellBlock(np.arange(len(table)), places, table.to_numpy(dtype=np.int64), len(table)), labels


def main() -> None:
    """Print and record."""
    medians = []
    print("section  spots labels   ARI (median of seeds; each)                    NMI    CPU s a run")
    for name in SECTIONS:
        block, labels = read_section(data_folder() / "her2_spatial", name)
        judged = (labels != "") & (labels != UNDETERMINED)
        n_labels = len(np.unique(labels[judged]))
        start = time.process_time()
        found = [find_niches([block], seed, n_labels).labels[judged] for seed in SEEDS]
        seconds = (time.process_time() - start) / len(SEEDS)
        rand = [float(adjusted_rand_score(labels[judged], niches)) for niches in found]
        shared = float(np.median([normalized_mutual_info_score(labels[judged], niches) for niches in found]))
        medians.append(float(np.median(rand)))
        each = " ".join(f"{value:.3f}" for value in rand)
        print(f"{name:7} {judged.sum():6} {n_labels:6}   {medians[-1]:.3f} ({each})   {shared:.3f}   {seconds:.1f}")
        record(
            f"spatial.niches.{name}.ari", medians[-1], "1", command=COMMAND,
            note=f"NMI {shared:.3f}; {judged.sum()} spots of {n_labels} regions; median of five seeds",
        )
    overall = float(np.median(medians))
    print(f"median of the sections {overall:.3f}, mean {np.mean(medians):.3f}")
    record(
        "spatial.niches.ari", overall, "1", bar="at least 0.29", command=COMMAND,
        reference="spatial PCA, published: median 0.300 over eight sections",
        note="median over the sections A1 to E1; one configuration, the number of regions given",
    )


if __name__ == "__main__":
    main()
