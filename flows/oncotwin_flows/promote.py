"""Promotion: another model version is believed from one commit on; rolling back is the same with the version before.

The store's word counts: it is written in the transaction that switches every twin. The alias ``champion`` in the
registry follows it, and is mended at the next start where a crash came between the two.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from oncotwin.bootstrap import wiring
from oncotwin.bootstrap.settings import Settings
from oncotwin.bootstrap.wiring import LITERATURE
from oncotwin.domain.errors import ChampionChangedError, LineBehindError
from oncotwin.ports.clock import Clock
from oncotwin.ports.line_store import ChampionRow, LineStore, Promotion
from oncotwin.ports.model_registry import ModelRegistry
from oncotwin.ports.twin_rows import AlertRow, OutboxRow, TwinCommit
from oncotwin.twin.fold import Binding
from oncotwin_flows.outgoing import outbox_rows
from oncotwin_flows.runtime import NO_CACHE, Sealed, flow, quick_flows, task
from oncotwin_flows.shadow import LineFollower

MOST_BEHIND = 2_000
"""Twins folded while nobody else can commit: a few commit groups of the stream, some seconds of work at the most."""

FEW_BEHIND = 64
"""Twins that are folded so at the first try; each further one allows four times as many."""

MOST_ROUNDS = 100
"""Times that a line is caught up with a stream that goes on before it is given up."""

MIGRATION = "migration"
"""Who chose the champion of a store that an earlier release wrote."""


def promote_line(
    store: LineStore, binding: Binding, clock: Clock, chosen_by: str, *, most_behind: int = MOST_BEHIND,
    on_progress: Callable[[int], None] | None = None,
) -> int:
    """Catch a line up with the stream, then have it believed, in one transaction.

    Returns:
        The commit position from which on it is believed.
    Raises:
        LineBehindError: the stream is faster than the fold. ChampionChangedError: it is the champion already.
        ModelError: the version cannot fold an event of the journal.
    """
    follower = LineFollower(store, binding, clock, on_progress=on_progress)
    for attempt in range(MOST_ROUNDS):
        # A stream that goes on leaves some twins behind after every round: the fewer, the shorter it must wait.
        follower.round()
        behind = min(most_behind, FEW_BEHIND * 4**attempt)
        now = clock.now()
        tell = partial(_messages, now)
        try:
            return store.promote(Promotion(binding.version, chosen_by, now, follower.fold, tell, behind))
        except LineBehindError:
            if attempt == MOST_ROUNDS - 1:
                raise
    raise AssertionError("the loop returns or raises")


def _messages(now: datetime, twins: Sequence[TwinCommit], gone: Sequence[AlertRow]) -> tuple[OutboxRow, ...]:
    return outbox_rows(twins, (), now, gone)


@task(name="promote line", cache_policy=NO_CACHE)
def _promote_line(job: Sealed[Callable[[], int]]) -> int:
    """Plain code inside; its transaction is whole or was never there, so it may simply be called again."""
    return job.content()


@flow(name="promote", validate_parameters=False)
def promote(job: Sealed[Callable[[], int]]) -> int:
    """Journal -> line -> champion."""
    return _promote_line(job)


def promote_version(
    settings: Settings, version: str, *, chosen_by: str, on_progress: Callable[[int], None] | None = None
) -> dict[str, Any]:
    """Make a version the champion, in the store and then in the registry.

    Args:
        version: a number, an alias, or `LITERATURE`.
    Raises:
        ModelError: no such version, or it cannot fold an event of the journal.
    """
    number, bundle = wiring.load_bundle(settings, version)
    registry = wiring.open_registry(settings)
    store = wiring.open_store(settings)
    begun = time.monotonic()
    try:
        before = store.champion()
        position = None
        if before != number:
            binding, clock = wiring.binding(settings, number), wiring.SystemClock()
            with quick_flows():
                position = promote(
                    Sealed(lambda: promote_line(store, binding, clock, chosen_by, on_progress=on_progress))
                )
        _point(registry, number)
    finally:
        store.close()
    return {
        "champion": number, "before": before, "position": position, "models": sorted(bundle.models),
        "filter": bundle.filter.name, "seconds": round(time.monotonic() - begun, 3),
    }


def _point(registry: ModelRegistry, version: str) -> None:
    """Have the alias say what the store says; the literature's priors are no registered version."""
    if version == LITERATURE:
        registry.drop_alias("champion")
    elif registry.alias("champion") != version:
        registry.set_alias("champion", version)


def mend_alias(registry: ModelRegistry, champions: list[ChampionRow]) -> bool:
    """Finish a promotion that was cut short after its transaction; returns whether there was one.

    Only an alias that still names the champion before is moved: installations that share a registry each have a store
    of their own, and none may drag the alias to and fro.
    """
    if len(champions) < 2:
        return False
    now, before = champions[-1].model_version, champions[-2].model_version
    alias = registry.alias("champion") or LITERATURE
    if now == before or alias != before:
        return False
    _point(registry, now)
    return True


def champion_at_start(
    settings: Settings, store: LineStore, announce: Callable[[str], None] | None = None
) -> str:
    """The version that a worker is to follow, with every twin folded under it.

    In a store without commits that is the registry's champion. In one that an earlier release wrote the registry's
    champion is promoted, and twins of other versions are folded again.
    """
    say = announce or (lambda text: None)
    champions = store.champions()
    if not champions:
        return wiring.load_bundle(settings, "champion")[0]
    registry = wiring.open_registry(settings)
    alias = registry.alias("champion")
    chosen = champions[-1]
    if chosen.chosen_by == MIGRATION and alias is not None and alias != chosen.model_version:
        say(f"model version {alias} is champion in the registry; promoting it in the store")
        promote_version(settings, alias, chosen_by="registry")
    elif mend_alias(registry, champions):
        say("the registry's champion was behind the store's and follows it again")
    version = store.champion()
    assert version is not None
    n_strays = store.n_behind(version)
    if n_strays:
        say(f"folding {n_strays} twins of other model versions again under {version}")
        try:
            LineFollower(store, wiring.binding(settings, version), wiring.SystemClock()).complete()
        except ChampionChangedError:
            return champion_at_start(settings, store, announce)
    return version
