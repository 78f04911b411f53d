"""Stain vectors and their separation: known mixtures, scikit-learn-free algebra, and the fixed vectors as a refuge."""

from __future__ import annotations

import numpy as np
import pytest

from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial.slide_grid import ByteImage
from oncotwin.spatial.slide_stains import (
    FIXED_VECTORS,
    FloatArray,
    StainModel,
    fit_stains,
    merge_samples,
    sample_pixels,
    separate,
)
from oncotwin.spatial.slide_tissue import OD_STEPS, TISSUE, TissueModel

GLASS = TissueModel((240, 240, 240), 0.1, True)
TRUE = np.array([[0.60, 0.75, 0.28], [0.15, 0.95, 0.27]])
TRUE = TRUE / np.linalg.norm(TRUE, axis=1, keepdims=True)


def stained(amounts: FloatArray, vectors: FloatArray = TRUE) -> ByteImage:
    """RGB of amounts (rows, columns, 2) by Lambert-Beer."""
    return np.rint(240.0 * 10.0 ** -(amounts @ vectors)).astype(np.uint8)


def mixtures(shape: tuple[int, int], seed: int) -> FloatArray:
    """Mostly one stain or the other, as cells are."""
    rng = np.random.default_rng(seed)
    amounts = rng.uniform(0.3, 1.0, (*shape, 2))
    kind = rng.integers(3, size=shape)
    amounts[kind == 0, 1] *= 0.01
    amounts[kind == 1, 0] *= 0.01
    return amounts


def test_macenko_finds_the_vectors_of_a_mixture() -> None:
    found = fit_stains(sample_pixels(stained(mixtures((300, 300), 1)), (0, 0), 2, 1), GLASS)
    assert (found.source, found.reason) == ("macenko", "")
    for k in range(2):
        assert np.degrees(np.arccos(found.vectors[k] @ TRUE[k])) < 2.0


def test_separation_returns_the_amounts() -> None:
    """Against least squares by NumPy in floats; bytes and integer steps cost some hundredths of an OD."""
    image = stained(mixtures((60, 80), 2))
    block = separate(image, GLASS, StainModel(TRUE, "macenko", ""), 1)
    od = -np.log10(np.maximum(image, 1) / 240.0).reshape(-1, 3)
    theirs = np.linalg.lstsq(TRUE.T, od.T, rcond=None)[0]
    for ours, expected in zip((block.haematoxylin, block.eosin), theirs, strict=True):
        np.testing.assert_allclose(ours.reshape(-1) / OD_STEPS, np.maximum(expected, 0.0), atol=0.004)
    assert (block.flags == TISSUE).all()


def test_working_pixels_are_means_of_light() -> None:
    image = np.zeros((5, 6, 3), np.uint8)
    image[:4] = np.random.default_rng(0).integers(40, 200, (4, 6, 3))
    coarse = separate(image, GLASS, StainModel(TRUE, "macenko", ""), 2)
    means = image[:4].reshape(2, 2, 3, 2, 3).mean(axis=(1, 3))
    assert coarse.grey.shape == (2, 3)
    np.testing.assert_allclose(coarse.grey, 4 * means.mean(axis=2), atol=1.0)
    theirs = np.linalg.pinv(TRUE.T) @ -np.log10(means / 240.0).reshape(-1, 3).T
    np.testing.assert_allclose(coarse.haematoxylin.reshape(-1) / OD_STEPS, np.maximum(theirs[0], 0), atol=0.004)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (np.full((200, 200, 3), 238, np.uint8), "hold stain"),
        (stained(mixtures((200, 200), 3) * [0.0, 1.0]), "degrees"),
        (stained(mixtures((200, 200), 4), np.array([[0.27, 0.57, 0.78], [0.71, 0.42, 0.56]])), "degrees"),
    ],
)
def test_fixed_vectors_are_the_refuge(image: ByteImage, reason: str) -> None:
    """Bare glass, one stain alone, other stains than H&E."""
    found = fit_stains(sample_pixels(image, (0, 0), 2, 1), GLASS)
    assert found.source == "fixed" and reason in found.reason
    np.testing.assert_allclose(found.vectors, FIXED_VECTORS, atol=0.02)


def test_one_in_so_many_is_drawn() -> None:
    image = np.zeros((500, 500, 3), np.uint8)
    sample = sample_pixels(image, (700, 300), 50, 9)
    assert len(sample.places) == pytest.approx(5000, rel=0.06)
    rows, columns = sample.places >> 32, sample.places & 0xFFFFFFFF
    assert rows.min() >= 700 and columns.max() < 800
    assert abs(rows.mean() - 949.5) < 6 and abs(columns.mean() - 549.5) < 6
    assert np.array_equal(merge_samples([sample]).places, sample.places)


def test_what_is_no_image_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="not an RGB image"):
        separate(np.zeros((4, 4), np.uint8), GLASS, StainModel(TRUE, "macenko", ""), 1)
    with pytest.raises(ConfigurationError, match="at least 1"):
        sample_pixels(np.zeros((4, 4, 3), np.uint8), (0, 0), 0, 1)
