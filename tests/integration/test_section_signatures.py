"""From an imported section to its signatures: planted truth comes back, and no block and no worker changes a bit."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import zarr

from oncotwin.adapters.arrays import section_signature_passes
from oncotwin.adapters.arrays.phantoms import write_section_folder
from oncotwin.adapters.arrays.section_signatures import SCHEMA, SectionSummary, section_signatures
from oncotwin.adapters.arrays.sections import import_section
from oncotwin.adapters.arrays.zarr_check import check_zarr
from oncotwin.domain.claim import ArrayError
from oncotwin.spatial.section_phantom import PITCH_UM, SectionPhantom, make_section

N_ACROSS = 40


class Made:
    """A generated section, imported and read."""

    def __init__(self, folder: Path, pattern: str) -> None:
        self.truth: SectionPhantom = make_section(pattern, np.random.default_rng(8), N_ACROSS)
        write_section_folder(self.truth, folder / "input")
        self.section = folder / "section.zarr"
        import_section(folder / "input", self.section)
        self.summary: SectionSummary = section_signatures(self.section, folder / "out", n_niches=4)
        self.cells = pq.read_table(folder / "out" / "cells.parquet").to_pandas()
        self.value = {one.name: one for one in self.summary.signatures}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("excluded"), "excluded")


def test_rows_are_those_of_the_input_and_failed_spots_are_kept_out(made: Made) -> None:
    truth, cells = made.truth, made.cells
    assert cells["id"].tolist() == list(truth.ids)
    np.testing.assert_allclose(cells[["x", "y"]], truth.places_um, atol=0.5)
    assert (~cells["kept"][truth.failed]).all() and cells["kept"][~truth.failed].mean() > 0.99
    assert (cells["reason"][~cells["kept"]] != "").all() and (cells["reason"][cells["kept"]] == "").all()
    assert cells["hypoxia"].isna().tolist() == (~cells["kept"]).tolist()
    assert (cells["niche"] == -1).tolist() == (~cells["kept"]).tolist()
    assert made.summary.n_rows == len(cells) and made.summary.n_kept == int(cells["kept"].sum())
    assert sum(made.summary.refused.values()) == made.summary.n_rows - made.summary.n_kept


def test_the_region_and_its_distance_are_the_planted_ones(made: Made) -> None:
    cells, truth = made.cells, made.truth
    clear = (np.abs(truth.distance_um) > PITCH_UM) & cells["kept"].to_numpy()
    assert ((cells["region"] == "tumour") == (truth.distance_um < 0))[clear].mean() > 0.98
    error = np.abs(cells["signed_distance_um"] - truth.distance_um)[clear]
    # The crowd of lymphocytes around the tumour dilutes its outermost spots.
    assert np.median(error) < 0.6 * PITCH_UM
    assert made.value["tumour.share"].value == pytest.approx((truth.distance_um < 0).mean(), abs=0.03)
    area = np.count_nonzero(truth.distance_um < 0) * PITCH_UM**2 * np.sqrt(3) / 2
    assert made.value["tumour.area"].value == pytest.approx(area, rel=0.15)
    around = 2 * np.sqrt(np.pi * area)
    assert 0.85 * around < made.value["interface.length"].value < 1.4 * around
    assert made.value["interface.mean_curvature"].value == pytest.approx(2 * np.pi / around, rel=0.5)


def test_gradients_are_the_planted_ones(made: Made) -> None:
    value = made.value
    slope = value["hypoxia.slope_inside"]
    assert slope.high < 0 and slope.low < slope.value < slope.high
    assert value["hypoxia.layer.core"].low > value["hypoxia.layer.interface"].high
    assert value["immune.layer.interface"].low > value["immune.layer.core"].high
    assert value["immune.slope_inside"].low > 0
    assert value["immune.penetration_depth"].value < 3 * PITCH_UM
    assert value["tumour_epithelium.layer.core"].low > value["tumour_epithelium.layer.far_stroma"].high
    assert 0 < value["interface.width"].value < 8 * PITCH_UM
    assert value["interface.layering_index"].low > 0.2
    assert "vessels" in made.summary.abstained


def test_the_immune_class_is_the_planted_one(made: Made, tmp_path: Path) -> None:
    assert made.value["immune.excluded"].value > 0.9
    inside = (made.cells["region"] == "tumour").to_numpy()
    assert made.cells["immune_excluded"][inside].mean() > 0.7
    for pattern in ("hot", "cold"):
        (tmp_path / pattern).mkdir()
        assert Made(tmp_path / pattern, pattern).value[f"immune.{pattern}"].value > 0.9


def test_states_are_ordered_in_space_and_hot_where_they_were_planted(made: Made) -> None:
    cells, truth, value = made.cells, made.truth, made.value
    assert value["immune.moran_i"].low > 0.2 and value["immune.geary_c"].high < 0.8
    hot = cells["hotspot_hypoxia"].to_numpy()
    assert hot.any() and truth.hypoxic_share[hot].mean() > 4 * truth.hypoxic_share[~hot].mean()
    assert value["hypoxia.hotspot_area"].value == pytest.approx(hot.sum() * PITCH_UM**2 * np.sqrt(3) / 2, rel=5e-3)
    assert value["hypoxia.hotspot_number"].value >= 1
    assert 0 <= value["hypoxia.hotspot_edge_share"].value < 0.2
    ordered = json.loads((made.summary.folder / "summary.json").read_text())["genes"]["most_ordered"]
    assert len(ordered) > 10 and not any(one["gene"].startswith("BACKGROUND") for one in ordered)


def test_niches_follow_the_regions(made: Made) -> None:
    kept = made.cells["kept"].to_numpy()
    table = pd.crosstab(made.cells["niche"][kept], np.array(made.truth.region)[kept])
    # One niche is the border itself, where tumour, stroma and lymphocytes mix.
    assert table.max(axis=1).sum() / table.to_numpy().sum() > 0.8
    shares = [made.value[f"niche_{at}.share"].value for at in range(4)]
    assert sum(shares) == pytest.approx(1.0) and shares == sorted(shares, reverse=True)
    assert made.value["niche_0.beside.niche_0"].value > 5


def test_the_summary_says_what_it_rests_on(made: Made) -> None:
    said = json.loads((made.summary.folder / "summary.json").read_text())
    assert said["schema"] == SCHEMA and said["kind"] == "section" and said["n_kept"] == made.summary.n_kept
    assert said["genes"]["coverage"]["hypoxia"] == 1.0 and not said["genes"]["abstained"]
    assert len(said["signatures"]) == len(made.summary.signatures) == len(made.value)
    assert all(one["unit"] and one["source"] for one in said["signatures"])
    without = {one["name"].rsplit(".", 1)[1] for one in said["signatures"] if one["low"] is None}
    assert "slope_inside" not in without and "length" not in without and "moran_i" not in without


def test_maps_lie_where_the_cells_lie(made: Made) -> None:
    folder = made.summary.folder / "maps.zarr"
    check_zarr(folder)
    root = zarr.open_group(folder, mode="r")
    ome: Any = root["hypoxia"].attrs["ome"]
    scale = ome["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    pixel, (y0, x0) = scale[0]["scale"][0], scale[1]["translation"]
    assert pixel == pytest.approx(PITCH_UM / 2, rel=0.01)
    kept = made.cells[made.cells["kept"]]
    rows, columns = np.rint((kept["y"] - y0) / pixel).astype(int), np.rint((kept["x"] - x0) / pixel).astype(int)
    drawn = np.asarray(root["hypoxia/0"])[rows, columns]
    np.testing.assert_allclose(drawn, kept["hypoxia"], rtol=1e-6)
    assert np.isnan(np.asarray(root["hypoxia/0"])).mean() > 0.15  # the tissue is round
    assert set(np.unique(np.asarray(root["tumour/0"]))) == {-1, 0, 1}


def test_no_block_and_no_worker_changes_a_bit(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small blocks, few genes at a time, everything through pickle as if it went to another process."""
    names: list[str] = []

    def engine_run(step: str) -> Any:
        names.append(step)

        def run(function: Callable[[Any], Any], blocks: Iterable[Any]) -> Iterable[Any]:
            for block in blocks:
                mine, theirs = pickle.loads(pickle.dumps((function, block)))
                yield pickle.loads(pickle.dumps(mine(theirs)))

        return run

    monkeypatch.setattr(section_signature_passes, "DENSE_COUNTS", 1 << 20)
    again = section_signatures(made.section, tmp_path / "out", n_niches=4, engine_run=engine_run, most_rows=117)
    assert len(names) == len(set(names)) > 8
    assert again.signatures == made.summary.signatures or _same(again, made.summary)
    for name in ("cells.parquet", "summary.json"):
        assert (again.folder / name).read_bytes() == (made.summary.folder / name).read_bytes()


