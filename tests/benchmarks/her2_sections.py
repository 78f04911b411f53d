"""The labelled sections of `her2_spatial` through a user's commands, with the pathologist's label of each spot."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from tests.benchmarks.accuracy import data_folder

SECTIONS = ("A1", "B1", "C1", "D1", "E1")
UNDETERMINED = "undetermined"


def oncotwin(*arguments: str | Path) -> None:
    """Run a command, as at a shell; its own words stay on the error stream."""
    subprocess.run(
        [Path(sys.executable).with_name("oncotwin"), *map(str, arguments)], check=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def imported(name: str, folder: Path) -> Path:
    """`oncotwin section import`, with its defaults."""
    out = folder / f"{name}.zarr"
    oncotwin("section", "import", data_folder() / "her2_spatial", "--section", name, "--out", out)
    return out


def pathologist(name: str) -> pd.Series[str]:
    """Labels by the name of a spot; the table keeps them under coordinates, which are rounded to the array's."""
    path = data_folder() / "her2_spatial" / "ST-pat" / "lbl" / f"{name}_labeled_coordinates.tsv"
    marks = pd.read_csv(path, sep="\t").dropna()
    marks.index = pd.Index([f"{round(x)}x{round(y)}" for x, y in zip(marks.x, marks.y, strict=True)])
    return marks[~marks.index.duplicated()].label


def judged_spots(section: Path, seed: int = 0) -> pd.DataFrame:
    """`oncotwin signatures` with the number of regions given: a row for each spot with a label that says something.

    Returns:
        The columns of `cells.parquet`, and `pathologist`.
    """
    labels = pathologist(section.stem)
    known = labels[labels != UNDETERMINED]
    out = section.with_name(f"{section.stem}.{seed}")
    oncotwin("signatures", section, "--niches", str(known.nunique()), "--seed", str(seed), "--out", out)
    cells = pd.read_parquet(out / "cells.parquet").set_index("id")
    both = cells.join(known.rename("pathologist"), how="inner")
    assert np.isin(both.pathologist.unique(), known.unique()).all()
    return both
