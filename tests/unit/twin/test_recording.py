"""With how many decimals values are written, and which grid the next value keeps to."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oncotwin.twin.recording import FEWEST_ROWS, UNROUNDED, decimals, learn_decimals


@pytest.mark.parametrize(
    ("value", "expected"),
    [(23.0, 0), (20.0, -1), (4500.0, -2), (7000.0, -3), (70000.0, -3), (0.0, -3), (0.1, 1), (185.25, 2), (0.125, 3),
     (1 / 3, UNROUNDED), (1e-5, UNROUNDED)],
)
def test_decimals_are_counted(value: float, expected: int) -> None:
    assert decimals(value) == expected


@given(digits=st.integers(1, 10**6), exponent=st.integers(-3, 2))
def test_decimals_are_those_of_the_written_number(digits: int, exponent: int) -> None:
    written = Decimal(digits).scaleb(exponent)
    oracle = max(-3, -int(written.normalize().as_tuple().exponent))
    assert decimals(float(written)) == oracle


def test_the_coarsest_grid_that_the_next_value_keeps_is_found() -> None:
    random = np.random.default_rng(0)
    # Whole numbers throughout: a past of tens says nothing of the next, a past of whole numbers does.
    past, outcome = random.choice([-1, 0], 2000), random.choice([-1, 0], 2000)
    assert learn_decimals(past, outcome) == 0


def test_a_grid_that_next_values_leave_is_none() -> None:
    past, outcome = np.zeros(1000, dtype=np.int64), np.tile([0, 0, 0, UNROUNDED], 250)
    assert learn_decimals(past, outcome) == UNROUNDED


def test_few_forecasts_do_not_make_a_grid() -> None:
    zeros = np.zeros(FEWEST_ROWS - 1, dtype=np.int64)
    assert learn_decimals(zeros, zeros) == UNROUNDED
    assert learn_decimals(zeros[:0], zeros[:0]) == UNROUNDED
