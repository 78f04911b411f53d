"""The generated section: its truth is what the model says, and the same seed gives the same section."""

from __future__ import annotations

import numpy as np
import pytest

from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial.gene_sets import gene_sets
from oncotwin.spatial.section_phantom import HYPOXIC_DEPTH_UM, PATTERNS, SectionPhantom, make_section


def share(phantom: SectionPhantom, name: str) -> np.ndarray:
    """Share of each spot's counts that a gene set holds."""
    own = [gene in set(gene_sets()[name].genes) for gene in phantom.genes]
    found: np.ndarray = phantom.counts[:, own].sum(axis=1) / np.maximum(phantom.counts.sum(axis=1), 1)
    return found


@pytest.fixture(scope="module")
def sections() -> dict[str, SectionPhantom]:
    return {pattern: make_section(pattern, np.random.default_rng(7), 24) for pattern in PATTERNS}


def test_regions_lie_where_the_distance_says(sections: dict[str, SectionPhantom]) -> None:
    found = sections["cold"]
    region = np.array(found.region)
    assert (region[found.distance_um < -200] == "tumour").all()
    assert not (region[found.distance_um > 200] == "tumour").any()
    assert {"tumour", "stroma", "fat"} <= set(found.region)


def test_hypoxia_begins_at_its_depth(sections: dict[str, SectionPhantom]) -> None:
    found = sections["cold"]
    fit = ~found.failed
    deep, shallow = found.distance_um < -HYPOXIC_DEPTH_UM - 100, np.abs(found.distance_um + 150) < 60
    hypoxia = share(found, "hypoxia")
    assert found.hypoxic_share[deep].mean() > 0.6 > 0.2 > found.hypoxic_share[shallow].mean()
    assert hypoxia[deep & fit].mean() > 2 * hypoxia[shallow & fit].mean()


def test_immune_cells_lie_as_the_pattern_says(sections: dict[str, SectionPhantom]) -> None:
    mean = {}
    for pattern, found in sections.items():
        fit, immune = ~found.failed, share(found, "immune")
        margin, core = np.abs(found.distance_um - 100) < 100, found.distance_um < -300
        mean[pattern] = immune[margin & fit].mean(), immune[core & fit].mean()
    assert mean["excluded"][0] > 3 * mean["excluded"][1]
    assert mean["hot"][1] > 3 * mean["excluded"][1]
    assert mean["cold"][0] < mean["hot"][0] / 2


def test_failed_spots_hold_nearly_nothing(sections: dict[str, SectionPhantom]) -> None:
    for found in sections.values():
        assert (found.counts.sum(axis=1)[found.failed] < 100).all()
        assert (found.counts.sum(axis=1)[~found.failed] > 100).all()


def test_the_same_seed_gives_the_same_section() -> None:
    one, same = (make_section("hot", np.random.default_rng(3), 12) for _ in range(2))
    other = make_section("hot", np.random.default_rng(4), 12)
    np.testing.assert_array_equal(one.counts, same.counts)
    assert one.ids == same.ids and len(set(one.ids)) == len(one.ids)
    assert (one.counts != other.counts).any()


def test_what_cannot_be_made_is_said() -> None:
    with pytest.raises(ConfigurationError, match="hot, excluded, cold"):
        make_section("warm", np.random.default_rng(0))
    with pytest.raises(ConfigurationError, match="at least 10"):
        make_section("hot", np.random.default_rng(0), 5)
