"""Priors, therapy and observation of the tumour-burden model."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from oncotwin.domain.header import EventHeader
from oncotwin.domain.observation import Censoring, Observation
from oncotwin.models.therapy import Therapy
from oncotwin.models.tumour_burden import EFFECT, SHARED, TumourBurden, effect_prior

MODEL = TumourBurden()
START = datetime(2020, 1, 1, tzinfo=UTC)


def hyper_with(**effects: tuple[float, float]) -> dict[str, Any]:
    """Defaults, with mean log kill and log-odds of resistance for some regimens."""
    hyper = MODEL.default_hyperparameters()
    hyper["effects"] = {
        name.replace("_and_", " + "): {"mean": list(mean), "sd": [0.5, 0.6]} for name, mean in effects.items()
    }
    return hyper


def on(*agents: str) -> Therapy:
    therapy = Therapy()
    for agent in agents:
        therapy = therapy.changed("on", agent, 10.0)
    return therapy


def measured(day: float, value: float | None, observable: str = "longest_diameter",
             censoring: Censoring = "none") -> Observation:
    header = EventHeader("urn:test", f"e{day}", "lesion.measured", "trial", "p1", START + timedelta(days=day), "day",
                         None, None, "final", "", None)
    return Observation(header, observable, "L1", value, "mm", censoring, None if censoring == "none" else 5.0)


class TestEffectOfARegimen:
    def test_known_regimen_has_its_own_prior(self) -> None:
        effect = effect_prior(hyper_with(A=(-3.0, -1.0), A_and_B=(-2.0, -4.0)), on("A", "B"))
        assert effect == {"log_kill": (-2.0, 0.5), "resistance": (-4.0, 0.6)}

    def test_unknown_combination_of_known_agents_adds_their_kill(self) -> None:
        effect = effect_prior(hyper_with(A=(-3.0, -1.0), B=(-4.0, -2.0)), on("A", "B"))
        assert effect["log_kill"][0] == pytest.approx(math.log(math.exp(-3.0) + math.exp(-4.0)))
        assert effect["resistance"] == (-1.0, 0.6)

    def test_unknown_agent_is_of_the_population(self) -> None:
        hyper = hyper_with(A=(-3.0, -1.0))
        effect = effect_prior(hyper, on("Z"))
        assert effect == {name: (hyper[name]["mean"], hyper[name]["sd"]) for name in EFFECT}

    def test_another_regimen_resets_its_effect_alone(self) -> None:
        hyper = hyper_with(A=(-3.0, -1.0), B=(-4.0, -2.0))
        resets = MODEL.therapy_resets(on("A"), on("B"), 20.0, hyper)
        assert {SHARED[reset.component]: reset.mean for reset in resets} == {"log_kill": -4.0, "resistance": -2.0}

    def test_renewal_and_stop_reset_nothing(self) -> None:
        hyper = hyper_with(A=(-3.0, -1.0))
        assert MODEL.therapy_resets(on("A"), on("A").changed("given", "A", 20.0), 20.0, hyper) == ()
        assert MODEL.therapy_resets(on("A"), on("A").changed("off", "A", 20.0), 20.0, hyper) == ()

    def test_inputs_say_since_when_the_regimen_is_in_force(self) -> None:
        therapy = on("A").changed("on", "B", 33.0)
        [segment] = MODEL.segments(therapy, 40.0, 50.0, MODEL.default_hyperparameters(), forecast=False)
        assert segment.until == 50.0 and segment.inputs == (1.0, 33.0)
        [untreated] = MODEL.segments(Therapy(), 40.0, 50.0, MODEL.default_hyperparameters(), forecast=True)
        assert untreated.inputs[0] == 0.0


class TestObservation:
    def observe(self, diameters: list[float], operator: int, target: int = 0) -> tuple[float, float]:
        lesions = [v for d in diameters for v in (math.log(math.pi / 6.0 * d**3), 0.0)]
        out = np.empty(2)
        constants = MODEL.constants(MODEL.default_hyperparameters())
        MODEL.observe(np.array([-6.0, -5.0, -5.0, -2.0, *lesions]), operator, target, constants, out)
        return float(np.exp(out[0])), float(out[1])

    def test_diameter_volume_and_sum_agree(self) -> None:
        diameters = [30.0, 12.0, 55.0]
        for target, diameter in enumerate(diameters):
            assert self.observe(diameters, 0, target)[0] == pytest.approx(diameter)
            assert self.observe(diameters, 1, target)[0] == pytest.approx(math.pi / 6.0 * diameter**3)
        assert self.observe(diameters, 2)[0] == pytest.approx(sum(diameters))

    def test_noise_grows_as_lesions_shrink(self) -> None:
        hyper = MODEL.default_hyperparameters()
        for diameter in (2.0, 10.0, 80.0):
            expected = hyper["noise"]["relative"] ** 2 + (hyper["noise"]["mm"] / diameter) ** 2
            assert self.observe([diameter], 0)[1] == pytest.approx(expected)
            assert self.observe([diameter], 1)[1] == pytest.approx(9.0 * expected)

    def test_readings_of_the_parts_of_a_sum_err_independently(self) -> None:
        constants = {"relative": 0.02, "mm": 0.1}
        assert MODEL.default_hyperparameters()["noise"] == constants
        # 30 and 40 mm: readings err by 0.6 and 0.8 mm in proportion, that is 1.0 mm in all, and by 0.1 mm each; of 70.
        assert self.observe([30.0, 40.0], 2) == pytest.approx((70.0, (1.0 + 2 * 0.01) / 4900.0))
        assert self.observe([30.0], 2) == pytest.approx(self.observe([30.0], 0))

    def test_a_vanished_lesion_has_a_finite_size(self) -> None:
        assert MODEL.transform("longest_diameter", 0.0) == math.log(1.0)
        assert MODEL.transform("volume", 0.0) == math.log(5.0)

    def test_unknown_observable_is_refused_by_name(self) -> None:
        with pytest.raises(ValueError, match="does not know the observable 'psa'"):
            MODEL.transform("psa", 1.0)


class TestScalesOfAPopulation:
    def test_mice_get_the_rates_of_mice(self) -> None:
        series = [
            [measured(3.0 * i, 250.0 * math.exp(0.05 * 3.0 * i + 0.02 * k), "volume") for i in range(8)]
            for k in range(9)
        ]
        hyper = MODEL.pretrain(series, MODEL.default_hyperparameters())
        assert hyper["growth_rate"]["median"] == pytest.approx(0.05, rel=0.5)
        assert hyper["log_volume"]["mean"] == pytest.approx(math.log(250.0), abs=0.2)
        assert hyper["log_capacity"] > hyper["log_reference"] + 1.0

    def test_few_series_and_censored_values_say_nothing(self) -> None:
        default = MODEL.default_hyperparameters()
        assert MODEL.pretrain([[measured(0.0, 30.0), measured(40.0, 33.0)]], default) == default
        censored = [[measured(0.0, 30.0), measured(40.0, None, censoring="left")] for _ in range(9)]
        assert MODEL.pretrain(censored, default) == default

    def test_a_sum_is_not_taken_for_a_lesion(self) -> None:
        default = MODEL.default_hyperparameters()
        sums = [[measured(42.0 * i, 90.0 + i, "sum_of_longest_diameters") for i in range(4)] for _ in range(9)]
        assert MODEL.pretrain(sums, default) == default

    def test_a_population_that_never_changes_keeps_positive_rates(self) -> None:
        series = [[measured(42.0 * i, 30.0) for i in range(4)] for _ in range(9)]
        hyper = MODEL.pretrain(series, MODEL.default_hyperparameters())
        assert hyper["growth_rate"]["median"] > 0.0
        assert all(value > 0.0 for value in hyper["drift"].values())
        assert np.isfinite(MODEL.constants(hyper)).all()
