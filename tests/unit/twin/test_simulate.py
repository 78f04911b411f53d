"""Simulated patients: reproducible, independent of each other, and what the filter would fold."""

from __future__ import annotations

import numpy as np

from oncotwin.domain.observation import Observation
from oncotwin.filters.steps import Operation
from oncotwin.models.tumour_burden import TumourBurden
from oncotwin.twin.simulate import Course, Onset, simulate_many
from oncotwin.twin.timeline import Cursor, plan_steps

MODEL = TumourBurden()
HYPER = MODEL.default_hyperparameters()
COURSE = Course(
    ("longest_diameter",), (0.0, 42.0, 84.0, 126.0), ((1.0, "on", "drug"), (100.0, "off", "drug")), ("L1", "L2"),
    {"longest_diameter": 5.0},
)


def test_a_patient_does_not_depend_on_those_before_it() -> None:
    other = Course(("volume",), (0.0, 10.0), targets=("L1",))
    first = simulate_many(MODEL, HYPER, [other, COURSE], 3)[1]
    again = simulate_many(MODEL, HYPER, [COURSE, COURSE], 3)[1]
    assert first.items == again.items and first.steps == again.steps
    np.testing.assert_array_equal(first.truth, again.truth)
    assert simulate_many(MODEL, HYPER, [COURSE, COURSE], 4)[1].steps != first.steps


def test_steps_are_those_of_the_simulated_events() -> None:
    for patient in simulate_many(MODEL, HYPER, [COURSE] * 40, 5):
        planned, cursor = plan_steps(MODEL, HYPER, Cursor(), patient.items, list(range(len(patient.items))))
        assert cursor == patient.cursor and len(planned) == len(patient.steps)
        for mine, theirs in zip(patient.steps, planned, strict=True):
            assert (mine.time, mine.operation, mine.inputs, mine.resets) == (
                theirs.time, theirs.operation, theirs.inputs, theirs.resets,
            )
            np.testing.assert_allclose(mine.value, theirs.value, rtol=1e-9, atol=1e-9)


def test_what_lies_under_the_limit_is_censored() -> None:
    patients = simulate_many(MODEL, HYPER, [COURSE] * 60, 6)
    seen = [item for p in patients for item in p.items if isinstance(item, Observation)]
    censored = [item for item in seen if item.censoring == "left"]
    assert 0 < len(censored) < len(seen)
    assert all(item.value is None and item.limit == 5.0 for item in censored)
    assert all(item.value is not None and item.value >= 5.0 for item in seen if item.censoring == "none")
    assert sum(step.operation == Operation.BELOW for p in patients for step in p.steps) == len(censored)


def test_an_onset_changes_nothing_before_it() -> None:
    def change(member: np.ndarray) -> np.ndarray:
        after = member.copy()
        after[4::2] += 1.0
        return after

    plain = simulate_many(MODEL, HYPER, [COURSE], 7)[0]
    changed = simulate_many(MODEL, HYPER, [COURSE], 7, [Onset(84.0, change)])[0]
    times = np.array([step.time for step in plain.steps])
    before = times <= times[0] + 84.0
    np.testing.assert_array_equal(plain.truth[before], changed.truth[before])
    assert (changed.truth[~before][:, 4] > plain.truth[~before][:, 4]).all()
