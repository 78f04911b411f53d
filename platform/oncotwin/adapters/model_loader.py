"""Models by the name that the settings give them: built in, or a user's own package."""

from __future__ import annotations

import importlib
from functools import lru_cache

from oncotwin.domain.errors import ConfigurationError
from oncotwin.models.base import TumourModel

_WANTED = (
    "name", "observables", "shared", "per_target", "n_inputs", "propagate", "observe", "default_hyperparameters",
    "prior", "target_prior", "constants", "process_variance", "transform", "inverse", "segments", "therapy_resets",
)


@lru_cache(maxsize=64)
def load_model(path: str) -> TumourModel:
    """Import and make a model.

    Args:
        path: ``package.module:Class``; the class is called without arguments.
    Raises:
        ConfigurationError: it cannot be imported, or lacks something of `TumourModel`.
    """
    module_name, colon, attribute = path.partition(":")
    if not colon or not attribute:
        raise ConfigurationError(
            f"model {path!r} is not named as package.module:Class; correct `models` in the settings"
        )
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            f"model {path!r} cannot be imported ({error}); install its package into this environment, or take it out "
            "of `models` in the settings"
        ) from error
    model: TumourModel = factory()
    missing = [name for name in _WANTED if not hasattr(model, name)]
    if missing:
        raise ConfigurationError(
            f"model {path!r} lacks {', '.join(missing)} of the protocol oncotwin.models.base.TumourModel; run the "
            "conformance suite of oncotwin.testing.model_conformance on it"
        )
    return model
