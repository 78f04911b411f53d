"""Slides from OME-Zarr to signatures: the same for every tiling, true to generated tissue, and honest on bad slides."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import zarr
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from oncotwin.adapters.arrays import slide_signature_passes, slides
from oncotwin.adapters.arrays.engine import open_engine
from oncotwin.adapters.arrays.slide_signatures import SCHEMA, SlideSummary, slide_signatures
from oncotwin.adapters.arrays.slide_store import open_slide
from oncotwin.adapters.arrays.zarr_check import check_zarr
from oncotwin.domain.claim import ArrayError
from oncotwin.spatial.signature import Signature
from oncotwin.spatial.slide_phantom import DIFFICULTIES, Phantom, make_phantom, score_detections

MPP = 0.25
SHAPE = (1_100, 2_610)
ROOT = Path(__file__).parents[2]


@cache
def phantom() -> Phantom:
    return make_phantom(SHAPE, MPP, DIFFICULTIES["mixed"], np.random.default_rng(8))


def write(image: NDArray[np.uint8], out: Path, mpp: float = MPP) -> Path:
    shape = (image.shape[0], image.shape[1])
    slides.write_pyramid(lambda rows, columns: image[rows, columns], shape, out, out.stem, (mpp, mpp))
    return out


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of several shards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slides, "SHARD_PIXELS", 1_024)
        return write(phantom().image, tmp_path_factory.mktemp("slide") / "a.zarr")


@pytest.fixture(scope="module")
def whole(slide: Path, tmp_path_factory: pytest.TempPathFactory) -> SlideSummary:
    """In one tile."""
    return slide_signatures(slide, tmp_path_factory.mktemp("whole") / "out", tile=4_096)


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def nuclei_of(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "nuclei.parquet")


@pytest.mark.parametrize(("tile", "n_workers"), [(256, 4), (512, 1), (1_000, 4), (4_096, 4)])
def test_no_byte_depends_on_tiles_or_workers(
    slide: Path, whole: SlideSummary, tmp_path: Path, tile: int, n_workers: int
) -> None:
    with open_engine(n_workers) as engine:
        slide_signatures(slide, tmp_path / "out", tile=tile, engine=engine)
    assert whole.n_nuclei > 700
    assert files_of(tmp_path / "out") == files_of(whole.folder)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_no_byte_depends_on_bands(
    slide: Path, whole: SlideSummary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for height in (300, 512):
        monkeypatch.setattr(slide_signature_passes, "BAND", height)
        slide_signatures(slide, tmp_path / str(height))
        assert files_of(tmp_path / str(height)) == files_of(whole.folder)


@pytest.mark.slow
def test_processes_find_the_same(slide: Path, whole: SlideSummary, tmp_path: Path) -> None:
    with open_engine(2, processes=True) as engine:
        slide_signatures(slide, tmp_path / "out", tile=1_024, engine=engine)
    assert files_of(tmp_path / "out") == files_of(whole.folder)


def test_nuclei_are_those_of_the_generated_tissue(whole: SlideSummary) -> None:
    truth, table = phantom(), nuclei_of(whole.folder)
    assert list(table.columns) == ["x_um", "y_um", "area_um2", "eccentricity", "intensity", "usable"]
    score = score_detections((truth.x_um, truth.y_um), (table.x_um.to_numpy(), table.y_um.to_numpy()), 3.0)
    assert score.f1 >= 0.85, score
    assert np.median(table.area_um2) == pytest.approx(np.median(truth.area_um2), rel=0.3)


def test_scalars_are_those_of_the_table(whole: SlideSummary) -> None:
    """The map's sums against the table, which holds every nucleus."""
    table = nuclei_of(whole.folder)
    assert (len(table), int(table.usable.sum())) == (whole.n_nuclei, whole.n_usable)
    kept = table[table.usable]
    value = {one.name: one for one in whole.signatures}
    assert value["nuclei.number"].value == len(kept)
    assert value["nuclei.area"].value == pytest.approx(kept.area_um2.mean(), rel=1e-12)
    assert value["nuclei.area_sd"].value == pytest.approx(kept.area_um2.std(ddof=0), rel=1e-9)
    assert value["nuclei.eccentricity"].value == pytest.approx(kept.eccentricity.mean(), rel=1e-6)
    weighted = np.average(kept.intensity, weights=kept.area_um2)
    assert value["nuclei.intensity"].value == pytest.approx(weighted, rel=1e-12)
    area_mm2 = value["tissue.area"].value * 1e-6
    assert area_mm2 == pytest.approx(0.95 * SHAPE[0] * SHAPE[1] * MPP**2 * 1e-6, rel=0.06)
    assert value["nuclei.density"].value == pytest.approx(len(kept) / area_mm2, rel=1e-12)
    shares = [one.value for one in whole.signatures if one.name.startswith("class_")]
    assert len(shares) == 4 and sum(shares) == pytest.approx(1.0)
    for one in whole.signatures:
        assert one.low <= one.value <= one.high or (one.name.startswith("quality") and one.value == 0.0), one


