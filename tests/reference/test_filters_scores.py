"""Published twin experiments, shortened: one seed each, with room for the luck of a short run.

`tests/benchmarks/bench_filters_scores.py` runs them whole, five seeds each, against the bar of 1.10.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from oncotwin.testing.scenarios import lorenz63_sakov2012, lorenz96_sakov2008

CASES = [(lorenz63_sakov2012.EXPERIMENT, *row) for row in lorenz63_sakov2012.SCORES] + [
    (lorenz96_sakov2008.EXPERIMENT, *row) for row in lorenz96_sakov2008.SCORES
]


@pytest.mark.parametrize(("experiment", "title", "chosen", "published"), CASES, ids=[row[1] for row in CASES])
def test_score_is_near_the_published_one(experiment: Any, title: str, chosen: Any, published: float) -> None:
    """Within a quarter of it over 500 cycles after the burn-in (a whole run is held to a tenth)."""
    short = replace(experiment, n_cycles=experiment.burn_in + 500)
    assert short.score(chosen, seed=1) < 1.25 * published, title


def test_without_assimilation_the_truth_is_lost() -> None:
    """The score can tell: an ensemble of two members, which knows no covariance, does much worse."""
    _, chosen, published = lorenz63_sakov2012.SCORES[1]
    short = replace(lorenz63_sakov2012.EXPERIMENT, n_cycles=300, burn_in=50)
    assert short.score(replace(chosen, n_members=2), seed=1) > 2.0 * published
