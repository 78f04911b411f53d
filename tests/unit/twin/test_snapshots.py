"""Which snapshots are kept: few, and never far from any event."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from oncotwin.twin.snapshots import APART, is_kept, kept_within, spacing


def kept(head: int) -> list[int]:
    """What is left of a twin whose events were committed one by one."""
    return [n for n in range(1, head + 1) if is_kept(n, head)]


@pytest.mark.parametrize("head", [1, 2, 9, 120, 1_000, 5_000])
def test_snapshots_are_few(head: int) -> None:
    assert len(kept(head)) <= 2 * math.log2(head + 1) + 2
    assert kept(head)[-1] == head


def test_ten_years_of_months_need_at_most_twenty() -> None:
    assert max(len(kept(head)) for head in range(1, 121)) <= 20


@pytest.mark.parametrize("head", [7, 120, 1_001])
def test_a_snapshot_lies_before_any_event_within_half_its_own_distance(head: int) -> None:
    there = [0, *kept(head)]
    for event in range(1, head):
        before = max(n for n in there if n <= event)
        assert event - before < spacing(head - before)


def test_what_was_dropped_is_never_wanted_again() -> None:
    """A state that the rule drops at one head is not asked for by the rule at a later one."""
    there: set[int] = set()
    for head in range(1, 400):
        there.add(head)
        wanted = set(kept(head))
        assert wanted <= there
        there &= wanted


@pytest.mark.parametrize(
    ("start", "head"), [(0, 1), (0, 8), (0, 13), (0, 121), (1, 121), (7, 240), (104, 121), (108, 121)]
)
def test_states_within_a_fold_are_apart(start: int, head: int) -> None:
    marks = kept_within(start, head)
    assert marks[-1] == head and all(is_kept(mark, head) for mark in marks)
    assert all(after - before >= APART for before, after in pairwise(marks))
    assert all(mark - start >= APART for mark in marks[:-1])
    assert len(marks) <= 2 * math.log2(head + 1) + 1
    # None is left out that would have had room at its place.
    for before, after in pairwise([start, *marks]):
        assert not any(is_kept(n, head) for n in range(before + APART, after - APART + 1))


def test_a_year_of_months_before_the_end_of_one_fold_a_state_is_kept() -> None:
    assert kept_within(0, 120) == [32, 64, 80, 96, 108, 120]