def test_the_summary_and_the_maps_say_what_they_rest_on(slide: Path, whole: SlideSummary) -> None:
    said = json.loads((whole.folder / "summary.json").read_text())
    assert (said["schema"], said["kind"], said["name"]) == (SCHEMA, "slide", "a.zarr")
    assert said["um_per_pixel"] == [MPP, MPP] and said["shape"] == list(SHAPE)
    assert {"value", "unit", "low", "high", "source"} <= set(said["signatures"][0])
    check_zarr(whole.folder / "maps.zarr")
    root = zarr.open_group(whole.folder / "maps.zarr", mode="r")
    assert set(root) == {
        "nuclei_density", "nucleus_area", "haematoxylin", "eosin", "tissue", "focus", "pen", "quality", "class",
    }  # fmt: skip
    density: Any = root["nuclei_density"]
    (image,) = density.attrs["ome"]["multiscales"]
    scale, shift = (one for one in image["datasets"][0]["coordinateTransformations"])
    assert scale["scale"] == [50.0, 50.0] and shift["translation"] == [24.875, 24.875]
    cells = np.asarray(density["0"])
    assert cells.shape == (6, 14) and np.nanmean(cells) > 1_000


@pytest.mark.parametrize("axes", ["yxc", "tczyx"])
def test_layouts_of_others_give_the_same(whole: SlideSummary, tmp_path: Path, axes: str) -> None:
    image = phantom().image if axes == "yxc" else np.moveaxis(phantom().image, 2, 0)[None, :, None]
    group = zarr.create_group(tmp_path / "a.zarr")
    chunks = (700, 700, 3) if axes == "yxc" else (1, 1, 1, 640, 900)
    group.create_array("level", shape=image.shape, chunks=chunks, dtype="uint8")[...] = image
    kinds = {"y": "space", "x": "space", "z": "space", "c": "channel", "t": "time"}
    unit = {"unit": "nanometer"}
    said: list[Any] = [{"name": one, "type": kinds[one]} | (unit if one in "yx" else {}) for one in axes]
    level = {"type": "scale", "scale": [125.0 if one in "yx" else 1.0 for one in axes]}
    both = {"type": "scale", "scale": [2.0 if one in "yx" else 1.0 for one in axes]}
    dataset = {"path": "level", "coordinateTransformations": [level]}
    scales = [{"axes": said, "datasets": [dataset], "coordinateTransformations": [both]}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": scales}
    assert open_slide(tmp_path / "a.zarr").um_per_pixel == MPP
    slide_signatures(tmp_path / "a.zarr", tmp_path / "out")
    pd.testing.assert_frame_equal(nuclei_of(tmp_path / "out"), nuclei_of(whole.folder))


def value_of(summary: SlideSummary, name: str) -> Signature:
    (found,) = (one for one in summary.signatures if one.name == name)
    return found


def test_ink_and_blur_are_kept_out_and_reported(tmp_path: Path) -> None:
    image = phantom().image[:1_600, :2_400].copy()
    image[:, :400] = (60, 160, 90)
    blurred = np.stack([gaussian_filter(image[..., c].astype(float), 12.0) for c in range(3)], axis=2)
    image[:, 1_600:] = blurred[:, 1_600:].astype(np.uint8)
    made = slide_signatures(write(image, tmp_path / "a.zarr"), tmp_path / "out")
    assert value_of(made, "quality.pen_marks").value == pytest.approx(1 / 6, abs=0.03)
    assert value_of(made, "quality.blurred").value == pytest.approx(1 / 3, abs=0.06)
    assert value_of(made, "quality.kept_out").value == pytest.approx(1 / 2, abs=0.08)
    assert {"pen marks (map cells)", "blurred (map cells)"} <= set(made.refused)
    table = nuclei_of(tmp_path / "out")
    inside = table.x_um.between(120.0, 380.0)
    assert table[inside].usable.all() and not table[table.x_um > 450.0].usable.any()
    alone = slide_signatures(write(image[:, 400:1_600], tmp_path / "b.zarr"), tmp_path / "alone")
    for name in ("nuclei.density", "nuclei.area"):
        assert value_of(made, name).value == pytest.approx(value_of(alone, name).value, rel=0.05)


def test_a_fold_is_kept_out(tmp_path: Path) -> None:
    """Tissue that lies double: the light goes through both layers."""
    image = phantom().image[:1_600, :1_600].astype(float)
    image[:, 800:1_000] = image[:, 800:1_000] * image[:, 1_000:1_200] / 240.0
    made = slide_signatures(write(image.astype(np.uint8), tmp_path / "a.zarr"), tmp_path / "out")
    assert value_of(made, "quality.folded").value == pytest.approx(1 / 8, abs=0.07)


def without(slide: Path, key: str) -> None:
    """Take something out of the header of a slide."""
    header = json.loads((slide / "zarr.json").read_text())
    (image,) = header["attributes"]["ome"]["multiscales"]
    for axis in image["axes"]:
        axis.pop(key, None)
    for level in image["datasets"]:
        level.pop(key, None)
    (slide / "zarr.json").write_text(json.dumps(header))


@pytest.mark.parametrize("key", ["unit", "coordinateTransformations"])
def test_a_pixel_size_that_is_not_said_is_not_assumed(tmp_path: Path, key: str) -> None:
    slide = write(phantom().image[:300, :300], tmp_path / "a.zarr")
    without(slide, key)
    with pytest.raises(ArrayError, match="--mpp") as raised:
        slide_signatures(slide, tmp_path / "out")
    assert raised.value.reason_code == "no_pixel_size"
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]


