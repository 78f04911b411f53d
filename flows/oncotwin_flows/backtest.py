"""The back-test flow: what a registered version would have forecast, and how it turned out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from oncotwin.bootstrap import wiring
from oncotwin.bootstrap.settings import Settings
from oncotwin.domain.ids import TwinId
from oncotwin.twin.backtest import ForecastTable, backtest_bundle
from oncotwin.twin.timeline import Item
from oncotwin_flows.runtime import NO_CACHE, Sealed, flow, quick_flows, task

Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Trial:
    """What a back-test is given."""

    settings: Settings
    items: Mapping[TwinId, Sequence[Item]]
    version: str
    progress: Progress


@task(name="evaluate", cache_policy=NO_CACHE)
def evaluate(trial: Sealed[Trial]) -> tuple[str, ForecastTable]:
    """Rolling-origin forecasts of one version."""
    given = trial.content
    number, bundle = wiring.load_bundle(given.settings, given.version)
    models = wiring.models(given.settings)
    return number, backtest_bundle(given.items, models, bundle, number, progress=given.progress)


@flow(name="backtest", validate_parameters=False)
def backtest(trial: Sealed[Trial]) -> tuple[str, ForecastTable]:
    """Evaluate a version."""
    return evaluate(trial)


def backtest_flow(
    settings: Settings, items: Mapping[TwinId, Sequence[Item]], version: str, progress: Progress
) -> tuple[str, ForecastTable]:
    """Run the flow; returns the version's number and its forecasts.

    Raises:
        ModelError: no such version.
    """
    with quick_flows():
        found: tuple[str, ForecastTable] = backtest(Sealed(Trial(settings, items, version, progress)))
    return found
