"""The calibration flow: events -> population priors and forecast layer -> a registered challenger."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from oncotwin.bootstrap import wiring
from oncotwin.bootstrap.settings import Settings
from oncotwin.domain.audit_drafts import model_registered
from oncotwin.domain.bundle import ModelBundle
from oncotwin.domain.ids import TwinId
from oncotwin.ports.model_registry import CalibrationRun
from oncotwin.twin.population import Effort, calibrate_bundle, fingerprint
from oncotwin.twin.timeline import Item
from oncotwin_flows.runtime import NO_CACHE, Sealed, flow, quick_flows, task

Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Study:
    """What a calibration is given."""

    settings: Settings
    items: Mapping[TwinId, Sequence[Item]]
    effort: Effort | None
    progress: Progress


def register_version(settings: Settings, bundle: ModelBundle, run: CalibrationRun) -> str:
    """Keep a bundle in the registry, and in the audit trail that it was; returns its version."""
    version = wiring.open_registry(settings).register(bundle, run)
    bundle_hash = hashlib.sha256(bundle.to_json().encode()).hexdigest()
    with closing(wiring.open_store(settings)) as store:
        store.audit.append([model_registered(version, bundle_hash)], wiring.SystemClock().now())
    return version


@task(name="learn", cache_policy=NO_CACHE)
def learn(study: Sealed[Study]) -> Sealed[ModelBundle]:
    """Empirical Bayes for each model whose observables occur; the champion's priors for the others."""
    given = study.content
    learned = calibrate_bundle(
        given.items, wiring.models(given.settings), effort=given.effort, progress=given.progress,
        choice=wiring.filter_choice(given.settings),
    )
    _, champion = wiring.load_bundle(given.settings, "champion")
    return Sealed(ModelBundle({**champion.models, **learned.models}, learned.filter))


@task(name="register", cache_policy=NO_CACHE, retries=2, retry_delay_seconds=2)
def register(study: Sealed[Study], bundle: Sealed[ModelBundle], run: CalibrationRun) -> str:
    """A new version under the alias ``challenger``."""
    version = register_version(study.content.settings, bundle.content, run)
    wiring.open_registry(study.content.settings).set_alias("challenger", version)
    return version


@flow(name="calibrate", validate_parameters=False)
def calibrate(study: Sealed[Study]) -> dict[str, Any]:
    """Learn and register."""
    begun = time.monotonic()
    items = study.content.items
    learned = learn(study)
    bundle = learned.content
    institutions = sorted({twin_id.partition("/")[0] for twin_id in items})
    data = fingerprint(items)
    n_items = sum(len(one) for one in items.values())
    seconds = time.monotonic() - begun
    run = CalibrationRun(
        name=f"calibrate {' '.join(sorted(bundle.models))}",
        parameters={
            "institutions": " ".join(institutions)[:500], "models": " ".join(sorted(bundle.models)),
            "filter": bundle.filter.name,
            **{f"filter_{name}": str(value) for name, value in bundle.filter.parameters.items()},
        },
        metrics={"n_twins": len(items), "n_items": n_items, "seconds": seconds},
        tags={"data_fingerprint": data},
    )
    version = register(study, learned, run)
    return {
        "version": version, "alias": "challenger", "models": sorted(bundle.models), "n_twins": len(items),
        "n_items": n_items, "institutions": institutions, "data_fingerprint": data, "seconds": round(seconds, 2),
        "filter": bundle.filter.name, "filter_parameters": dict(bundle.filter.parameters),
        "hyperparameters": {name: dict(prior.hyperparameters) for name, prior in bundle.models.items()},
    }


def calibrate_and_register(
    settings: Settings, items: Mapping[TwinId, Sequence[Item]], progress: Progress, effort: Effort | None = None
) -> dict[str, Any]:
    """Run the flow.

    Returns:
        ``version`` and what it rests on.
    Raises:
        CalibrationError: the events say too little to learn from.
        ConfigurationError: the settings name no filter, or a size that it cannot have.
    """
    wiring.filter_choice(settings)
    with quick_flows():
        found: dict[str, Any] = calibrate(Sealed(Study(settings, items, effort, progress)))
    return found