def _same(one: SectionSummary, other: SectionSummary) -> bool:
    """NaN is not itself."""
    return [s.as_json() for s in one.signatures] == [s.as_json() for s in other.signatures]


def cells_of_classes(folder: Path, n: int = 3000) -> tuple[Path, np.ndarray[Any, Any]]:
    """A disc of tumour cells, immune cells around it, stroma elsewhere, on a square of 1 mm."""
    rng = np.random.default_rng(4)
    places = rng.uniform(0, 1000, (n, 2))
    distance = np.hypot(*(places - 500).T) - 250
    kinds = np.where(distance < 0, "T", np.where((distance < 60) & (rng.uniform(size=n) < 0.6), "L", "S"))
    rows = [f"{k},{x:.3f},{y:.3f},{kind}" for k, ((x, y), kind) in enumerate(zip(places, kinds, strict=True))]
    path = folder / "cells.csv"
    path.write_text("\n".join(["cell_id,cell_x,cell_y,cell_type", *rows]))
    import_section(path, folder / "section.zarr", 1.0)
    return folder / "section.zarr", kinds


def test_cells_without_counts_give_what_classes_can_say(tmp_path: Path) -> None:
    section, kinds = cells_of_classes(tmp_path)
    found = section_signatures(section, tmp_path / "out", tumour_classes=("T",))
    value = {one.name: one for one in found.signatures}
    assert value["class_T.share"].value == pytest.approx((kinds == "T").mean())
    assert value["tumour.area"].value == pytest.approx(np.pi * 250**2, rel=0.25)
    assert value["interface.length"].value == pytest.approx(2 * np.pi * 250, rel=0.25)
    assert value["class_S.beside.class_T"].value < -10 < 10 < value["class_L.beside.class_L"].value
    assert value["class_L.layer.interface"].low > value["class_L.layer.outer_margin"].high
    assert {"gene sets", "hotspots", "vessels"} <= set(found.abstained)
    cells = pq.read_table(tmp_path / "out" / "cells.parquet").to_pandas()
    assert cells["class"].tolist() == kinds.tolist()
    assert (cells["signed_distance_um"] < 0).sum() > 0.9 * (kinds == "T").sum()
    silent = section_signatures(section, tmp_path / "silent")
    assert "no class of cell_type was named as tumour" in silent.abstained["interface"]
    with pytest.raises(ArrayError, match="no cell is of class 'X'"):
        section_signatures(section, tmp_path / "wrong", tumour_classes=("X",))
    with pytest.raises(ArrayError, match="neither counts nor a text column kind"):
        section_signatures(section, tmp_path / "wrong", class_column="kind")


