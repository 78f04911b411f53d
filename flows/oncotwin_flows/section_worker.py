"""The process that follows sections and slides in the log, until it is stopped: `oncotwin work --spatial`."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from oncotwin.bootstrap import wiring
from oncotwin.bootstrap.settings import Settings
from oncotwin.domain.errors import ConfigurationError, FencedError, LogError, StoreUnavailableError
from oncotwin.ports.steps import OnStep, no_step
from oncotwin.spatial.reference_cohort import Cohort
from oncotwin_flows.groups import Bounds
from oncotwin_flows.intake import IntakeRules
from oncotwin_flows.process_section import SectionProcessor, SectionSettings, SectionTally, process_sections
from oncotwin_flows.runtime import Sealed, quick_flows
from oncotwin_flows.section_readers import Reader, readers_on

MAX_FAILURES = 6
"""Runs in a row that may fail before a worker that is to end gives up."""
LEASE_S = 3_600.0
"""How long a section may take; a partition of a worker that died is free after so long."""

_LONGEST_PAUSE_S = 30.0
# An array store that is away raises what the operating system says of it.
_OUTLASTED = (StoreUnavailableError, LogError, FencedError, OSError)


@contextmanager
def open_processor(
    settings: Settings, readers: Mapping[str, Reader], cohorts: Mapping[str, Cohort] | None = None,
    on_step: OnStep = no_step,
) -> Iterator[SectionProcessor]:
    """A processor with its log and store, closed again at the end. Array stores are those of the settings."""
    store, log = wiring.open_store(settings, on_step), wiring.open_log(settings)
    rules = IntakeRules(wiring.clock_skew(settings), tuple(settings.arrays), settings.sources)
    how = SectionSettings(
        f"{wiring.worker_name(settings)}-sections", f"{wiring.log_name(settings)}/sections", LEASE_S, rules,
        settings.home / "sections",
    )
    try:
        yield SectionProcessor(log, store, wiring.SystemClock(), how, readers, cohorts, on_step)
    finally:
        log.close()
        store.close()


def load_cohorts(folder: Path) -> dict[str, Cohort]:
    """Cohorts by kind and platform, from the files ``<name>.json`` of a folder.

    Each holds ``for`` (such as ``omics.section Visium``) beside what `Cohort.to_json` writes.

    Raises:
        ConfigurationError: there is no such folder, or a file holds no cohort.
    """
    if not folder.is_dir():
        raise ConfigurationError(f"cohorts names {folder}, which is no folder; make it, or leave the setting out")
    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            found[str(content["for"])] = Cohort.from_json(content)
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigurationError(f"{path.name} holds no cohort ({error!r}); write it anew") from error
    return found


def run_sections(
    settings: Settings, *, until_idle: bool, on_progress: Callable[[int], None] | None = None,
    announce: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Call the flow in a loop, until interrupted or, with ``until_idle``, until the log has no more.

    A store, log or array store that is away for a while is waited for.

    Returns:
        Totals over all runs.
    Raises:
        StoreError, LogError, OSError: with ``until_idle``, they stayed away.
    """
    if not settings.arrays:
        raise ConfigurationError(
            "no array store is allowed, so that every section would be refused; name one by `arrays` (or --arrays)"
        )
    from oncotwin.adapters.arrays.engine import open_engine

    say = announce if announce is not None else _silent
    cohorts = {} if settings.cohorts is None else load_cohorts(settings.cohorts)
    if not cohorts:
        say("no reference cohort (setting `cohorts`): sections are not compared, and their evidence says so")
    bounds = Bounds(settings.batch_events, settings.batch_seconds, settings.commit_events, settings.poll_seconds)
    total, n_failures, begun = SectionTally(), 0, time.monotonic()
    with open_engine(settings.ray_cpus or os.cpu_count() or 1) as engine:
        say(f"Dask dashboard: {engine.dashboard or 'none (bokeh is not installed)'}")
        with quick_flows(), open_processor(settings, readers_on(engine), cohorts) as processor:
            try:
                while True:
                    try:
                        tally = process_sections(Sealed(processor), bounds)
                    except _OUTLASTED as error:
                        n_failures += 1
                        if n_failures > MAX_FAILURES and until_idle:
                            raise
                        pause = min(2.0 ** (n_failures - 1), _LONGEST_PAUSE_S)
                        say(f"{error}; nothing is lost, trying again in {pause:.0f} s")
                        time.sleep(pause)
                        continue
                    n_failures = 0
                    for field in fields(SectionTally):
                        setattr(total, field.name, getattr(total, field.name) + getattr(tally, field.name))
                    if on_progress is not None:
                        on_progress(tally.n_read)
                    if tally.n_read == 0:
                        if until_idle:
                            break
                        time.sleep(settings.poll_seconds)
            except KeyboardInterrupt:
                say("stopped; what was not committed is read again at the next start")
    return {**asdict(total), "seconds": round(time.monotonic() - begun, 3)}


def _silent(text: str) -> None:
    """Nobody listens."""
