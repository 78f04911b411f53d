"""Harmony: batches mix and types stay apart as well as in the reference; the correction in closed form."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.unit.spatial.batch_set import make_batches

from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial.harmony import HarmonySettings, align
from oncotwin.spatial.lisi import Neighbourhood, lisi

REFERENCE = Path(__file__).parents[2] / "reference" / "harmony.json"


@pytest.mark.parametrize("case", range(3))
def test_mixes_as_well_as_the_reference_and_keeps_as_much(case: int) -> None:
    [known] = [one for one in json.loads(REFERENCE.read_text())["cases"] if one["seed"] == case]
    points, batches, types = make_batches(case)
    before = Neighbourhood(points)
    assert float(lisi(before, batches).mean()) == pytest.approx(known["before"]["batches"], rel=0.02)
    after = Neighbourhood(align(points, batches, seed=1).points)
    assert float(lisi(after, batches).mean()) > 0.97 * known["after"]["batches"]
    assert float(lisi(after, types).mean()) < 1.03 * known["after"]["types"]


def test_is_deterministic_by_seed() -> None:
    points, batches, _ = make_batches(0, 400)
    first, second = align(points, batches, seed=5), align(points, batches, seed=5)
    assert first.points.tobytes() == second.points.tobytes() and first.objective == second.objective


def test_objective_falls_and_membership_is_a_distribution() -> None:
    points, batches, _ = make_batches(1, 600)
    found = align(points, batches, seed=2)
    assert found.objective[-1] < found.objective[0]
    np.testing.assert_allclose(found.membership.sum(axis=1), 1.0)
    assert (found.membership >= 0.0).all()


def test_one_cluster_is_one_ridge_regression() -> None:
    """With a single cluster everybody belongs to it, and the shift of a batch has a closed form."""
    points, batches, _ = make_batches(2, 300)
    ridge = 4.0
    found = align(points, batches, seed=3, settings=HarmonySettings(n_clusters=1, ridge=ridge))
    design = np.column_stack([np.ones(300), batches == 0, batches == 1, batches == 2])
    # Ridge as rows of data: an independent way to the same solution, by least squares.
    rows = np.vstack([design, np.sqrt(ridge) * np.eye(4)[1:]])
    values = np.vstack([points, np.zeros((3, points.shape[1]))])
    shift = np.linalg.lstsq(rows, values, rcond=None)[0]
    np.testing.assert_allclose(found.points, points - design[:, 1:] @ shift[1:], rtol=1e-6, atol=1e-8)


def test_one_batch_is_left_as_it_is() -> None:
    points, _, _ = make_batches(3, 200)
    found = align(points, np.zeros(200, dtype=np.int64), seed=1)
    assert found.points.tolist() == points.tolist() and found.converged


def test_without_the_penalty_mixing_is_worse() -> None:
    points, batches, _ = make_batches(4, 900)
    with_it = Neighbourhood(align(points, batches, seed=1).points)
    without = Neighbourhood(align(points, batches, seed=1, settings=HarmonySettings(diversity=0.0)).points)
    assert lisi(with_it, batches).mean() >= lisi(without, batches).mean()


def test_bad_input_is_refused() -> None:
    points, batches, _ = make_batches(5, 100)
    with pytest.raises(ConfigurationError, match="finite"):
        align(np.full_like(points, np.inf), batches, seed=1)
    with pytest.raises(ConfigurationError, match="without gaps"):
        align(points, np.where(batches == 1, 5, batches), seed=1)
    with pytest.raises(ConfigurationError, match="as many batches"):
        align(points, batches[:-1], seed=1)
    with pytest.raises(ConfigurationError, match="clusters"):
        align(points, batches, seed=1, settings=HarmonySettings(n_clusters=101))
    with pytest.raises(ConfigurationError, match="out of range"):
        HarmonySettings(softness=0.0)
