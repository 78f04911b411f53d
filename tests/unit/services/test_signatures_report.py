"""The page of signatures: complete, self-contained, escaped, and the same bytes for the same content."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from numpy.typing import NDArray

from oncotwin.adapters.arrays.signature_files import StoredMap, coarse_picture, read_maps
from oncotwin.domain.errors import ConfigurationError
from oncotwin_services.report.signature_maps import bar_um, draw_classes, draw_numbers
from oncotwin_services.report.signature_words import interval, number, scaled, title
from oncotwin_services.report.signatures_report import write_signatures_report

ROGUE = "<script>alert(1)</script>"


def one(name: str, value: float | None, unit: str = "1", low: float | None = None, high: float | None = None,
        note: str = "") -> dict[str, Any]:  # fmt: skip
    return {"name": name, "value": value, "low": low, "high": high, "unit": unit, "source": "Author 2020", "note": note}


def put_map(folder: Path, name: str, values: NDArray[Any], um_per_pixel: float = 50.0) -> None:
    scale = {"type": "scale", "scale": [um_per_pixel, um_per_pixel]}
    image = {"axes": [], "datasets": [{"path": "0", "coordinateTransformations": [scale]}]}
    root = zarr.open_group(folder / "maps.zarr", mode="a", zarr_format=3)
    group = root.create_group(name, attributes={"ome": {"multiscales": [image]}, "oncotwin": {"unit": "1"}})
    group.create_array("0", data=values)


def section(folder: Path, **changes: Any) -> Path:
    """What a section's run leaves."""
    y, x = np.mgrid[:40, :50]
    inside = np.hypot(y - 20, x - 25) < 10
    tissue = np.hypot(y - 20, x - 25) < 18
    put_map(folder, "tumour", np.where(tissue, inside, -1).astype(np.int16))
    put_map(folder, "signed_distance_um", np.where(tissue, 50.0 * (np.hypot(y - 20, x - 25) - 10), np.nan))
    put_map(folder, "hypoxia", np.where(tissue, 0.01 * inside, np.nan).astype(np.float32))
    put_map(folder, "hotspot_hypoxia", np.where(tissue, inside, -1).astype(np.int16))
    put_map(folder, "niche", np.where(tissue, (x // 10), -1).astype(np.int16))
    for at, name in enumerate(("immune_hot", "immune_excluded", "immune_cold")):
        put_map(folder, name, np.where(tissue, [0.2, 0.6, 0.2][at], np.nan).astype(np.float32))
    layers = ("core", "inner_margin", "interface", "outer_margin", "far_stroma")
    signatures = [
        one("quality.kept_share", 0.9), one("tumour.area", 2.5e6, "um2", 2.1e6, 2.9e6),
        one("hypoxia.slope_inside", -2e-5, "/um", -3e-5, -1e-5, ROGUE),
        *(one(f"hypoxia.layer.{layer}", 0.01 / (k + 1), "1", 0.005 / (k + 1), 0.02 / (k + 1))
          for k, layer in enumerate(layers)),
        one("immune.penetration_depth", None, "um", note="no cell lies there"), one(f"{ROGUE}.share", 0.5),
    ]  # fmt: skip
    summary = {
        "schema": "org.oncotwin.signatures.v1", "kind": "section", "name": f"A1 {ROGUE}", "platform": ROGUE,
        "um_per_unit": 200.0, "n_rows": 346, "n_kept": 340, "refused": {f"few counts {ROGUE}": 6},
        "settings": {"seed": 0, "pitch_um": 200.0, "rogue": ROGUE}, "abstained": {"vessels": f"none {ROGUE}"},
        "genes": {"n": 15_000, "coverage": {"hypoxia": 0.9, "emt": 0.1}, "abstained": {"emt": "too few"},
                  "most_ordered": [{"gene": ROGUE, "moran_i": 0.8, "geary_c": 0.2, "z": 31.0, "q": 1e-9}]},
        "signatures": signatures,
    } | changes  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def test_a_section_s_page_says_all_and_runs_nothing(tmp_path: Path) -> None:
    text = write_signatures_report(section(tmp_path)).read_text(encoding="utf-8")
    assert "<script" not in text and "&lt;script&gt;" in text
    for words in (
        "340 of 346 rows passed", "Tumour and stroma", "Distance to the border", "Niches", "Immune class",
        "Lack of oxygen (hypoxia)", "Hotspots cover 30 %", "2.5", "2.1 to 2.9", "mm²", "-0.02", "per mm", "too few",
        "no cell lies there", "Highest in the core", "Genes most ordered", "Not said",
    ):
        assert words in text, words
    # The order: what was kept out comes before anything that rests on the rest.
    assert text.index("<h2>Quality") < text.index("<h2>Tumour and border") < text.index("<h2>All signatures")
    assert text.count("<img") == text.count("alt=") == 6


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    pages = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        pages.append(write_signatures_report(section(tmp_path / name)).read_bytes())
    assert pages[0] == pages[1]


def test_a_section_without_counts_or_border(tmp_path: Path) -> None:
    put_map(tmp_path, "class", np.array([[0, 1], [2, -1]], np.int16))
    summary = {
        "schema": "org.oncotwin.signatures.v1", "kind": "section", "name": "cells", "platform": "table of cells",
        "um_per_unit": 1.0, "n_rows": 3, "n_kept": 3, "refused": {}, "settings": {}, "abstained": {"interface": "none"},
        "genes": {"n": 0, "coverage": {}, "abstained": {}},
        "signatures": [one(f"class_{name}.share", 1 / 3) for name in ("B", "T", "tumour")],
    }  # fmt: skip
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    text = write_signatures_report(tmp_path).read_text(encoding="utf-8")
    assert "All 3 rows passed" in text and "Classes" in text and text.count("<img") == 1


def test_a_slide_s_page_shows_its_nuclei(tmp_path: Path) -> None:
    put_map(tmp_path, "nuclei_density", np.full((30, 20), 2_000.0))
    nuclei = {"area_um2": np.full(500, 40.0), "eccentricity": np.linspace(0, 1, 500), "x_um": np.zeros(500)}
    pq.write_table(pa.table(nuclei), tmp_path / "nuclei.parquet")
    summary = {
        "schema": "org.oncotwin.signatures.v1", "kind": "slide", "name": "slide", "um_per_pixel": 0.5,
        "n_nuclei": 500, "refused": {"pen": 3}, "settings": {}, "signatures": [one("nuclei.density", 2e3, "/mm2")],
    }  # fmt: skip
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    text = write_signatures_report(tmp_path).read_text(encoding="utf-8")
    assert "Part of the slide is kept out" in text and "Area" in text and text.count("<img") == 3
    assert "Density of nuclei: 2,000 per mm²" in text


@pytest.mark.parametrize("content", [None, "no JSON", "[]", '{"schema": "another"}'])
def test_what_is_no_summary_is_said(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "summary.json").write_text(content)
    with pytest.raises(ConfigurationError, match="oncotwin signatures"):
        write_signatures_report(tmp_path)


def test_maps_are_thinned_and_keep_their_size(tmp_path: Path) -> None:
    put_map(tmp_path, "large", np.zeros((1_500, 900), np.float32), 2.0)
    found = read_maps(tmp_path / "maps.zarr", 700)["large"]
    assert found.values.shape == (500, 300) and found.um_per_pixel == 6.0
    assert read_maps(tmp_path / "nowhere", 700) == {}


def test_a_coarse_picture_of_anybody_s_slide(tmp_path: Path) -> None:
    root = zarr.create_group(tmp_path / "s", zarr_format=2)
    axes = [{"name": name} for name in ("t", "y", "x", "c")]
    image = {"axes": axes, "datasets": [{"path": "0"}, {"path": "1"}]}
    root.attrs["multiscales"] = [image]
    root.create_array("0", shape=(1, 900, 600, 3), dtype="u1", chunks=(1, 300, 300, 3))
    root.create_array("1", data=np.broadcast_to(np.array([1, 2, 3], np.uint8), (1, 450, 300, 3)))
    found = coarse_picture(tmp_path / "s", 0.5, 200)
    assert found is not None
    assert found[0].shape == (150, 100, 3) and found[1] == 3.0 and found[0][4, 5].tolist() == [1, 2, 3]
    assert coarse_picture(tmp_path / "s", 0.5, 50) is None


def test_maps_without_a_value_are_drawn() -> None:
    assert draw_numbers(StoredMap("a", np.full((4, 5), np.nan), "1", 1.0), "a").startswith("data:image/png;base64,")
    assert draw_numbers(StoredMap("a", np.ones((1, 1)), "1", 1.0), "a", about_zero=True)
    assert draw_classes(StoredMap("a", np.full((4, 5), -1, np.int16), "1", 1.0), {})


@pytest.mark.parametrize(("width", "length"), [(1_000.0, 200.0), (6_000.0, 2_000.0), (299.0, 50.0), (30.0, 10.0)])
def test_scale_bars_are_round_and_fit(width: float, length: float) -> None:
    assert bar_um(width) == pytest.approx(length)


def test_words_and_numbers() -> None:
    assert scaled("um2", 3e6) == ("mm²", 1e-6) and scaled("um2", 40.0) == ("µm²", 1.0)
    assert scaled("/um", 1e-5) == ("per mm", 1e3) and scaled("cell", 1.0) == ("cell", 1.0)
    assert [number(v) for v in (None, float("nan"), 0, 0.01234, 12.345, 1234.5, 1e-5, 123456)] == [
        "–", "–", "0", "0.0123", "12.3", "1,234", "1.00e-05", "123,456",
    ]  # fmt: skip
    assert interval(None, 1.0) == "" and interval(0.1, 2.0) == "0.1 to 2"
    assert title("hypoxia.layer.inner_margin") == "mean in the layer: inner margin"
    assert title("niche_0.beside.niche_1") == "beside niche 1" and title("a.odd_name") == "odd name"
