"""The real tables, whole: every row becomes something, and validation refuses only what it should."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

from oncotwin.adapters.tables import RowProblem, convert
from oncotwin.adapters.tables.shipped import lesions
from oncotwin.domain.amendment import Rejection
from oncotwin.domain.observation import Observation
from oncotwin.domain.policy import Policy
from oncotwin.domain.treatment import Treatment
from oncotwin.domain.validation import validate

POLICY = Policy(datetime(2026, 1, 1, tzinfo=UTC))


def counted(kind: str, path: Path) -> Counter[str]:
    """What the events of a table become: observable and censoring, action, or reason of the rejection."""
    problems: list[RowProblem] = []
    events = list(convert(kind, path, problems.append))
    assert problems == []
    assert len({event.key for event in events}) == len(events)
    assert [e.time for e in events] == sorted(e.time for e in events)
    counts: Counter[str] = Counter()
    for event in events:
        item = validate(event, POLICY)
        if isinstance(item, Observation):
            counts[f"{item.observable} {item.censoring}"] += 1
        elif isinstance(item, Treatment):
            counts[item.action] += 1
        else:
            assert isinstance(item, Rejection)
            counts[item.reason_code] += 1
    return counts


@pytest.mark.needs_data("atezolizumab")
def test_lesions(data_folder: Path) -> None:
    assert counted("atezolizumab", data_folder / "atezolizumab") == {
        "longest_diameter none": 3412,
        "longest_diameter left": 127 + 26,
        "longest_diameter not_evaluable": 27 + 3,
        "on": 628,
    }


@pytest.mark.needs_data("atezolizumab")
def test_the_shipped_lesions_are_the_published_ones(data_folder: Path) -> None:
    published = convert("atezolizumab", data_folder / "atezolizumab" / "lesions.csv")
    assert list(convert("atezolizumab", lesions())) == list(published)


@pytest.mark.needs_data("intermittent_androgen")
def test_androgen(data_folder: Path) -> None:
    assert counted("intermittent-androgen", data_folder / "intermittent_androgen" / "psa.csv") == {
        "psa none": 2319,
        "psa left": 1,
        "testosterone none": 2027,
        "given": 2264,
        "on": 148,
        "off": 122,
    }


@pytest.mark.needs_data("pdx_encyclopedia")
def test_xenografts(data_folder: Path) -> None:
    assert counted("pdx", data_folder / "pdx_encyclopedia") == {
        "volume none": 43_469,
        "volume left": 1392,
        "body_weight none": 44_775,
        "negative_value": 2,
        "implausible_value": 1,
        "on": 3063,
    }
