"""The last value carried forward and its errors by interval length."""

from __future__ import annotations

import numpy as np
import pytest

from oncotwin.twin.quantiles import LEVELS, MEDIAN
from oncotwin.twin.references import LastValue, interval_class


@pytest.mark.parametrize(
    ("days", "group"), [(1, 0), (39.9, 0), (40, 1), (49.9, 1), (50, 2), (70, 2), (70.1, 3), (400, 3)]
)
def test_intervals_are_classed_as_stated(days: float, group: int) -> None:
    assert interval_class(np.array([days]))[0] == group


def test_each_interval_length_has_its_own_errors() -> None:
    random = np.random.default_rng(0)
    horizon = np.repeat([30.0, 90.0], 2000)
    change = np.concatenate([random.normal(0.0, 0.1, 2000), random.normal(0.0, 0.5, 2000)])
    reference = LastValue.learn(horizon, np.zeros(4000), change)
    levels = reference.quantiles(np.array([30.0, 90.0]), np.array([1.0, 2.0]))
    width = levels[:, -1] - levels[:, 0]
    assert width[1] / width[0] == pytest.approx(5.0, rel=0.15)
    assert levels[:, MEDIAN] == pytest.approx([1.0, 2.0], abs=0.05)


def test_an_interval_length_without_training_takes_the_errors_of_all() -> None:
    reference = LastValue.learn(np.full(100, 30.0), np.zeros(100), np.linspace(-1, 1, 100))
    assert reference.errors[3] == pytest.approx(reference.errors[0])


def test_without_any_training_the_last_value_is_certain() -> None:
    reference = LastValue.learn(np.zeros(0), np.zeros(0), np.zeros(0))
    assert reference.quantiles(np.array([10.0]), np.array([3.0])) == pytest.approx(np.full((1, len(LEVELS)), 3.0))
