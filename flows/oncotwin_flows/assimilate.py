"""The assimilation flow: one Prefect run drains the log up to a bound, with as many commits as the latency asks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from oncotwin.bootstrap import wiring
from oncotwin.bootstrap.settings import Settings
from oncotwin.domain.errors import FencedError, HostLostError, LogError, StaleVersionError, StoreUnavailableError
from oncotwin.ports.steps import OnStep, no_step
from oncotwin_flows.careful import CarefulHost
from oncotwin_flows.checkpoints import open_checkpoints
from oncotwin_flows.erase import ErasureReport, make_eraser
from oncotwin_flows.gaps import GapWatch
from oncotwin_flows.groups import Bounds, Tally
from oncotwin_flows.lag import watching
from oncotwin_flows.promote import champion_at_start
from oncotwin_flows.relay import Relay
from oncotwin_flows.runtime import NO_CACHE, Sealed, flow, quick_flows, task
from oncotwin_flows.worker import Worker, WorkerSettings

MAX_FAILURES = 6
"""Runs in a row that may fail before a worker that is to end, or that has lost its cluster, gives up: a minute."""

_LONGEST_PAUSE_S = 30.0
_OUTLASTED = (StoreUnavailableError, LogError, HostLostError, StaleVersionError, FencedError)


@task(name="drain", retries=2, retry_delay_seconds=2, cache_policy=NO_CACHE)
def drain(worker: Sealed[Worker], bounds: Bounds) -> Tally:
    """Read, validate, fold and commit until a bound or the end of the log; plain code inside."""
    return worker.content.run(bounds)


@task(name="watch gaps", retries=2, retry_delay_seconds=2, cache_policy=NO_CACHE)
def watch_gaps(watch: Sealed[GapWatch]) -> int:
    """Tell of events that their sources numbered and that did not come."""
    return watch.content.look()


@task(name="publish", retries=2, retry_delay_seconds=2, cache_policy=NO_CACHE)
def publish(relay: Sealed[Relay]) -> int:
    """Send what the commits have put aside to its topics."""
    return relay.content.publish()


@flow(name="assimilate", validate_parameters=False)
def assimilate(
    worker: Sealed[Worker], watch: Sealed[GapWatch], relay: Sealed[Relay], bounds: Bounds
) -> tuple[Tally, int]:
    """One bounded micro-batch: log -> twins -> store -> topics."""
    tally = drain(worker, bounds)
    if watch.content.is_due(tally.n_accepted):
        tally.n_alerts += watch_gaps(watch)
    return tally, publish(relay)


def bounds_of(settings: Settings) -> Bounds:
    """The batch bounds of the settings."""
    return Bounds(settings.batch_events, settings.batch_seconds, settings.commit_events, settings.poll_seconds)


@contextmanager
def open_worker(
    settings: Settings, on_progress: Callable[[int], None] | None = None,
    announce: Callable[[str], None] | None = None, on_step: OnStep = no_step,
) -> Iterator[tuple[Worker, GapWatch, Relay]]:
    """A worker with its log, store and host, the watch for gaps, and the relay; all closed again at the end.

    Args:
        on_step: told of every named step of worker, commit and relay.
    """
    store, log = wiring.open_store(settings, on_step), wiring.open_log(settings)
    version = champion_at_start(settings, store, announce)
    clock = wiring.SystemClock()
    host = CarefulHost(wiring.open_host(settings, version), clock, announce)
    relay = Relay(store, lambda topic: wiring.open_log(settings, topic), on_step=on_step)
    watch = GapWatch(store, clock, timedelta(seconds=settings.gap_seconds))
    keys = wiring.open_keys(settings)
    eraser = make_eraser(settings, store, keys, clock)
    _tell(eraser.resume(), announce)
    worker = Worker(
        log, store, host, clock,
        WorkerSettings(
            name=wiring.worker_name(settings), log_name=wiring.log_name(settings), version=version,
            lease_s=settings.lease_seconds, clock_skew=wiring.clock_skew(settings),
            array_stores=tuple(settings.arrays), sources=settings.sources,
        ),
        on_progress, None if announce is None else lambda error: announce(f"begun again: {error}"),
        on_step=on_step, erase=lambda: _tell(eraser.carry_out(), announce),
    )
    try:
        yield worker, watch, relay
    finally:
        worker.release()
        relay.close()
        host.close()
        log.close()
        keys.close()
        store.close()


def _tell(reports: Sequence[ErasureReport], announce: Callable[[str], None] | None) -> int:
    """Say who was erased and what is left to do; returns how many."""
    if announce is not None:
        for report in reports:
            announce(f"erased: {report.twin_id}")
            for problem in report.problems:
                announce(f"erasure of {report.twin_id} is not finished: {problem}")
    return len(reports)


def run_worker(
    settings: Settings, *, until_idle: bool, on_progress: Callable[[int], None] | None = None,
    announce: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Call the flow in a loop, until interrupted or, with ``until_idle``, until the log has no more.

    A store or log that is away for a while is waited for.

    Returns:
        Totals over all runs.
    Raises:
        StoreError, LogError: with ``until_idle``, they stayed away. HostLostError: twins find no host, however often
            they are delivered: the cluster is gone, and whoever supervises this process should start it anew.
    """
    n_runs, n_published, n_failures, total = 0, 0, 0, Tally()
    begun = time.monotonic()
    with (
        quick_flows(), open_worker(settings, on_progress, announce) as (worker, watch, relay),
        open_checkpoints(settings, announce) as after_run, watching(settings, announce),
    ):
        if announce is not None and (url := dashboard(settings)):
            announce(f"Ray dashboard: {url}")
        try:
            while True:
                try:
                    tally, published = assimilate(Sealed(worker), Sealed(watch), Sealed(relay), bounds_of(settings))
                    after_run(tally.n_accepted)
                except _OUTLASTED as error:
                    n_failures += 1
                    if n_failures > MAX_FAILURES and (until_idle or isinstance(error, HostLostError)):
                        raise
                    pause = min(2.0 ** (n_failures - 1), _LONGEST_PAUSE_S)
                    if announce is not None:
                        announce(f"{error}; nothing is lost, trying again in {pause:.0f} s")
                    time.sleep(pause)
                    continue
                n_failures = 0
                n_runs += 1
                n_published += published
                total.add(tally)
                total.partitions = tally.partitions
                if until_idle and tally.n_read == 0:
                    break
                if tally.n_read == 0:
                    time.sleep(settings.poll_seconds)
        except KeyboardInterrupt:
            if announce is not None:
                announce("stopped; what was not committed is read again at the next start")
    found = {
        "flow_runs": n_runs, "published": n_published, **asdict(total), "seconds": time.monotonic() - begun
    }
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in found.items()}


def dashboard(settings: Settings) -> str:
    """Address of the Ray dashboard, "" without Ray."""
    if settings.ray == "in-process":
        return ""
    from oncotwin.adapters.ray_cluster import connect

    return connect(settings.ray, settings.ray_cpus)
