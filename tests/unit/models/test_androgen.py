"""The androgen model's priors, inputs, switching and noise."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from oncotwin.models import androgen_kernels as kernels
from oncotwin.models.androgen import SHARED, AndrogenSuppression, typical
from oncotwin.models.base import component_names
from oncotwin.models.therapy import Therapy

MODEL = AndrogenSuppression()
HYPER = MODEL.default_hyperparameters()
CONSTANTS = MODEL.constants(HYPER)
ON = Therapy().changed("on", "leuprolide", 100.0)
OFF = ON.changed("off", "*", 400.0)
UNTREATED_MEMBER = typical(HYPER)


def moved(member: NDArray[np.float64], days: float, inputs: tuple[float, ...]) -> NDArray[np.float64]:
    """The member after some days from day 1,000."""
    out = np.empty_like(member)
    MODEL.propagate(member, 1000.0, 1000.0 + days, np.array(inputs), CONSTANTS, out)
    return out


def observed(member: NDArray[np.float64], operator: int) -> NDArray[np.float64]:
    """Expected observation and variance."""
    out = np.empty(2)
    MODEL.observe(member, operator, 0, CONSTANTS, out)
    return out


def test_hyperparameters_are_json_and_name_every_component() -> None:
    assert json.loads(json.dumps(HYPER, allow_nan=False)) == HYPER
    for key in ("typical", "prior_sd", "drift_sd"):
        assert len(HYPER[key]) == len(SHARED)
    assert component_names(MODEL, []) == SHARED
    assert MODEL.target_prior(HYPER).shape == (0, 2)
    mean, covariance = MODEL.prior(HYPER)
    assert mean.shape == (14,)
    assert covariance.shape == (14, 14)
    assert MODEL.process_variance(HYPER, 0).shape == (14,)
    assert CONSTANTS.shape == (16,)


def test_what_calibration_may_learn_stands_in_the_hyperparameters() -> None:
    for parameter in MODEL.free:
        value = HYPER
        for key in parameter.path:
            value = value[key]  # type: ignore[index]
        assert parameter.lower < float(value) < parameter.upper  # type: ignore[arg-type]


@pytest.mark.parametrize(("value", "expected"), [(10.0, math.log(10.0)), (0.02, math.log(0.05)), (0.0, math.log(0.05))])
def test_transform_keeps_the_floor(value: float, expected: float) -> None:
    assert MODEL.transform("psa", value) == pytest.approx(expected)


def test_inverse_undoes_transform() -> None:
    for name in ("psa", "testosterone"):
        assert MODEL.inverse(name, np.array([MODEL.transform(name, 7.5)]))[0] == pytest.approx(7.5)


def test_transform_refuses_an_unknown_observable() -> None:
    with pytest.raises(ValueError, match=r"does not know .*'volume'.*psa, testosterone"):
        MODEL.transform("volume", 1.0)


def test_segments_carry_treatment_and_when_it_switched() -> None:
    (segment,) = MODEL.segments(ON, 120.0, 150.0, HYPER, forecast=False)
    assert (segment.until, segment.inputs) == (150.0, (1.0, 0.0, 100.0))
    (segment,) = MODEL.segments(OFF, 420.0, 450.0, HYPER, forecast=True)
    assert segment.inputs == (0.0, 1.0, 400.0)
    (segment,) = MODEL.segments(Therapy(), 10.0, 20.0, HYPER, forecast=False)
    assert segment.inputs == (0.0, 0.0, 10.0)


def test_a_known_end_of_treatment_is_not_second_guessed() -> None:
    planned = Therapy().changed("given", "leuprolide", 100.0, until=128.0)
    (segment,) = MODEL.segments(planned, 110.0, 120.0, HYPER, forecast=True)
    assert segment.inputs[1] == 0.0


def test_a_switch_starts_its_hazard_anew_and_a_dose_does_not() -> None:
    (reset,) = MODEL.therapy_resets(Therapy(), ON, 100.0, HYPER)
    assert (reset.component, reset.mean, reset.variance) == (kernels.SWITCHED, 0.0, 0.0)
    assert [r.component for r in MODEL.therapy_resets(ON, OFF, 400.0, HYPER)] == [kernels.SWITCHED]
    assert MODEL.therapy_resets(ON, ON.changed("given", "leuprolide", 128.0), 128.0, HYPER) == ()


def test_a_man_met_in_mid_treatment_is_suppressed() -> None:
    resets = {r.component: r for r in MODEL.therapy_resets(Therapy(), ON, 300.0, HYPER)}
    assert resets[kernels.ANDROGEN].mean < -5.0
    assert resets[kernels.DEPENDENT].mean < UNTREATED_MEMBER[kernels.DEPENDENT]
    assert resets[kernels.DEPENDENT].variance > 1.0


def test_forecast_restarts_treatment_above_the_threshold() -> None:
    high = UNTREATED_MEMBER.copy()
    high[kernels.DEPENDENT] = high[kernels.CAPACITY] = math.log(20.0)
    known, free = moved(high, 84.0, (0.0, 0.0, 0.0)), moved(high, 84.0, (0.0, 1.0, 0.0))
    assert known[kernels.SWITCHED] == 0.0
    assert free[kernels.SWITCHED] > 1.0
    assert observed(free, 0)[0] < observed(known, 0)[0] - 0.5


def test_forecast_leaves_a_low_psa_untreated() -> None:
    low = UNTREATED_MEMBER.copy()
    low[kernels.DEPENDENT] = low[kernels.CAPACITY] = math.log(4.0)
    known, free = moved(low, 84.0, (0.0, 0.0, 0.0)), moved(low, 84.0, (0.0, 1.0, 0.0))
    assert observed(free, 0)[0] == pytest.approx(observed(known, 0)[0], abs=0.01)


def test_forecast_pauses_treatment_after_the_protocols_time() -> None:
    suppressed = moved(UNTREATED_MEMBER, 240.0, (1.0, 0.0, 760.0))
    early, late = moved(suppressed, 120.0, (1.0, 1.0, 950.0)), moved(suppressed, 120.0, (1.0, 1.0, 760.0))
    assert observed(late, 1)[0] > observed(early, 1)[0] + 1.0


def test_the_hazard_is_carried_from_one_predicted_visit_to_the_next() -> None:
    high = UNTREATED_MEMBER.copy()
    high[kernels.DEPENDENT] = high[kernels.CAPACITY] = math.log(20.0)
    once, half = moved(high, 48.0, (0.0, 1.0, 0.0)), moved(high, 24.0, (0.0, 1.0, 0.0))
    again = np.empty_like(half)
    MODEL.propagate(half, 1024.0, 1048.0, np.array([0.0, 1.0, 0.0]), CONSTANTS, again)
    assert again == pytest.approx(once, abs=1e-9)


def test_noise_is_larger_relative_to_a_small_value() -> None:
    small = UNTREATED_MEMBER.copy()
    small[[kernels.DEPENDENT, kernels.INDEPENDENT]] = -3.0
    assert observed(small, 0)[1] > observed(UNTREATED_MEMBER, 0)[1]


def test_members_far_out_stay_finite() -> None:
    rng = np.random.default_rng(7)
    for _ in range(50):
        member = UNTREATED_MEMBER + 60.0 * rng.standard_normal(len(SHARED))
        for inputs in ((0.0, 0.0, 0.0), (1.0, 0.0, 900.0), (0.0, 1.0, 0.0), (1.0, 1.0, 600.0)):
            after = moved(member, 90.0, inputs)
            assert np.isfinite(after).all()
            assert np.isfinite(observed(after, 0)).all()
            assert np.isfinite(observed(after, 1)).all()
            assert observed(after, 0)[1] > 0.0
