"""Leave one institution out: train on the others, forecast its patients, all ways round, and one version from all."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np

from oncotwin.bootstrap import wiring
from oncotwin.bootstrap.settings import Settings
from oncotwin.domain.bundle import ModelBundle
from oncotwin.domain.ids import TwinId
from oncotwin.ports.model_registry import CalibrationRun
from oncotwin.twin.backtest import ForecastTable, backtest_bundle
from oncotwin.twin.population import calibrate_bundle, fingerprint
from oncotwin.twin.timeline import Item
from oncotwin_flows.calibrate import register_version
from oncotwin_flows.promote import promote_version
from oncotwin_flows.runtime import NO_CACHE, Sealed, flow, quick_flows, task

Items = Mapping[TwinId, Sequence[Item]]

EVERYTHING = "all institutions"
"""Name of the calibration that leaves nobody out: the one that live twins follow."""


@dataclass(frozen=True, slots=True)
class Learned:
    """One calibration.

    Attributes:
        left_out: the institution that was not trained on, or `EVERYTHING`.
        table: forecasts of the institution left out; None for `EVERYTHING`.
    """

    left_out: str
    bundle_json: str
    table: ForecastTable | None
    fingerprint: str
    n_twins: int
    seconds: float


def _institution(twin_id: TwinId) -> str:
    return twin_id.partition("/")[0]


def _learn(settings: Settings, items: Items, left_out: str) -> Learned:
    """One calibration and its back-test; runs in a process of its own."""
    begun = time.perf_counter()
    models = wiring.models(settings)
    training = {twin_id: one for twin_id, one in items.items() if _institution(twin_id) != left_out}
    bundle = calibrate_bundle(training, models)
    table = None
    if left_out != EVERYTHING:
        tested = {twin_id: one for twin_id, one in items.items() if _institution(twin_id) == left_out}
        table = backtest_bundle(tested, models, bundle, f"without {left_out}")
    return Learned(
        left_out, bundle.to_json(), table, fingerprint(training), len(training), time.perf_counter() - begun
    )


class LeaveOneOut:
    """Calibrations under way in processes beside this one, so that the stream's engines can start meanwhile."""

    def __init__(self, settings: Settings, items: Items, n_processes: int) -> None:
        # Fresh processes: a copy of this one would hold its threads' locks and its connections.
        self._pool = ProcessPoolExecutor(n_processes, mp_context=multiprocessing.get_context("spawn"))
        institutions = sorted({_institution(twin_id) for twin_id in items})
        self.names = [EVERYTHING, *institutions]
        self._futures: list[Future[Learned]] = [
            self._pool.submit(_learn, settings, items, name) for name in self.names
        ]

    def results(self, on_done: Callable[[Learned], None] | None = None) -> list[Learned]:
        """Wait for all; in the order of ``names``."""
        found = []
        for future in self._futures:
            found.append(future.result())
            if on_done is not None:
                on_done(found[-1])
        return found

    def close(self) -> None:
        """End the processes; what has not begun is dropped."""
        self._pool.shutdown(wait=True, cancel_futures=True)


@task(name="register", cache_policy=NO_CACHE, retries=2, retry_delay_seconds=2)
def _register(settings: Sealed[Settings], learned: Sealed[Learned], coverage: float | None) -> str:
    one = learned.content
    metrics = {"n_twins": float(one.n_twins), "seconds": one.seconds}
    if coverage is not None:
        metrics["coverage_90"] = coverage
    run = CalibrationRun(
        f"calibrate {one.left_out}", {"left_out": one.left_out}, metrics, {"data_fingerprint": one.fingerprint}
    )
    return register_version(settings.content, ModelBundle.from_json(one.bundle_json), run)


@flow(name="register-trials", validate_parameters=False)
def _register_all(settings: Sealed[Settings], learned: Sealed[list[Learned]]) -> dict[str, str]:
    versions = {}
    for one in learned.content:
        versions[one.left_out] = _register(settings, Sealed(one), _coverage(one.table))
    return versions


def _coverage(table: ForecastTable | None) -> float | None:
    """Coverage of the 90 % interval over the uncensored targets."""
    if table is None:
        return None
    seen = table.rows(~table.columns["censored"].astype(np.bool_))
    inside = (seen.columns["q05"] <= seen.columns["observed"]) & (seen.columns["observed"] <= seen.columns["q95"])
    return float(inside.mean()) if len(inside) else None


def register_and_promote(settings: Settings, learned: Sequence[Learned]) -> dict[str, str]:
    """Register every calibration in MLflow; the one from all institutions is promoted.

    Returns:
        Version by the institution left out.
    """
    with quick_flows():
        versions: dict[str, str] = _register_all(Sealed(settings), Sealed(list(learned)))
    promote_version(settings, versions[EVERYTHING], chosen_by="demo")
    return versions
