"""Estimates as rows: what was seen keeps its kind of censoring, and rows of earlier releases are read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from oncotwin.domain.bundle import ModelBundle
from oncotwin.domain.observation import Observation
from oncotwin.filters.unscented import UnscentedFilter
from oncotwin.models.tumour_burden import TumourBurden
from oncotwin.testing.patients import accepted, event_line
from oncotwin.twin.drift import DriftSettings
from oncotwin.twin.fold import advance, bind
from oncotwin.twin.rows import estimate_row
from oncotwin.twin.state import TwinState


@pytest.mark.parametrize(
    ("data", "censoring", "value"), [({"value": 12, "unit": "mm"}, "none", 12.0), ({"too_small": True}, "left", 5.0)]
)
def test_a_row_tells_how_a_value_was_censored(data: dict[str, Any], censoring: str, value: float) -> None:
    line = event_line("lesion.measured", "e", 0, {"lesion": "L1", "kind": "longest_diameter", **data})
    [item] = accepted([line])
    assert isinstance(item, Observation)
    model = TumourBurden()
    binding = bind("1", ModelBundle({}), [model], UnscentedFilter(), DriftSettings())
    [(_, effects)] = advance(binding, [TwinState("H1/p1", "1")], [[item]])
    row = estimate_row("H1/p1", "1", effects.estimates[0])
    seen = json.loads(row.body)["innovation"]
    assert (seen["censoring"], seen["censored"]) == (censoring, censoring != "none")
    assert seen["value"] == pytest.approx(model.transform("longest_diameter", value))
    assert (row.nis is None) == (censoring != "none")
