"""Sections and slides at the command line: from a folder to a report, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from oncotwin.adapters.arrays.phantoms import write_section_folder, write_slide
from oncotwin.spatial.section_phantom import make_section
from oncotwin.spatial.signature import Signature
from oncotwin.spatial.slide_phantom import DIFFICULTIES, make_phantom
from oncotwin.testing.patients import diameter, event_line
from oncotwin_flows.section_worker import load_cohorts
from oncotwin_services.cli import main


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONCOTWIN_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def run(*words: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, list(words))
    problem = "" if result.exception is None else repr(result.exception)
    assert result.exit_code == code, result.output + result.stderr + problem
    return result


def as_json(*words: str) -> Any:
    return json.loads(run(*words, "--json").stdout)


class _Page(HTMLParser):
    """What a page asks for, and its words."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.without_words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        about = dict(attrs)
        self.asked += [value for name, value in attrs if name in ("src", "href") and value]
        if tag == "img" and not about.get("alt"):
            self.without_words.append(str(attrs)[:80])


def check_page(path: Path) -> str:
    """The page stands alone and says what its pictures show; returns its text."""
    text = path.read_text(encoding="utf-8")
    page = _Page()
    page.feed(text)
    assert page.asked and all(address.startswith("data:image/png;base64,") for address in page.asked)
    assert not page.without_words
    assert "img-src data:" in text and "<script" not in text
    # DOIs are words here, and no page is asked for.
    assert not re.search(r"(src|href|url\()\s*=?\s*[\"']?https?:", text)
    return text


@pytest.mark.slow
def test_from_a_folder_of_space_ranger_to_a_report(tmp_path: Path) -> None:
    truth = make_section("excluded", np.random.default_rng(1), 24)
    write_section_folder(truth, tmp_path / "visium")
    made = as_json("section", "import", "visium", "--out", "section.zarr")
    assert (made["n_rows"], made["um_per_unit"], made["platform"]) == (len(truth.ids), 0.5, "10x Visium")
    found = as_json("signatures", "section.zarr", "--workers", "1", "--niches", "4")
    assert found["kind"] == "section" and found["n_rows"] == len(truth.ids)
    folder = tmp_path / "section.signatures"
    assert Path(found["report"]) == Path("section.signatures") / "report.html"
    summary = json.loads((folder / "summary.json").read_text())
    assert {one["unit"] for one in summary["signatures"]}
    # A spot of fat may have too few counts although it did not fail.
    assert abs(summary["n_kept"] - int((~truth.failed).sum())) <= 0.01 * len(truth.ids)
    table = pyarrow.parquet.read_table(folder / "cells.parquet").to_pydict()
    assert table["id"] == list(truth.ids)
    assert set(table["niche"]) <= {-1, 0, 1, 2, 3}
    right = [
        (region == "tumour") == (distance < 0)
        for region, distance, kept in zip(table["region"], truth.distance_um, table["kept"], strict=True)
        if kept and abs(distance) > 150
    ]
    assert np.mean(right) > 0.95
    text = check_page(folder / "report.html")
    for words in ("Tumour and stroma", "Lack of oxygen (hypoxia)", "kept out", "Niches", "90 % interval"):
        assert words in text
    assert not list(tmp_path.glob(".*"))
    assert "there already" in run("signatures", "section.zarr", code=2).stderr
    check_alignment(tmp_path)


def check_alignment(folder: Path) -> None:
    """A section and its double are mixed from the start, and stay so."""
    shutil.copytree(folder / "section.signatures", folder / "double.signatures")
    made = as_json("section", "align", "section.signatures", "double.signatures", "--out", "aligned")
    value = {one["name"]: one["value"] for one in made["signatures"]}
    assert value["ilisi.before"] > 1.8 and value["ilisi.after"] > 1.8 and value["clisi.after"] < 1.5
    table = pyarrow.parquet.read_table(folder / "aligned" / "aligned.parquet")
    assert table.num_rows == made["spots"] and {"section", "id", "class", "aligned_1"} <= set(table.column_names)
    assert "sections in effect" in check_page(folder / "aligned" / "alignment.html")
    assert "there already" in run("section", "align", "section.signatures", "--out", "aligned", code=2).stderr
    assert "at least 2" in run("section", "align", "section.signatures", "--out", "one", code=2).stderr
    for column, said in (("kind", "no column"), ("x", "no classes")):
        words = ("section", "align", "section.signatures", "double.signatures", "--out", "b", "--classes", column)
        assert said in run(*words, code=2).stderr


@pytest.mark.slow
def test_from_an_image_to_a_report(tmp_path: Path) -> None:
    truth = make_phantom((700, 900), 0.5, DIFFICULTIES["plain"], np.random.default_rng(2))
    Image.fromarray(truth.image).save("slide.png")
    made = as_json("slide", "import", "slide.png", "--mpp", "0.5", "--out", "slide.zarr")
    assert (made["rows"], made["columns"], made["um_per_pixel"]) == (700, 900, [0.5, 0.5])
    found = as_json("signatures", "slide.zarr", "--workers", "2", "--tile", "512", "--out", "out")
    assert found["kind"] == "slide"
    nuclei = pyarrow.parquet.read_table("out/nuclei.parquet")
    assert {"x_um", "y_um", "area_um2", "eccentricity", "intensity"} <= set(nuclei.column_names)
    assert abs(nuclei.num_rows - len(truth.x_um)) < 0.2 * len(truth.x_um)
    assert "Nuclei" in check_page(tmp_path / "out" / "report.html")


