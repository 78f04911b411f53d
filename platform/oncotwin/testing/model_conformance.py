"""What every model must do, built in or a user's own.

A package's tests subclass `ModelConformance` and provide the fixture ``model``::

    class TestMyModel(ModelConformance):
        @pytest.fixture
        def model(self):
            return MyModel()
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from oncotwin.domain.bundle import ModelBundle, ModelPrior
from oncotwin.domain.observation import Observation
from oncotwin.filters.base import OBSERVE_SIGNATURE, PROPAGATE_SIGNATURE
from oncotwin.filters.unscented import UnscentedFilter
from oncotwin.models.base import Segment, TumourModel, component_names
from oncotwin.models.therapy import Therapy
from oncotwin.twin.drift import DriftSettings
from oncotwin.twin.fold import advance, bind
from oncotwin.twin.simulate import START, Course, SimulatedPatient, simulate
from oncotwin.twin.state import TwinState, from_bytes, to_bytes

Array = NDArray[np.float64]

N_DRAWS = 200
WIDER = 3.0
"""Draws are this many times as wide as the prior: a filter's members go where no patient is."""


class ModelConformance:
    """Laws of the protocol `oncotwin.models.base.TumourModel`."""

    @pytest.fixture
    def model(self) -> TumourModel:
        """The model under test; the subclass provides it."""
        raise NotImplementedError("provide a fixture 'model'")

    @pytest.fixture
    def hyper(self, model: TumourModel) -> Mapping[str, Any]:
        """Hyperparameters under test; override it to try others than the default."""
        return model.default_hyperparameters()

    def test_names_are_distinct_and_observables_are_units_of_the_catalogue(self, model: TumourModel) -> None:
        assert model.name and model.observables and model.shared
        names = [observable.name for observable in model.observables]
        assert len(set(names)) == len(names)
        components = component_names(model, ["L1", "L2"] if model.per_target else [])
        assert len(set(components)) == len(components)
        assert all(observable.floor > 0.0 for observable in model.observables)
        if any(observable.per_target for observable in model.observables):
            assert model.per_target, "an observable of a lesion needs components of a lesion"

    def test_default_hyperparameters_survive_the_registry(self, model: TumourModel, hyper: Mapping[str, Any]) -> None:
        text = json.dumps(hyper, allow_nan=False)
        assert json.loads(text) == hyper, "use numbers, strings, lists and mappings alone"
        bundle = ModelBundle({model.name: ModelPrior(model.name, hyper)})
        again = ModelBundle.from_json(bundle.to_json()).models[model.name].hyperparameters
        for ours, theirs in zip(model.prior(hyper), model.prior(again), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert model.default_hyperparameters() == model.default_hyperparameters()

    def test_priors_have_the_shapes_and_signs_that_filters_need(
        self, model: TumourModel, hyper: Mapping[str, Any]
    ) -> None:
        n = len(model.shared)
        mean, covariance = model.prior(hyper)
        assert mean.shape == (n,) and covariance.shape == (n, n)
        assert mean.dtype == covariance.dtype == np.float64
        assert np.isfinite(mean).all() and np.isfinite(covariance).all()
        np.testing.assert_allclose(covariance, covariance.T, rtol=0, atol=1e-12)
        assert np.linalg.eigvalsh(covariance).min() >= -1e-12, "the prior's covariance is not positive semi-definite"
        fresh = model.target_prior(hyper)
        assert fresh.shape == (len(model.per_target), 2)
        assert np.isfinite(fresh).all() and (fresh[:, 1] >= 0.0).all()
        constants = model.constants(hyper)
        assert constants.ndim == 1 and constants.dtype == np.float64 and np.isfinite(constants).all()
        for n_targets in (0, 1, 3):
            variance = model.process_variance(hyper, n_targets)
            assert variance.shape == (n + n_targets * len(model.per_target),)
            assert np.isfinite(variance).all() and (variance >= 0.0).all()

    def test_functions_have_the_compiled_signatures(self, model: TumourModel) -> None:
        for function, signature in ((model.propagate, PROPAGATE_SIGNATURE), (model.observe, OBSERVE_SIGNATURE)):
            compiled = getattr(function, "overloads", None)
            assert compiled, "compile it with numba.njit and an explicit signature, so that it is compiled once"
            assert signature.args in compiled, f"compile it as {signature}"

    def test_propagation_is_finite_deterministic_and_leaves_its_argument_alone(
        self, model: TumourModel, hyper: Mapping[str, Any]
    ) -> None:
        constants = model.constants(hyper)
        for member in _draws(model, hyper, 2):
            for days in (1e-5, 1.0, 45.0, 800.0):
                for segment in _inputs(model, hyper, days):
                    before, out, again = member.copy(), np.full_like(member, np.nan), np.full_like(member, np.nan)
                    inputs = np.array(segment.inputs, dtype=np.float64)
                    model.propagate(member, START, START + days, inputs, constants, out)
                    model.propagate(member, START, START + days, inputs, constants, again)
                    assert np.isfinite(out).all(), f"not finite after {days} days from {before}"
                    np.testing.assert_array_equal(out, again)
                    np.testing.assert_array_equal(member, before)

    def test_no_time_changes_nothing(self, model: TumourModel, hyper: Mapping[str, Any]) -> None:
        constants = model.constants(hyper)
        for member in _draws(model, hyper, 1, wider=1.0):
            for segment in _inputs(model, hyper, 30.0):
                out = np.empty_like(member)
                model.propagate(
                    member, START, START, np.array(segment.inputs, dtype=np.float64), constants, out
                )
                np.testing.assert_allclose(out, member, rtol=1e-9, atol=1e-9)

    def test_observations_are_finite_with_noise(self, model: TumourModel, hyper: Mapping[str, Any]) -> None:
        constants = model.constants(hyper)
        for member in _draws(model, hyper, 2):
            for operator, observable in enumerate(model.observables):
                for target in range(2) if observable.per_target else (0,):
                    out = np.full(2, np.nan)
                    before = member.copy()
                    model.observe(member, operator, target, constants, out)
                    assert np.isfinite(out).all() and out[1] > 0.0, f"{observable.name} of {before}"
                    np.testing.assert_array_equal(member, before)

    def test_an_observation_of_one_target_is_blind_to_the_slot_of_another(
        self, model: TumourModel, hyper: Mapping[str, Any]
    ) -> None:
        constants = model.constants(hyper)
        first, second = np.empty(2), np.empty(2)
        for operator, observable in enumerate(model.observables):
            if not observable.per_target:
                continue
            for member in _draws(model, hyper, 2)[:20]:
                swapped = member.copy()
                n, m = len(model.shared), len(model.per_target)
                swapped[n : n + m], swapped[n + m :] = member[n + m :], member[n : n + m]
                model.observe(member, operator, 0, constants, first)
                model.observe(swapped, operator, 1, constants, second)
                np.testing.assert_allclose(first, second, rtol=1e-12, atol=1e-12)

    def test_transforms_invert(self, model: TumourModel, hyper: Mapping[str, Any]) -> None:
        for observable in model.observables:
            values = np.array([1.0, 2.0, 7.5, 100.0]) * observable.floor
            scaled = np.array([model.transform(observable.name, float(value)) for value in values])
            assert np.isfinite(scaled).all() and (np.diff(scaled) > 0.0).all()
            np.testing.assert_allclose(model.inverse(observable.name, scaled), values, rtol=1e-9)
            assert math.isfinite(model.transform(observable.name, 0.0)), "validation lets a zero through"
            grid = model.inverse(observable.name, np.linspace(scaled[0] - 50.0, scaled[-1] + 50.0, 41))
            assert np.isfinite(grid).all() and (np.diff(grid) >= 0.0).all(), "quantiles must keep their order"

    def test_segments_end_at_the_end(self, model: TumourModel, hyper: Mapping[str, Any]) -> None:
        for therapy in _therapies():
            for end in (START + 0.5, START + 90.0):
                for forecast in (False, True):
                    pieces = model.segments(therapy, START, end, hyper, forecast=forecast)
                    assert pieces and pieces[-1].until == end
                    edges = [START, *(piece.until for piece in pieces)]
                    assert all(a < b for a, b in pairwise(edges))
                    assert all(len(piece.inputs) == model.n_inputs for piece in pieces)
                    assert all(math.isfinite(value) for piece in pieces for value in piece.inputs)

    def test_resets_name_shared_components(self, model: TumourModel, hyper: Mapping[str, Any]) -> None:
        therapies = [Therapy(), *_therapies()]
        for before in therapies:
            for after in therapies:
                for reset in model.therapy_resets(before, after, START, hyper):
                    assert 0 <= reset.component < len(model.shared)
                    assert math.isfinite(reset.mean) and reset.variance >= 0.0
            assert not model.therapy_resets(before, before, START, hyper), "what has not changed resets nothing"

    def test_a_twin_folds_its_own_simulated_patient(self, model: TumourModel, hyper: Mapping[str, Any]) -> None:
        """Simulated events go through the twin as a hospital's would; its state survives bytes; replays agree."""
        binding = bind("test", ModelBundle({model.name: ModelPrior(model.name, hyper)}), [model], UnscentedFilter(),
                       DriftSettings())
        for patient in _patients(model, hyper, 5):
            empty = TwinState("simulated/p", "test")
            [(state, effects)] = advance(binding, [empty], [patient.items])
            assert to_bytes(from_bytes(to_bytes(state))) == to_bytes(state)
            half = len(patient.items) // 2
            [(first, _)] = advance(binding, [empty], [patient.items[:half]])
            [(second, _)] = advance(binding, [from_bytes(to_bytes(first))], [patient.items[half:]])
            assert to_bytes(second) == to_bytes(state)
            n_seen = sum(isinstance(item, Observation) for item in patient.items)
            innovations = [e.innovation for e in effects.estimates if e.innovation is not None]
            assert len(innovations) == n_seen
            assert all(math.isfinite(i.whitened) for i in innovations)

    def test_innovations_of_simulated_patients_are_standard(
        self, model: TumourModel, hyper: Mapping[str, Any]
    ) -> None:
        """The default filter and the simulation agree: a wrong sign, unit or noise shows here."""
        binding = bind("test", ModelBundle({model.name: ModelPrior(model.name, hyper)}), [model], UnscentedFilter(),
                       DriftSettings())
        patients = list(_patients(model, hyper, 150))
        results = advance(
            binding, [TwinState(f"simulated/p{i}", "test") for i in range(len(patients))], [p.items for p in patients]
        )
        scores = np.array([
            estimate.innovation.whitened
            for _, effects in results for estimate in effects.estimates if estimate.innovation is not None
        ])
        assert abs(scores.mean()) < 0.2
        assert 0.7 < np.sqrt(np.mean(np.clip(scores, -5.0, 5.0) ** 2)) < 1.3


def _draws(model: TumourModel, hyper: Mapping[str, Any], n_targets: int, wider: float = WIDER) -> Array:
    """(N_DRAWS, n): members far wider than the prior, the first one at its centre."""
    rng = np.random.default_rng(20_26)
    mean, covariance = model.prior(hyper)
    fresh = model.target_prior(hyper)
    n_targets = n_targets if len(model.per_target) else 0
    centre = np.concatenate([mean, np.tile(fresh[:, 0], n_targets)])
    spread = np.sqrt(np.concatenate([np.diagonal(covariance), np.tile(fresh[:, 1], n_targets)]))
    draws = centre + wider * spread * rng.standard_normal((N_DRAWS, len(centre)))
    draws[0] = centre
    return np.ascontiguousarray(draws)


def _therapies() -> list[Therapy]:
    """Untreated, one agent, two, and after a stop."""
    one = Therapy().changed("on", "drug A", START - 100.0)
    return [
        Therapy(), one, one.changed("on", "drug B", START - 10.0), one.changed("off", "drug A", START - 20.0),
        Therapy().changed("given", "drug C", START - 5.0, until=START + 400.0, dose=10.0, unit="mg"),
    ]


def _inputs(model: TumourModel, hyper: Mapping[str, Any], days: float) -> Iterator[Segment]:
    for therapy in _therapies():
        yield from model.segments(therapy, START, START + days, hyper, forecast=False)


def _patients(model: TumourModel, hyper: Mapping[str, Any], n: int) -> Iterator[SimulatedPatient]:
    """Patients on and off treatment with all observables at every visit, one event each at its own moment."""
    targets = ("L1", "L2") if any(observable.per_target for observable in model.observables) else ("",)
    # Observables that measure one thing twice would be seen at once; one of each kind is enough.
    kinds = {observable.per_target: observable.name for observable in reversed(model.observables)}
    course = Course(
        tuple(sorted(kinds.values())), tuple(30.0 * i for i in range(10)),
        ((1.0, "on", "drug A"), (120.0, "off", "drug A"), (170.0, "on", "drug B")), targets,
    )
    for i in range(n):
        patient = simulate(model, hyper, course, np.random.default_rng([411, i]))
        yield SimulatedPatient(tuple(_spaced(patient)), patient.steps, patient.cursor, patient.truth)


def _spaced(patient: SimulatedPatient) -> Iterator[Any]:
    """Items with clinical times a microsecond apart, so that any cut between two of them is a legal place to pause."""
    for n, item in enumerate(patient.items):
        yield replace(item, header=replace(item.header, time=item.header.time + timedelta(microseconds=n)))
