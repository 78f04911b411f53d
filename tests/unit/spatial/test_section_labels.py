"""Labels of a section: shares, and neighbours against permutations."""

from __future__ import annotations

import numpy as np
import pytest

from oncotwin.spatial.graphs import join_rows, radius_rows, whole_section
from oncotwin.spatial.section_cut import SectionScale
from oncotwin.spatial.section_labels import neighbour_signatures, share_signatures

SCALE = SectionScale(10.0, 100.0, 50.0)


def test_shares_and_neighbours() -> None:
    rng = np.random.default_rng(0)
    places = rng.uniform(0, 300, (900, 2))
    labels = np.where(places[:, 0] < 100, 0, rng.integers(1, 3, 900)).astype(np.int64)
    shares = share_signatures(("a", "b", "c"), labels, places, SCALE, 0, "s")
    assert [one.value for one in shares] == pytest.approx([float((labels == k).mean()) for k in range(3)])
    assert all(one.low < one.value < one.high for one in shares)
    graph = join_rows([radius_rows(whole_section(places), 15.0)], 900)
    found = {one.name: one for one in neighbour_signatures(("a", "b", "c"), labels, graph)}
    assert len(found) == 6
    sources = np.repeat(np.arange(900), np.diff(graph.offsets))

    def edges(own: np.ndarray[tuple[int], np.dtype[np.int64]], a: int, b: int) -> int:
        return int(np.count_nonzero((own[sources] == a) & (own[graph.neighbours] == b)))

    drawn = [rng.permutation(labels) for _ in range(400)]
    for a, b in ((0, 0), (0, 1), (1, 2)):
        chance = np.array([edges(own, a, b) for own in drawn])
        z = (edges(labels, a, b) - chance.mean()) / chance.std()
        assert found[f"{'abc'[a]}.beside.{'abc'[b]}"].value == pytest.approx(z, rel=0.12, abs=0.3)
    assert "expected" in found["a.beside.a"].note and found["a.beside.a"].value > 20
