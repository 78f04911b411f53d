"""Sections laid over each other: a shift of one section is taken out, tissues stay apart."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial.alignment import align_sections, embedding

N = 400


def drawn(shift: float) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Two sections of two tissues; all shares of the second are scaled by sets of their own."""
    rng = np.random.default_rng(2)
    classes = np.tile([0, 1], N)
    sections = np.repeat([0, 1], N)
    levels = rng.normal(0.0, 0.3, (2 * N, 6))
    levels[:, :2] += 1.5 * classes[:, None]
    levels[sections == 1] += shift * np.array([0.2, 0.1, 1.0, -1.0, 0.8, -0.6])
    return 1e-3 * np.exp(levels), sections, classes


def values(shift: float) -> dict[str, float]:
    shares, sections, classes = drawn(shift)
    return {one.name: one.value for one in align_sections(shares, sections, classes, seed=0).signatures}


def test_a_shift_of_a_section_is_taken_out_and_tissues_stay_apart() -> None:
    said = values(0.5)
    assert said["ilisi.before"] < 1.2 and said["ilisi.after"] > 1.8
    assert said["clisi.after"] < 1.05


def test_sections_without_a_shift_are_mixed_from_the_start() -> None:
    said = values(0.0)
    assert said["ilisi.before"] > 1.8 and abs(said["ilisi.after"] - said["ilisi.before"]) < 0.1


def test_spots_without_a_class_have_no_clisi() -> None:
    shares, sections, classes = drawn(1.0)
    classes[:10] = -1
    made = align_sections(shares, sections, classes, seed=0)
    assert np.isnan(made.clisi_after[:10]).all() and np.isfinite(made.clisi_after[10:]).all()
    none = align_sections(shares, sections, np.full(2 * N, -1), seed=0)
    assert np.isnan(none.clisi_after).all() and "too few" in none.signatures[3].note


def test_the_embedding_does_not_hang_on_the_order_of_spots_or_the_size_of_shares() -> None:
    shares, _, _ = drawn(1.0)
    order = np.random.default_rng(1).permutation(len(shares))
    np.testing.assert_allclose(embedding(shares)[order], embedding(shares[order]), rtol=1e-7, atol=1e-9)
    assert embedding(shares).shape == (2 * N, 6) and embedding(shares, 3).shape == (2 * N, 3)


def test_what_cannot_be_aligned_is_refused() -> None:
    shares, sections, classes = drawn(0.0)
    with pytest.raises(ConfigurationError, match="at least 2"):
        align_sections(shares[:N], sections[:N], classes[:N], seed=0)
    with pytest.raises(ConfigurationError, match="not negative"):
        embedding(-shares)
    with pytest.raises(ConfigurationError, match="gene sets differ"):
        embedding(np.ones((10, 4)))
