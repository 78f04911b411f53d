"""The built-in models keep the laws that a user's own model is held to."""

from __future__ import annotations

import pytest

from oncotwin.models.androgen import AndrogenSuppression
from oncotwin.models.base import TumourModel
from oncotwin.models.tumour_burden import TumourBurden
from oncotwin.testing.model_conformance import ModelConformance


class TestTumourBurden(ModelConformance):
    """Lesions under systemic therapy."""

    @pytest.fixture
    def model(self) -> TumourModel:
        """With the priors of the literature."""
        return TumourBurden()


class TestAndrogenSuppression(ModelConformance):
    """PSA and testosterone under intermittent suppression."""

    @pytest.fixture
    def model(self) -> TumourModel:
        """With the priors of the literature."""
        return AndrogenSuppression()
