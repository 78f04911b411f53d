"""Radiomic features: what is refused, what bins do, and that nothing outside the call is changed."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from oncotwin.adapters.arrays.radiomics import Aggregation, RadiomicsSettings, radiomic_features, read_volume
from oncotwin.domain.claim import ArrayError
from oncotwin.domain.errors import ConfigurationError

PLAIN = RadiomicsSettings()
UNIT = (1.0, 1.0, 1.0)


def a_region(shape: tuple[int, ...] = (4, 6, 5)) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Levels 1 to 4 and a mask with a hole."""
    rng = np.random.default_rng(3)
    image = rng.integers(1, 5, shape).astype(float)
    mask = np.ones(shape, bool)
    mask[0, 0, 0] = mask[-1, 2, 2] = False
    return image, mask


def texture(features: dict[str, float]) -> dict[str, float]:
    """Those that are of levels alone."""
    return {tag: value for tag, value in features.items() if tag.startswith(("ih_", "cm_", "rlm_", "szm_", "dzm_"))}


@pytest.mark.parametrize(
    ("changed", "code", "said"),
    [
        ({"image": np.ones((4, 6))}, "no_volume", "no volume"),
        ({"mask": np.ones((4, 5, 6), bool)}, "bad_mask", r"\(4, 5, 6\).*\(4, 6, 5\)"),
        ({"mask": np.zeros((4, 6, 5), bool)}, "bad_mask", "no voxel"),
        ({"mask": np.arange(120).reshape(4, 6, 5) % 3}, "bad_mask", "2 labels"),
        ({"mask": np.where(np.arange(120).reshape(4, 6, 5) == 7, np.nan, 1.0)}, "not_finite", "1 voxel.*mask"),
        ({"image": np.full((4, 6, 5), np.inf)}, "not_finite", "120 voxels.*image"),
        ({"image": np.full((4, 6, 5), 1.5)}, "not_discrete", "whole numbers.*bins"),
        ({"image": np.zeros((4, 6, 5))}, "not_discrete", "whole numbers"),
        ({"spacing_mm": (1.0, 0.0, 1.0)}, "bad_spacing", "not positive"),
        ({"spacing_mm": (1.0, float("nan"), 1.0)}, "bad_spacing", "not positive"),
        ({"settings": RadiomicsSettings(bin_width=1.0, lowest=5.0)}, "bad_mask", "no voxel reaches 5"),
    ],
)
def test_what_cannot_be_read_is_refused(changed: dict[str, Any], code: str, said: str) -> None:
    image, mask = a_region()
    given: dict[str, Any] = {"image": image, "mask": mask, "spacing_mm": UNIT, "settings": PLAIN} | changed
    with pytest.raises(ArrayError, match=said) as caught:
        radiomic_features(**given)
    assert caught.value.reason_code == code


@pytest.mark.parametrize(
    "words",
    [
        {"n_bins": 8, "bin_width": 1.0, "lowest": 0.0}, {"n_bins": 1}, {"bin_width": 0.0, "lowest": 0.0},
        {"bin_width": 1.0}, {"lowest": 0.0}, {"bin_width": 1.0, "lowest": float("nan")}, {"aggregations": ()},
        {"aggregations": (Aggregation.MERGED_3D, Aggregation.MERGED_3D)},
    ],
)  # fmt: skip
def test_settings_that_contradict_each_other_are_refused(words: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="radiomics: "):
        RadiomicsSettings(**words)


def test_without_the_extra_it_is_said_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mirp", None)
    with pytest.raises(ConfigurationError, match=r"pip install oncotwin\[radiomics\]"):
        radiomic_features(*a_region(), UNIT, PLAIN)


def test_nothing_outside_the_call_is_changed(capsys: pytest.CaptureFixture[str]) -> None:
    image, mask = a_region()
    before = image.copy(), mask.copy(), list(logging.getLogger().handlers), logging.getLogger().level
    radiomic_features(image, mask, UNIT, PLAIN)
    assert np.array_equal(image, before[0]) and np.array_equal(mask, before[1])
    assert (logging.getLogger().handlers, logging.getLogger().level) == before[2:]
    assert capsys.readouterr() == ("", "")


