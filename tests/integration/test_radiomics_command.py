"""Radiomic features at the command line: a table of them, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from oncotwin_services.cli import main


@pytest.fixture(autouse=True)
def _volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONCOTWIN_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    image = np.random.default_rng(1).normal(40.0, 20.0, (4, 6, 7))
    np.save("image.npy", image)
    np.save("mask.npy", np.pad(np.ones((2, 4, 5), np.uint8), 1))


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ["radiomics", "image.npy", "--mask", "mask.npy", "--out", "table.parquet", *words])


def test_a_table_of_features_is_written() -> None:
    ct = ("--hounsfield", "--bin-width", "25", "--lowest", "-1000", "--aggregation", "3D_avg")
    done = run("--spacing", "3", "1", "1", *ct, "--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    table = pq.read_table("table.parquet")
    features = dict(zip(*table.to_pydict().values(), strict=True))
    assert said["features"] == len(features) and said["spacing_mm"] == [3.0, 1.0, 1.0]
    assert features["morph_vol_approx"] == 40 * 3.0
    inside = np.round(np.load("image.npy"))[1:3, 1:5, 1:6]
    assert features["stat_mean"] == pytest.approx(inside.mean())
    assert features["ih_mean"] == pytest.approx((np.floor((inside + 1_000.0) / 25.0) + 1.0).mean())
    made_by = json.loads(table.schema.metadata[b"radiomics"])
    assert made_by["bin_width"] == 25.0 and made_by["aggregations"] == ["3D_avg"]
    again = run("--spacing", "3", "1", "1", *ct)
    assert again.exit_code == 2 and "is there already" in again.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--bins", "8"), "--spacing"),
        (("--spacing", "1", "1", "1"), "whole numbers"),
        (("--spacing", "1", "1", "1", "--bin-width", "5"), "lowest"),
    ],
)
def test_what_is_missing_is_said(words: tuple[str, ...], said: str) -> None:
    refused = run(*words)
    assert refused.exit_code == 2 and said in refused.stderr
    assert not Path("table.parquet").exists()
