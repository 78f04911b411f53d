"""What calibration learns and the registry keeps: one prior for each model, as plain JSON, never a pickle."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from oncotwin.domain.errors import ModelError

FILTERS = ("unscented", "ensemble", "square-root-ensemble", "particle")
"""Names of the filters that may follow the twins of a version; the first is the default."""


@dataclass(frozen=True, slots=True)
class FilterChoice:
    """Which filter follows the twins of a version."""

    name: str = FILTERS[0]
    """One of `FILTERS`."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Numbers and truth values by name; every one that shapes the result, so that the version means one filter."""


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
    filter: FilterChoice = FilterChoice()

    def to_json(self) -> str:
        """Serialise with sorted keys; equal bundles give equal text.

        A bundle that keeps the default filter is written as format 1, which every release reads; any other as format
        2, so that a release that knows only the default refuses it.

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
        whole: dict[str, Any] = {"format": 1, "models": content}
        if self.filter != FilterChoice():
            chosen = {"name": self.filter.name, "parameters": self.filter.parameters}
            whole = {"format": 2, "models": content, "filter": chosen}
        try:
            return json.dumps(whole, sort_keys=True, allow_nan=False)
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
            if content["format"] not in (1, 2):
                raise ModelError(
                    f"model bundle has format {content['format']}, this release reads 1 and 2; use a newer release"
                )
            chosen = FilterChoice(**content["filter"]) if content["format"] == 2 else FilterChoice()
            bundle = cls({name: ModelPrior(**prior) for name, prior in content["models"].items()}, chosen)
            bundle._check()
            return bundle
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ModelError(f"not a model bundle ({error!r}); register one with `oncotwin calibrate`") from error

    def _check(self) -> None:
        """Refuse fields of other kinds than theirs.

        Raises:
            TypeError: one is.
        """
        texts: list[Any] = [self.filter.name]
        mappings: list[Any] = [self.filter.parameters]
        for prior in self.models.values():
            texts += [prior.model, prior.fingerprint]
            mappings += [prior.hyperparameters, prior.forecast_calibration]
        if not all(isinstance(one, str) for one in texts) or not all(isinstance(one, dict) for one in mappings):
            raise TypeError("a name is no text, or parameters are no mapping")