def test_bins_are_levels() -> None:
    image, mask = a_region()
    both = replace(PLAIN, aggregations=(Aggregation.AVERAGED_2D, Aggregation.MERGED_3D))
    of_levels = texture(radiomic_features(image, mask, UNIT, both))
    assert len(of_levels) == 23 + 2 * (25 + 16) + 2 * (16 + 16)
    by_number = radiomic_features(10.0 * image - 70.0, mask, UNIT, replace(both, n_bins=4))
    by_width = radiomic_features(10.0 * image - 70.0, mask, UNIT, replace(both, bin_width=10.0, lowest=-60.0))
    assert texture(by_number) == pytest.approx(of_levels, nan_ok=True)
    assert texture(by_width) == pytest.approx(of_levels, nan_ok=True)


def test_lengths_are_millimetres_along_their_own_axis() -> None:
    shape: NDArray[Any] = np.ones((2, 4, 8))
    features = radiomic_features(shape, shape > 0, (5.0, 2.0, 0.5), PLAIN)
    assert features["morph_vol_approx"] == 64 * 5.0
    other = radiomic_features(shape.T.copy(), shape.T > 0, (0.5, 2.0, 5.0), PLAIN)
    assert other["morph_diam"] == pytest.approx(features["morph_diam"])
    assert features["morph_diam"] == pytest.approx(np.sqrt(10.0**2 + 8.0**2 + 4.0**2), rel=0.2)


def test_one_slice_and_one_voxel_have_what_they_can_have() -> None:
    image, _ = a_region((1, 6, 5))
    flat = radiomic_features(image, np.ones(image.shape), UNIT, replace(PLAIN, aggregations=tuple(Aggregation)))
    assert flat["cm_contrast_2D_comb"] == pytest.approx(flat["cm_contrast_3D_comb"])
    alone = np.zeros(image.shape)
    alone[0, 2, 2] = 1.0
    one = radiomic_features(image, alone, UNIT, PLAIN)
    assert one["stat_mean"] == image[0, 2, 2] and one["morph_vol_approx"] == 1.0


def test_samples_of_a_large_region_are_the_same_each_time() -> None:
    rng = np.random.default_rng(4)
    image = rng.integers(1, 5, (10, 11, 12)).astype(float)
    first, again = (radiomic_features(image, image > 0, UNIT, PLAIN) for _ in range(2))
    assert first == pytest.approx(again, rel=0.0, abs=0.0, nan_ok=True)


def test_a_volume_is_read_from_numpy_and_zarr(tmp_path: Path) -> None:
    image, _ = a_region()
    np.save(tmp_path / "a.npy", image)
    zarr.create_array(tmp_path / "a.zarr", data=image)
    for name in ("a.npy", "a.zarr"):
        read, spacing = read_volume(tmp_path / name)
        assert np.array_equal(read, image) and spacing is None


def ome_zarr(folder: Path, image: NDArray[Any], axes: str, unit: str | None, scale: list[float]) -> Path:
    """An image of one level."""
    group = zarr.open_group(folder, mode="w", zarr_format=3)
    group.create_array("0", data=image)
    said: list[Any] = [{"name": axis} | ({"unit": unit} if unit and axis in "zyx" else {}) for axis in axes]
    level: Any = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": scale}]}
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": said, "datasets": [level]}]}
    return folder


def test_an_ome_zarr_says_its_spacing(tmp_path: Path) -> None:
    image, _ = a_region()
    stored = ome_zarr(tmp_path / "a.zarr", image[None], "czyx", "micrometer", [1.0, 3_000.0, 500.0, 250.0])
    read, spacing = read_volume(stored)
    assert np.array_equal(read, image) and spacing == pytest.approx((3.0, 0.5, 0.25))
    silent = ome_zarr(tmp_path / "b.zarr", image, "zyx", None, [3.0, 0.5, 0.25])
    assert read_volume(silent)[1] is None


def test_what_is_no_volume_is_refused(tmp_path: Path) -> None:
    image, _ = a_region()
    (tmp_path / "text.npy").write_text("no array")
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}]), allow_pickle=True)
    np.save(tmp_path / "cut.npy", image)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "cut.npy").read_bytes()[:-8])
    for name in ("text.npy", "objects.npy", "cut.npy"):
        with pytest.raises(ArrayError, match=r"is no \.npy file"):
            read_volume(tmp_path / name)
    zarr.open_group(tmp_path / "empty.zarr", mode="w")
    with pytest.raises(ArrayError, match="neither one array nor one image"):
        read_volume(tmp_path / "empty.zarr")
    with pytest.raises(ArrayError, match="no volume"):
        read_volume(ome_zarr(tmp_path / "c.zarr", np.stack([image, image]), "czyx", "mm", [1.0] * 4))
    with pytest.raises(ArrayError, match="does not describe"):
        read_volume(ome_zarr(tmp_path / "d.zarr", image, "zyx", "mm", [1.0]))
