"""What calibration learns and the registry keeps: one prior for each model, as plain JSON, never a pickle."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from oncotwin.domain.errors import ModelError


@dataclass(frozen=True, slots=True)
class ModelPrior:
    """Population prior and forecast settings of one model."""

    model: str
    """Name under which the model is found."""
    hyperparameters: Mapping[str, Any]
    """Numbers, strings, and (nested) lists and mappings of them."""
    forecast_calibration: Mapping[str, Any] = field(default_factory=dict)
    """How predictive quantiles are widened or narrowed, by what calibration saw."""
    fingerprint: str = ""
    """SHA-256 (hex) of the data that it was learned from; "" for a prior from the literature."""


@dataclass(frozen=True, slots=True)
class ModelBundle:
    """All priors of one registered version."""

    models: Mapping[str, ModelPrior]

    def to_json(self) -> str:
        """Serialise with sorted keys; equal bundles give equal text.

        Raises:
            ModelError: a number is not finite, or a value is no JSON.
        """
        content = {
            name: {
                "model": prior.model,
                "hyperparameters": prior.hyperparameters,
                "forecast_calibration": prior.forecast_calibration,
                "fingerprint": prior.fingerprint,
            }
            for name, prior in self.models.items()
        }
        try:
            return json.dumps({"format": 1, "models": content}, sort_keys=True, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ModelError(
                f"a prior cannot be written as JSON ({error}); keep finite numbers, strings and lists in it"
            ) from error

    @classmethod
    def from_json(cls, text: str | bytes) -> "ModelBundle":
        """Read what `to_json` wrote.

        Raises:
            ModelError: not a bundle, or of a format of a later release.
        """
        try:
            content = json.loads(text)
            if content["format"] != 1:
                raise ModelError(
                    f"model bundle has format {content['format']}, this release reads 1; use a newer release"
                )
            return cls({name: ModelPrior(**prior) for name, prior in content["models"].items()})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"not a model bundle ({error!r}); register one with `oncotwin calibrate`") from error
