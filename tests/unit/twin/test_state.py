"""The canonical bytes of a twin: what earlier releases wrote stays readable, and keeps its digest."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from oncotwin.domain.errors import StoreError
from oncotwin.filters.base import Filter, TwinPosterior
from oncotwin.filters.choice import choose_filter, make_filter
from oncotwin.twin.state import PartState, TwinState, digest, from_bytes, to_bytes
from oncotwin.twin.timeline import Cursor

OTHERS = ("ensemble", "square-root-ensemble", "particle")
FIRST_RELEASE = {
    "base": {
        "plan": [], "planned_at": None, "started": False, "targets": [],
        "therapy": {"agents": [], "line": 0, "n_episodes": 0, "switched": None}, "time": "-inf",
    },
    "drift": {"series": []}, "guarded": False, "last": ["2024-03-17T12:00:00+00:00", "urn:a", "e1"],
    "last_observed": [["longest_diameter", "L1", 19800.5, 21.0, "none"]], "model_version": "7", "n_folded": 3,
    "parts": {
        "m": {
            "arrays": {"covariance": [2, 2], "mean": [2]},
            "cursor": {
                "plan": [], "planned_at": None, "started": True, "targets": ["L1"],
                "therapy": {"agents": [], "line": 0, "n_episodes": 0, "switched": None}, "time": 19800.5,
            },
            "time": 19800.5,
        }
    },
    "twin": "H1/p1",
}
"""Header of a snapshot as the first release wrote it; its digest there was `FIRST_DIGEST`."""
FIRST_DIGEST = "452022211b1c24f6cf065abb2612b7af7a71c8e55cc639ecdebe2d0d33d95de2"
FIRST_VALUES = (1.0, 0.25, 0.25, 4.0, 1.5, -2.0)


def first_release() -> bytes:
    text = json.dumps(FIRST_RELEASE, separators=(",", ":")).encode()
    return b"OTWN\x01" + len(text).to_bytes(4, "little") + text + np.array(FIRST_VALUES, dtype="<f8").tobytes()


def test_a_snapshot_of_the_first_release_is_read_and_keeps_its_digest() -> None:
    data = first_release()
    assert digest(data) == FIRST_DIGEST
    state = from_bytes(data)
    mean, covariance = state.parts["m"].moments()
    assert mean.tolist() == [1.5, -2.0] and covariance.tolist() == [[1.0, 0.25], [0.25, 4.0]]
    assert to_bytes(state) == data


def followed(name: str) -> tuple[Filter[Any], TwinPosterior]:
    """A twin of three components that a filter has just begun to follow, beside another."""
    chosen = make_filter(choose_filter(name))
    mean, covariance = np.array([[1.0, -2.0, 0.5]] * 2), np.array([np.diag([1.0, 4.0, 0.25])] * 2)
    state = chosen.init(mean, covariance, np.array([3, 2]), np.array([5.0, 6.0]), np.array([2**64 - 1, 7], np.uint64))
    return chosen, chosen.cut(state, 1)


@pytest.mark.parametrize("name", OTHERS)
def test_members_survive_their_bytes(name: str) -> None:
    chosen, posterior = followed(name)
    state = TwinState("H1/p1", "8", parts={"m": PartState(Cursor(), posterior)})
    data = to_bytes(state)
    assert data[4] == 2
    again = from_bytes(data)
    assert to_bytes(again) == data
    found = again.parts["m"].posterior
    assert (found.key, found.n_conditioned, found.n_active) == (posterior.key, 0, 2)
    assert not any(array.flags.writeable for array in found.arrays.values())
    for one, other in zip(again.parts["m"].moments(), chosen.gather([found], 4).moments(), strict=True):
        np.testing.assert_array_equal(one, other[0][(slice(2),) * one.ndim])


def test_a_later_format_is_refused() -> None:
    with pytest.raises(StoreError, match="format 3, this release reads up to 2"):
        from_bytes(b"OTWN\x03" + bytes(20))