def test_slides_that_cannot_be_measured_say_why(tmp_path: Path) -> None:
    white = write(np.full((600, 600, 3), 241, np.uint8), tmp_path / "white.zarr")
    with pytest.raises(ArrayError, match="no usable tissue"):
        slide_signatures(white, tmp_path / "out")
    coarse = write(phantom().image[:300, :300], tmp_path / "coarse.zarr", mpp=4.0)
    with pytest.raises(ArrayError, match="nuclei cannot be told apart"):
        slide_signatures(coarse, tmp_path / "out")
    (tmp_path / "out").mkdir()
    with pytest.raises(FileExistsError, match="there already"):
        slide_signatures(white, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.alone
def test_killed_and_started_again_gives_the_same(slide: Path, whole: SlideSummary, tmp_path: Path) -> None:
    out, scratch = tmp_path / "out", tmp_path / "scratch"
    code = (
        "from pathlib import Path; from oncotwin.adapters.arrays.engine import open_engine; "
        "from oncotwin.adapters.arrays.slide_signatures import slide_signatures\n"
        f"with open_engine(2, scratch=Path({str(scratch)!r})) as engine:\n"
        f"    slide_signatures(Path({str(slide)!r}), Path({str(out)!r}), tile=256, engine=engine)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(ROOT)])}
    for n_kept in (6, 12):
        # The sample's patches are blocks as well.
        with subprocess.Popen([sys.executable, "-c", code], env=environment, cwd=ROOT) as run:
            while len(list(scratch.glob("*.block"))) < n_kept and run.poll() is None:
                time.sleep(0.005)
            run.send_signal(signal.SIGKILL)
        assert not out.exists()
    before = {path.name: path.stat().st_mtime_ns for path in scratch.glob("*.block")}
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, check=True)
    after = {path.name: path.stat().st_mtime_ns for path in scratch.glob("*.block")}
    assert len(before) >= 12 and before.items() <= after.items()
    assert files_of(out) == files_of(whole.folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "scratch"]
