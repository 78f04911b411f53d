"""A filter by its name: every name means one, and what is no filter is refused with what to write instead."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from oncotwin.domain.bundle import FILTERS, FilterChoice
from oncotwin.domain.errors import ConfigurationError
from oncotwin.filters.choice import choose_filter, make_filter
from oncotwin.filters.ensemble import EnsembleFilter
from oncotwin.filters.particle import ParticleFilter
from oncotwin.filters.unscented import UnscentedFilter


def test_every_name_means_a_filter() -> None:
    assert [type(make_filter(choose_filter(name))) for name in FILTERS] == [
        UnscentedFilter, EnsembleFilter, EnsembleFilter, ParticleFilter
    ]
    assert [make_filter(choose_filter(name)).name for name in FILTERS] == list(FILTERS)
    assert choose_filter("unscented") == FilterChoice()


def test_names_say_how() -> None:
    stochastic, square_root = make_filter(choose_filter("ensemble", 40)), make_filter(
        choose_filter("square-root-ensemble", 40)
    )
    assert stochastic == EnsembleFilter(40)
    assert square_root == EnsembleFilter(40, deterministic=True, rotated=True, name="square-root-ensemble")
    assert make_filter(choose_filter("particle", 300)).n_members == 300


@pytest.mark.parametrize("name", FILTERS[1:])
def test_a_version_keeps_every_parameter(name: str) -> None:
    """So that another release's defaults do not change what an old version means."""
    made: Any = make_filter(choose_filter(name, 50))
    told = choose_filter(name, 50).parameters
    assert {field.name for field in fields(made)} - {"name", "keep_members"} == set(told)


@pytest.mark.parametrize(
    ("name", "members", "what"),
    [
        ("kalman", None, "choose one of unscented, ensemble"), ("unscented", 100, "has no members"),
        ("ensemble", 1, "give 10 to"), ("particle", -5, "give 10 to"), ("particle", 10**7, "100,000"),
    ],
)
def test_what_is_no_filter_is_refused(name: str, members: int | None, what: str) -> None:
    with pytest.raises(ConfigurationError, match=what):
        choose_filter(name, members)


@pytest.mark.parametrize(
    "choice",
    [
        FilterChoice("kalman"), FilterChoice("unscented", {"n_members": 3}), FilterChoice("particle", {"colour": 1}),
        FilterChoice("ensemble", {"n_members": 1}), FilterChoice("particle", {"threshold": 7.0}),
    ],
)
def test_a_version_that_this_release_cannot_follow_is_refused(choice: FilterChoice) -> None:
    with pytest.raises(ConfigurationError):
        make_filter(choice)