def test_a_section_that_fails_is_said_to_and_leaves_nothing(tmp_path: Path) -> None:
    truth = make_section("cold", np.random.default_rng(1), 10)
    counts = np.where(np.arange(len(truth.ids))[:, None] < 20, truth.counts, truth.counts // 400)
    poor = SectionPhantom(
        truth.ids, truth.places_um, truth.genes, counts, truth.region, truth.distance_um, truth.hypoxic_share,
        truth.failed,
    )
    write_section_folder(poor, tmp_path / "input")
    import_section(tmp_path / "input", tmp_path / "section.zarr")
    with pytest.raises(ArrayError, match=r"rows pass quality, at least 30 are needed; \d+ were kept out for") as caught:
        section_signatures(tmp_path / "section.zarr", tmp_path / "out")
    assert caught.value.reason_code == "too_few_cells"
    (tmp_path / "there").mkdir()
    with pytest.raises(FileExistsError, match="is there already"):
        section_signatures(tmp_path / "section.zarr", tmp_path / "there")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["input", "section.zarr", "there"]


@pytest.mark.needs_data("her2_spatial")
def test_a_real_section(data_folder: Path, tmp_path: Path) -> None:
    folder = data_folder / "her2_spatial"
    import_section(folder / "ST-cnts" / "A1.tsv.gz", tmp_path / "section.zarr", 200.0)
    found = section_signatures(tmp_path / "section.zarr", tmp_path / "out", n_niches=6)
    cells = pq.read_table(tmp_path / "out" / "cells.parquet").to_pandas()
    table = pd.read_csv(folder / "ST-cnts" / "A1.tsv.gz", sep="\t", index_col=0, usecols=[0])
    assert cells["id"].tolist() == table.index.tolist()
    marks = pd.read_csv(folder / "ST-pat" / "lbl" / "A1_labeled_coordinates.tsv", sep="\t").dropna()
    marks.index = pd.Index([f"{round(x)}x{round(y)}" for x, y in zip(marks.x, marks.y, strict=True)])
    named = marks.label[~marks.index.duplicated()].reindex(cells["id"])
    assert named.notna().mean() > 0.95
    cancer = named.isin(["invasive cancer", "cancer in situ"]).to_numpy()
    inside = (cells["region"] == "tumour").to_numpy()
    assert inside[cancer].mean() > inside[~cancer].mean() + 0.2
    value = {one.name: one for one in found.signatures}
    # Genes of fat are so rare here that single spots show no order; their hotspots and smoothed share do.
    assert value["immune.moran_i"].low > 0 and value["tumour_epithelium.moran_i"].low > 0
    assert found.n_kept > 330 and cells["niche"].max() == 5
