"""The default filter's posterior of the tumour-burden model on patients drawn from its own prior."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from oncotwin.models.base import component_names
from oncotwin.models.tumour_burden import TumourBurden
from oncotwin.twin.fold import run_parts
from oncotwin.twin.population import bind_hyper
from oncotwin.twin.simulate import Course, simulate_many

Z90 = 1.6448536269514722
VISITS = tuple(-10.0 + 42.0 * i for i in range(9))
N_PATIENTS = 1_500
WITHIN = {1: 0.03, 2: 0.05}
"""By lesions: three standard errors of a share of 0.9 of 1,500 patients (0.023), the rest for the filter's Gaussian.

The posterior of a logarithmic rate is skewed, the more the better the data bound it on one side: two lesions seen over
a year leave the growth rate's interval at about 0.87.
"""


def standardised_errors(targets: tuple[str, ...]) -> dict[str, NDArray[np.float64]]:
    """(N_PATIENTS,) truth less posterior mean over posterior sd at the last visit, by component."""
    model = TumourBurden()
    hyper = model.default_hyperparameters()
    course = Course(("longest_diameter",), VISITS, ((0.0, "on", "drug"),), targets)
    patients = simulate_many(model, hyper, [course] * N_PATIENTS, seed=411)
    state, _ = run_parts(bind_hyper(model, hyper), [None] * N_PATIENTS, [patient.steps for patient in patients])
    mean, covariance = state.moments()
    truth = np.array([patient.truth[-1] for patient in patients])
    errors = (truth - mean) / np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    return dict(zip(component_names(model, targets), errors.T, strict=True))


@pytest.mark.parametrize("targets", [("L1",), ("L1", "L2")], ids=["one_lesion", "two_lesions"])
def test_ninety_percent_intervals_hold_the_truth(targets: tuple[str, ...]) -> None:
    for name, errors in standardised_errors(targets).items():
        covered = np.mean(np.abs(errors) < Z90)
        assert abs(covered - 0.9) < WITHIN[len(targets)], f"{name}: {covered:.3f}"
        assert abs(errors.mean()) < 0.15, f"{name} is biased by {errors.mean():.2f} posterior sd"


def test_a_second_lesion_teaches_of_the_first() -> None:
    """What lesions share is learned from all of them: the kill rate of two lesions is known better than that of one."""
    model = TumourBurden()
    hyper = model.default_hyperparameters()
    spread = {}
    for targets in (("L1",), ("L1", "L2", "L3")):
        course = Course(("longest_diameter",), VISITS, ((0.0, "on", "drug"),), targets)
        patients = simulate_many(model, hyper, [course] * 100, seed=411)
        state, _ = run_parts(bind_hyper(model, hyper), [None] * 100, [patient.steps for patient in patients])
        spread[len(targets)] = np.sqrt(state.moments()[1][:, 1, 1]).mean()
    assert spread[3] < 0.95 * spread[1]
