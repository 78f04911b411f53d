"""Cells in tiles on disk: the same neighbours and the same enrichment as of the whole in memory, whatever the tiles."""

from pathlib import Path

import numpy as np
import pytest

from oncotwin.adapters.arrays.cell_tiles import enrichment_of_tiles, sort_into_tiles
from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial.enrichment import edge_counts, enrichment, graph_moments, tally_edges
from oncotwin.spatial.graphs import knn_rows, whole_section

N, N_TYPES, K = 3_000, 5, 6


def a_section(seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Uneven cells, some of them in one place, in no order."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, 500, (N, 2))
    points[:600] *= 0.1
    points[600:640] = points[600]
    types = (points[:, 0] // 120).astype(np.uint8)
    order = rng.permutation(N)
    return points[order], types[order]


@pytest.mark.parametrize("cells_a_tile", [150, 900, 10_000])
def test_tiles_change_no_bit(tmp_path: Path, cells_a_tile: int) -> None:
    points, types = a_section()
    tiles = sort_into_tiles(points, types, tmp_path / "tiles", cells_a_tile)
    held = np.concatenate([tiles.cells(at)["id"] for at in range(tiles.n_tiles)])
    assert sorted(held.tolist()) == list(range(N)) and tiles.n_cells == N
    asked = np.array([0, 17, 600, 1_234, 2_999])
    found, ids, neighbours = enrichment_of_tiles(tiles, N_TYPES, K, map, asked)
    rows = knn_rows(whole_section(points), K)
    whole = enrichment(
        edge_counts(rows, types, N_TYPES), np.bincount(types, minlength=N_TYPES),
        graph_moments([tally_edges(rows)], N),
    )  # fmt: skip
    np.testing.assert_array_equal(found.counts, whole.counts)
    np.testing.assert_array_equal(found.z, whole.z)
    assert ids.tolist() == asked.tolist()
    for at, own in zip(ids.tolist(), neighbours, strict=True):
        assert own.tolist() == sorted(rows.neighbours[rows.offsets[at] : rows.offsets[at + 1]].tolist())


def test_what_cannot_be_sorted_is_said(tmp_path: Path) -> None:
    points, types = a_section()
    points[7, 1] = np.nan
    with pytest.raises(ConfigurationError, match="cell 7 has no place"):
        sort_into_tiles(points, types, tmp_path / "tiles")
    with pytest.raises(ConfigurationError, match="all cells lie at"):
        sort_into_tiles(np.ones((5, 2)), types[:5], tmp_path / "tiles")
    with pytest.raises(ConfigurationError, match="0 cells"):
        sort_into_tiles(np.ones((0, 2)), types[:0], tmp_path / "tiles")
