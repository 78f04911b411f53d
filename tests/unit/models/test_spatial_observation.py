"""Observation operators of sections, and what they do to a twin: a usual one narrows it, an odd one warns."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from oncotwin.domain.amendment import Rejection
from oncotwin.domain.bundle import ModelBundle
from oncotwin.domain.errors import ModelError
from oncotwin.domain.observation import Observation
from oncotwin.domain.validation import Policy, admit
from oncotwin.filters.base import Filter
from oncotwin.filters.ensemble import EnsembleFilter
from oncotwin.filters.particle import ParticleFilter
from oncotwin.filters.unscented import UnscentedFilter
from oncotwin.models.androgen import AndrogenSuppression
from oncotwin.models.base import TumourModel
from oncotwin.models.spatial_observation import (
    EDGE,
    STAND_IN_SD,
    follows,
    inflation,
    noise_sd,
    on_scale,
    operator_code,
    operator_days,
    operator_sd,
    own_sd,
)
from oncotwin.models.therapy import Therapy
from oncotwin.models.tumour_burden import TumourBurden
from oncotwin.testing.patients import NOW, accepted, correction, diameter, event_line, treatment
from oncotwin.twin.drift import DriftSettings
from oncotwin.twin.fold import Binding, bind
from oncotwin.twin.replay import Belief, believe_each
from oncotwin.twin.state import from_bytes, to_bytes

MODEL = TumourBurden()
COURSE = [
    diameter("d0", 0, 40.0), treatment("on", 1, "drugA", "on"), diameter("d1", 40, 36.0), diameter("d2", 80, 33.0),
]


def evidence(
    event_id: str = "e1", day: float = 90, value: float = 0.2, low: float = 0.15, high: float = 0.26, *,
    observable: str = "resistant_fraction", unit: str = "1", distance: float | None = None, limit: float = 1.5,
    **more: Any,
) -> bytes:
    data: dict[str, Any] = {
        "observable": observable, "value": value, "low": low, "high": high, "unit": unit,
        "derived_from": {"source": "urn:oncotwin:H1:spatial", "id": "s1"},
    }
    if distance is not None:
        data["comparison"] = {
            "cohort": "ours", "p": 0.02 if distance > limit else 0.5, "distance": distance, "limit": limit,
            "unlike": ["hypoxia.moran_i"],
        }
    return event_line("spatial.evidence", event_id, day, data, source="urn:oncotwin:H1:signatures", **more)


def observed(**changes: Any) -> Observation:
    [item] = accepted([evidence(**changes)])
    assert isinstance(item, Observation) and item.evidence is not None
    return item


def binding(chosen: Filter[Any] | None = None) -> Binding:
    models: list[TumourModel] = [TumourBurden(), AndrogenSuppression()]
    return bind("1", ModelBundle({}), models, chosen or UnscentedFilter(), DriftSettings())


def resistance(lines: list[bytes], chosen: Filter[Any] | None = None) -> tuple[float, float]:
    """Posterior mean and standard deviation of the log-odds of resistance."""
    belief = believe_lines(lines, chosen)
    mean, covariance = belief.state.parts["tumour_burden"].moments()
    return float(mean[3]), math.sqrt(float(covariance[3, 3]))


def believe_lines(lines: list[bytes], chosen: Filter[Any] | None = None) -> Belief:
    [belief] = believe_each(binding(chosen), "H1/p1", [accepted(lines)])
    return belief


class TestValidation:
    def test_percent_becomes_a_fraction_with_its_interval(self) -> None:
        item = observed(value=20.0, low=10.0, high=30.0, unit="%")
        assert item.value == pytest.approx(0.2) and item.unit == "1" and item.evidence is not None
        assert [item.evidence.low, item.evidence.high] == pytest.approx([0.1, 0.3])
        assert item.evidence.derived_from == ("urn:oncotwin:H1:spatial", "s1")

    def test_nil_and_one_are_bounds(self) -> None:
        none, every = observed(value=0.0, low=0.0, high=0.05), observed(value=1.0, low=0.9, high=1.0)
        assert (none.censoring, none.value, none.limit) == ("left", None, 0.05)
        assert (every.censoring, every.value, every.limit) == ("right", None, 0.9)
        dense = observed(observable="cell_density", unit="/mm2", value=1.0, low=0.5, high=2.0)
        assert dense.censoring == "none"

    @pytest.mark.parametrize(("changes", "code"), [
        ({"low": 0.21}, "bad_interval"), ({"low": 0.2, "high": 0.2}, "bad_interval"),
        ({"value": 1.2, "high": 1.3}, "implausible_value"), ({"low": -0.1}, "negative_value"),
        ({"unit": "/mm2"}, "wrong_unit"), ({"observable": "cell_density"}, "wrong_unit"),
    ])
    def test_nonsense_is_refused(self, changes: dict[str, Any], code: str) -> None:
        _, item = admit(evidence(**changes), (), Policy(NOW))
        assert isinstance(item, Rejection) and item.reason_code == code and item.remedy


class TestError:
    def test_own_error_is_the_interval_on_the_log_odds(self) -> None:
        item = observed(value=0.5, low=0.3, high=0.7)
        width = 2 * math.log(0.7 / 0.3)
        assert own_sd(item) == pytest.approx(width / (2 * 1.6448536269514722))

    def test_an_end_at_nil_or_one_says_nothing(self) -> None:
        item = observed(value=0.2, low=0.0, high=0.5)
        half = on_scale("resistant_fraction", 0.5) - math.log(0.25)
        assert own_sd(item) == pytest.approx(half / 1.6448536269514722)
        mirrored = observed(value=0.8, low=0.5, high=1.0)
        assert own_sd(mirrored) == pytest.approx(own_sd(item))

    def test_parts_add_as_variances(self) -> None:
        item = observed()
        expected = own_sd(item) ** 2 + STAND_IN_SD["resistant_fraction"] ** 2 + 0.3**2
        assert noise_sd(item, 0.3) == pytest.approx(math.sqrt(expected))
        odd = observed(distance=4.5, limit=1.5)
        assert inflation(odd) == pytest.approx(36.0) and noise_sd(odd, 0.3) == pytest.approx(6.0 * noise_sd(item, 0.3))
        assert inflation(observed(distance=1.5, limit=1.5)) == 1.0
        assert inflation(observed(distance=1.51, limit=1.5)) > 4.0

    def test_scale_is_finite_at_the_ends(self) -> None:
        assert on_scale("hypoxic_fraction", 0.0) == pytest.approx(math.log(EDGE / (1 - EDGE)))
        assert on_scale("hypoxic_fraction", 1.0) == pytest.approx(-on_scale("hypoxic_fraction", 0.0))
        assert on_scale("cell_density", 0.0) == 0.0
        with pytest.raises(ModelError, match="not read off"):
            on_scale("psa", 1.0)
        with pytest.raises(ModelError, match="no interval"):
            own_sd(replace(observed(), evidence=None))

    @pytest.mark.parametrize("sd", [0.001, 0.01, 0.3, 1.1, 77.0])
    @pytest.mark.parametrize("days", [0.0, 0.4, 200.0, 5000.0])
    def test_an_operator_holds_its_error_and_days(self, sd: float, days: float) -> None:
        for index in (0, 15):
            code = operator_code(index, days, sd)
            assert max(sd, 0.01) * (1 - 1e-9) <= operator_sd(code) <= max(sd, 0.01) * 1.0201
            assert operator_days(code) == round(days)


class TestOperator:
    def test_resistant_fraction_is_that_of_two_clones(self) -> None:
        """Without growth's part and waning: odds R/S grow as exp(kill t) from the regimen's begin on."""
        member = np.array([-6.0, math.log(0.02), -30.0, -2.0, 9.0, 0.0])
        hyper = MODEL.default_hyperparameters()
        out = np.empty(2)
        therapy = Therapy().changed("on", "drugA", 100.0)
        code = MODEL.spatial_operator(observed(), therapy, 160.0, hyper)
        assert code is not None
        MODEL.observe(member, code, 0, MODEL.constants(hyper), out)
        resistant = 1.0 / (1.0 + math.exp(2.0))
        left = (1.0 - resistant) * math.exp(-0.02 * 60.0)
        assert out[0] == pytest.approx(math.log(resistant / left), rel=1e-9)
        assert out[1] == pytest.approx(noise_sd(observed(), hyper["resistance_offset"]["sd"]) ** 2, rel=0.05)

    def test_what_propagation_makes_is_what_is_observed(self) -> None:
        """The operator agrees with the dynamics: volume lost to kill over a step is what the odds say."""
        hyper = MODEL.default_hyperparameters()
        constants = MODEL.constants(hyper)
        member = np.array([-30.0, math.log(0.03), math.log(0.01), -1.0, 9.0, 0.0])
        after, first, second = np.empty(6), np.empty(2), np.empty(2)
        MODEL.propagate(member, 10.0, 70.0, np.array([1.0, 10.0]), constants, after)
        MODEL.observe(member, operator_code(0, 0.0, 1.0), 0, constants, first)
        MODEL.observe(after, operator_code(0, 60.0, 1.0), 0, constants, second)
        # R is untouched without growth: R = B p, before and after.
        shares = [1.0 / (1.0 + math.exp(-x)) for x in (first[0], second[0])]
        assert math.log(shares[0] / shares[1]) == pytest.approx(after[4] - member[4], abs=1e-6)

    def test_untreated_it_says_nothing(self) -> None:
        assert MODEL.spatial_operator(observed(), Therapy(), 160.0, MODEL.default_hyperparameters()) is None

    def test_models_without_a_component_say_so(self) -> None:
        assert follows(MODEL, "resistant_fraction") and not follows(MODEL, "hypoxic_fraction")
        assert not follows(AndrogenSuppression(), "resistant_fraction")


FILTERS = [UnscentedFilter(), EnsembleFilter(n_members=256), ParticleFilter(n_particles=2_000)]


class TestTwin:
    @pytest.mark.parametrize("chosen", FILTERS, ids=lambda one: type(one).__name__)
    def test_a_section_narrows_and_moves_the_posterior(self, chosen: Filter[Any]) -> None:
        without, before = resistance(COURSE, chosen)
        with_it, after = resistance([*COURSE, evidence(value=0.6, low=0.55, high=0.65)], chosen)
        assert after < before and with_it > without

    @pytest.mark.parametrize("chosen", FILTERS, ids=lambda one: type(one).__name__)
    def test_the_same_section_out_of_distribution_widens_the_posterior_and_warns(self, chosen: Filter[Any]) -> None:
        usual = [*COURSE, evidence(distance=1.0)]
        odd = [*COURSE, evidence(distance=6.0)]
        mean, sd = resistance(usual, chosen)
        odd_mean, odd_sd = resistance(odd, chosen)
        nothing_mean, nothing_sd = resistance(COURSE, chosen)
        assert sd < odd_sd and odd_sd == pytest.approx(nothing_sd, rel=0.1)
        assert abs(odd_mean - nothing_mean) < abs(mean - nothing_mean)
        kinds = [alert.kind for alert in believe_lines(usual, chosen).effects.alerts]
        assert "unlike" not in kinds
        [alert] = [one for one in believe_lines(odd, chosen).effects.alerts if one.kind == "unlike"]
        assert alert.observable == "resistant_fraction" and alert.event == ("urn:oncotwin:H1:signatures", "e1")
        assert "8.0 times" in alert.message and "hypoxia.moran_i" in alert.message and "ours" in alert.message

    def test_an_odd_section_that_no_model_follows_warns_too(self) -> None:
        line = evidence(observable="hypoxic_fraction", distance=6.0)
        assert resistance([*COURSE, line]) == resistance(COURSE)
        [alert] = [one for one in believe_lines([*COURSE, line]).effects.alerts if one.kind == "unlike"]
        assert "No model follows it" in alert.message

    def test_what_no_model_follows_is_kept_and_moves_nothing(self) -> None:
        lines = [evidence("e2", observable="cell_density", unit="/mm2", value=4000.0, low=3000.0, high=5000.0)]
        belief = believe_lines(lines)
        assert not belief.state.parts and ("cell_density", "") in belief.state.last_observed

    def test_nil_and_one_are_folded_as_bounds(self) -> None:
        _, wide = resistance(COURSE)
        low, _ = resistance([*COURSE, evidence(value=0.0, low=0.0, high=0.01)])
        high, _ = resistance([*COURSE, evidence(value=1.0, low=0.95, high=1.0)])
        middle, _ = resistance(COURSE)
        assert low < middle < high and wide > 0.0

    def test_order_of_arrival_and_cuts_change_no_bit(self) -> None:
        lines = [*COURSE, evidence(distance=6.0), diameter("d3", 120, 34.0), evidence("e2", 130, 0.3, 0.2, 0.4)]
        orderly = to_bytes(believe_lines(lines).state)
        assert to_bytes(believe_lines(lines[::-1]).state) == orderly
        assert to_bytes(from_bytes(orderly)) == orderly

    def test_a_retracted_section_was_never_there(self) -> None:
        gone = correction("c1", 200, "e1", "retract", source="urn:oncotwin:H1:signatures")
        taken_back = believe_lines([*COURSE, evidence(distance=6.0), gone])
        plain = believe_lines(COURSE)
        for name, part in plain.state.parts.items():
            mean, covariance = taken_back.state.parts[name].moments()
            assert mean.tolist() == part.moments()[0].tolist()
            assert covariance.tolist() == part.moments()[1].tolist()
        assert not [one for one in taken_back.effects.alerts if one.kind == "unlike"]
