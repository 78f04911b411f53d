"""The model keeps what oncotwin asks of every model."""

import pytest
from oncotwin_exponential import ExponentialModel

from oncotwin.models.base import TumourModel
from oncotwin.testing.model_conformance import ModelConformance


class TestExponentialModel(ModelConformance):
    """All laws of the suite."""

    @pytest.fixture
    def model(self) -> TumourModel:
        """The model as the settings would make it: without arguments."""
        return ExponentialModel()