@pytest.mark.slow
def test_a_damaged_chunk_ends_as_one_sentence(tmp_path: Path) -> None:
    """In a process of its own: what Dask would print does not pass through the command's own streams."""
    write_slide(tmp_path / "a.zarr", 600, 0.5, np.random.default_rng(3))
    [shard] = [path for path in (tmp_path / "a.zarr" / "0" / "c").rglob("*") if path.is_file()]
    content = bytearray(shard.read_bytes())
    content[100:200] = bytes(100)
    shard.write_bytes(content)
    program = Path(sys.executable).with_name("oncotwin")
    done = subprocess.run([program, "signatures", "a.zarr"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    [said] = [line for line in done.stderr.splitlines() if "dashboard" not in line]
    assert "cannot be decoded" in said and "0/c/0/0/0" in said and "write or send" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zarr"]


def test_what_cannot_be_imported_says_what_where_and_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "cells.csv").write_text("cell_id,x,y\na,1,1\nb,nan,2\n")
    said = run("section", "import", "cells.csv", "--out", "a.zarr", "--um-per-unit", "1", code=2).stderr
    assert "row 2" in said and "mend it" in said
    assert not (tmp_path / "a.zarr").exists()
    said = run("section", "import", "cells.csv", "--out", "a.zarr", code=2).stderr
    assert "--um-per-unit" in said
    said = run("section", "import", "cells.csv", "--out", "a.zarr", "--only", "x", code=2).stderr
    assert "COLUMN=VALUE" in said
    Image.new("RGB", (64, 64)).save("a.png")
    said = run("slide", "import", "a.png", "--out", "b.zarr", code=2).stderr
    assert "--mpp" in said
    run("slide", "import", "a.png", "--mpp", "0.5", "--out", "b.zarr")
    assert "there already" in run("slide", "import", "a.png", "--mpp", "0.5", "--out", "b.zarr", code=2).stderr
    (tmp_path / "c.zarr").mkdir()
    assert "section import" in run("signatures", "c.zarr", code=2).stderr


def test_help_names_the_commands() -> None:
    for words in (("section", "import"), ("slide", "import"), ("signatures",)):
        assert "--json" in run(*words, "--help").stdout


def test_from_a_claim_to_the_twin_by_commands_alone(tmp_path: Path) -> None:
    write_section_folder(make_section("excluded", np.random.default_rng(6), 16), tmp_path / "input")
    run("section", "import", str(tmp_path / "input"), "--out", str(tmp_path / "arrays" / "A.zarr"))
    claimed = as_json("claim", str(tmp_path / "arrays" / "A.zarr"))
    assert set(claimed) == {"dataref", "datahash", "datasize"}
    section = {"section": "A", "specimen": "S1", "panel": "all", "platform": "Visium", "pixel_size_um": 0.5}
    told = event_line("omics.section", "s1", 60, section, **claimed)
    lines = [diameter("d0", 0, 40.0), diameter("d1", 40, 36.0), told]
    (tmp_path / "events.jsonl").write_bytes(b"\n".join(lines))
    allowed = ("--arrays", (tmp_path / "arrays").as_uri())
    assert as_json("ingest", "events.jsonl", *allowed)["accepted"] == 3
    done = as_json("work", "--spatial", "--until-idle", *allowed)
    assert done["n_sections"] == 1 and done["n_evidence"] >= 2 and done["n_rejected"] == 0
    as_json("work", "--until-idle", "--ray", "in-process", *allowed)
    run("report", "H1/p1", "--ray", "in-process", "--out", "page.html")
    assert "Immune effect" in (tmp_path / "page.html").read_text()
    assert "no array store is allowed" in run("work", "--spatial", code=2).stderr


def test_a_cohort_of_sections(tmp_path: Path) -> None:
    rng, folders = np.random.default_rng(5), []
    for at in range(21):
        entries = [
            Signature(f"set{i}.share", float(v), "1", float(v), float(v), "source").as_json()
            for i, v in enumerate(rng.uniform(0.2, 0.6, 10))
        ]
        entries.append({**entries[0], "name": "niche_0.share"})
        folders.append(tmp_path / f"{at}.signatures")
        folders[-1].mkdir()
        content = {"kind": "section", "platform": "Visium", "signatures": entries}
        (folders[-1] / "summary.json").write_text(json.dumps(content))
    words = ("section", "cohort", *map(str, folders), "--name", "ours", "--for", "omics.section Visium")
    (tmp_path / "cohorts").mkdir()
    made = as_json(*words, "--out", "cohorts/visium.json")
    assert (made["sections"], made["signatures"]) == (21, 10)
    [(of, cohort)] = load_cohorts(tmp_path / "cohorts").items()
    assert of == "omics.section Visium" and cohort.name == "ours"
    assert "is there already" in run(*words, "--out", "cohorts/visium.json", code=2).stderr
    wrong = run("section", "cohort", str(folders[0]), "--name", "x", "--for", "pathology.wsi H&E", "--out", "x", code=2)
    assert "is of omics.section" in wrong.stderr
    (folders[0] / "summary.json").write_text("{")
    assert "is no summary of signatures" in run(*words, "--out", "y.json", code=2).stderr
