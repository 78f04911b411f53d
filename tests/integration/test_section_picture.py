"""The picture beside a section: an OME-Zarr in the same micrometres as the spots."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import zarr
from PIL import Image

from oncotwin.adapters.arrays.anndata_zarr import StoredSection
from oncotwin.adapters.arrays.phantoms import write_section_folder
from oncotwin.adapters.arrays.sections import import_section
from oncotwin.adapters.arrays.zarr_check import check_zarr
from oncotwin.spatial.section_phantom import make_section

SPOTS = [f"{x}x{y}" for y in range(2, 8) for x in range(3, 9)]


def printed_array(folder: Path, *, shown: bool = True) -> Path:
    """A section on a printed array, each spot a dark pixel of its picture: 20 pixels are one pitch of 200 um."""
    for name in ("ST-cnts", "ST-spotfiles", "ST-imgs/A/A1"):
        (folder / name).mkdir(parents=True)
    counts = "\n".join(["\tG1\tG2", *(f"{spot}\t1\t2" for spot in SPOTS)]) + "\n"
    (folder / "ST-cnts" / "A1.tsv.gz").write_bytes(gzip.compress(counts.encode()))
    lines, picture = ["x\ty\tnew_x\tnew_y\tpixel_x\tpixel_y\tselected"], np.full((180, 200, 3), 250, np.uint8)
    for spot in SPOTS:
        x, y = (int(part) for part in spot.split("x"))
        lines.append(f"{x}\t{y}\t{x + 0.05}\t{y - 0.1}\t{20 * x + 11}\t{20 * y - 2}\t1")
        picture[20 * y - 2, 20 * x + 11] = 0
    (folder / "ST-spotfiles" / "A1_selection.tsv").write_text("\n".join(lines))
    if shown:
        Image.fromarray(picture).save(folder / "ST-imgs" / "A" / "A1" / "he.jpg", "PNG")
    return folder / "ST-cnts" / "A1.tsv.gz"


def place_of(image: Path) -> tuple[float, np.ndarray]:
    """Size of a pixel, and y and x of the first one's centre, as the image says."""
    ome = json.loads((image / "zarr.json").read_text())["attributes"]["ome"]
    scale, shift = ome["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    return scale["scale"][2], np.array(shift["translation"][1:])


def test_the_spots_of_a_printed_array_lie_on_their_pixels(tmp_path: Path) -> None:
    made = import_section(printed_array(tmp_path), tmp_path / "a.zarr", 200.0)
    assert made.image == tmp_path / "a.image.zarr" and not made.left_out
    check_zarr(made.image)
    size, origin = place_of(made.image)
    assert size == pytest.approx(10.0)
    dark = np.argwhere(np.asarray(zarr.open_array(made.image / "0", mode="r")[0]) < 128)
    places = StoredSection(tmp_path / "a.zarr").block(0, len(SPOTS)).coordinates[:, ::-1]
    np.testing.assert_allclose(np.sort(origin + size * dark, axis=0), np.sort(places, axis=0), atol=1e-6)


def test_the_picture_of_space_ranger_has_the_spots_micrometres(tmp_path: Path) -> None:
    folder = tmp_path / "visium"
    write_section_folder(make_section("hot", np.random.default_rng(0), 12), folder)
    Image.new("RGB", (120, 120), (200, 150, 180)).save(folder / "spatial" / "tissue_hires_image.png")
    path = folder / "spatial" / "scalefactors_json.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tissue_hires_scalef": 0.05}))
    made = import_section(folder, tmp_path / "a.zarr")
    assert made.image is not None and made.um_per_unit == 0.5
    size, origin = place_of(made.image)
    assert size == pytest.approx(10.0)
    np.testing.assert_allclose(origin, 0.5 * (20 - 1) / 2)


def test_a_picture_that_cannot_be_read_does_not_stop_the_counts(tmp_path: Path) -> None:
    source = printed_array(tmp_path)
    (tmp_path / "ST-imgs" / "A" / "A1" / "he.jpg").write_bytes(b"\xff\xd8\xff cut off")
    made = import_section(source, tmp_path / "a.zarr", 200.0)
    assert made.image is None and made.n_rows == len(SPOTS)
    assert made.left_out[0].startswith("he.jpg (")
    assert not (tmp_path / "a.image.zarr").exists()
    assert not list(tmp_path.glob(".*"))


def test_without_a_picture_or_with_one_in_the_way(tmp_path: Path) -> None:
    source = printed_array(tmp_path / "b", shown=False)
    made = import_section(source, tmp_path / "b.zarr", 200.0)
    assert made.image is None and not made.left_out
    (tmp_path / "c.image.zarr").mkdir()
    with pytest.raises(FileExistsError, match=r"c\.image\.zarr"):
        import_section(source, tmp_path / "c.zarr", 200.0)


@pytest.mark.needs_data("her2_spatial")
@pytest.mark.slow
def test_the_real_picture_is_of_the_size_that_its_spots_say(data_folder: Path, tmp_path: Path) -> None:
    made = import_section(data_folder / "her2_spatial" / "ST-cnts" / "C2.tsv.gz", tmp_path / "a.zarr", 200.0)
    assert made.image is not None
    size, _ = place_of(made.image)
    assert 0.6 < size < 0.8
