"""Which faults one seed brings, and how often: a seed has a few kinds of them rather than a little of each."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from itertools import pairwise

from oncotwin.adapters.sql_store.commit import COMMIT_STEPS
from oncotwin.adapters.sql_store.lines import LINE_STEPS, PROMOTE_STEPS
from oncotwin_flows.steps import RELAY_STEPS, WORKER_STEPS

STORED = "in the store"
"""The transaction is committed and its acknowledgement is on the way: no step of the code, a place all the same."""

_BEFORE = WORKER_STEPS[: WORKER_STEPS.index("committed")]
_AFTER = WORKER_STEPS[WORKER_STEPS.index("committed") :]
CHAINS = ((*_BEFORE, *COMMIT_STEPS, STORED, *_AFTER, WORKER_STEPS[0]), (*RELAY_STEPS, RELAY_STEPS[0]))
"""The order of all named steps of a commit group, and of the relay; after the last the first follows."""

PAIRS = tuple(pair for chain in CHAINS for pair in pairwise(chain))
"""Every pair of consecutive steps: a crash right after the first of them lies between the two."""

IN_TRANSACTION = frozenset(COMMIT_STEPS)

LINE, PROMOTE = "line: ", "promote: "
"""Before the names of steps by which a line is folded and by which it is promoted."""

LINE_PAIRS = tuple(
    (prefix + a, prefix + b)
    for prefix, chain in ((LINE, LINE_STEPS), (PROMOTE, PROMOTE_STEPS))
    for a, b in zip(chain, (*chain[1:], STORED), strict=True)
)
"""The same of a line that is folded in shadow, and of its promotion."""

AFTER = dict((*PAIRS, *LINE_PAIRS))

LEASE_S = 10.0
LOCK_PATIENCE_S = 60.0


@dataclass(frozen=True)
class Weather:
    """Rates are per named step, or per call of the part that fails.

    Attributes:
        planned: a crash at the n-th pass (from 1) of a named step.
        shared_host: actors are shared by the workers, as in a cluster; else each worker has its own.
        built_in: the models that are shipped, else light ones.
        sealed: rows are sealed under patients' keys.
        skewed: some clocks are half a minute ahead, so that leases are taken from those that use them.
        promotions: model versions that are promoted in the middle, one after the other.
    """

    n_workers: int
    n_partitions: int
    twins_per_actor: int
    shared_host: bool
    built_in: bool
    sealed: bool
    commit_events: int
    run_events: int
    planned: tuple[tuple[str, int], ...]
    crash: float
    pause: float
    switch: float
    lost_acknowledgement: float
    store_error: float
    log_error: float
    host_lost: float
    clock_step: float
    skewed: bool
    torn_batch: float
    leave: float
    promotions: tuple[str, ...]


def draw_weather(rng: random.Random) -> Weather:
    """Draw the faults of one seed."""

    def rate(*values: float) -> float:
        return rng.choice(values)

    steps = [first for first, _ in PAIRS]
    line_steps = [first for first, _ in LINE_PAIRS]
    return Weather(
        n_workers=rng.choice((1, 2, 2, 3)),
        n_partitions=rng.choice((1, 2, 4, 4)),
        twins_per_actor=rng.choice((1, 2, 100)),
        shared_host=rng.random() < 0.5,
        built_in=rng.random() < 0.03,
        sealed=rng.random() < 0.15,
        commit_events=rng.choice((1, 3, 6, 6, 12, 50)),
        run_events=rng.choice((5, 20, 1_000)),
        planned=tuple(
            (rng.choice(steps if rng.random() < 0.7 else line_steps), rng.randint(1, 4))
            for _ in range(rng.choice((0, 1, 2, 4)))
        ),
        crash=rate(0.0, 0.0, 0.005, 0.02),
        pause=rate(0.0, 0.0, 0.01, 0.03),
        switch=rate(0.0, 0.1, 0.5, 0.5),
        lost_acknowledgement=rate(0.0, 0.0, 0.1),
        store_error=rate(0.0, 0.0, 0.02),
        log_error=rate(0.0, 0.0, 0.02),
        host_lost=rate(0.0, 0.0, 0.05),
        clock_step=rate(0.0, 0.0, 0.02),
        skewed=rng.random() < 0.3,
        torn_batch=rate(0.0, 0.2),
        leave=rate(0.0, 0.0, 0.3),
        promotions=rng.choice(((), (), (), ("2",), ("2", "1"), ("2", "3"))),
    )


def undisturbed(weather: Weather) -> Weather:
    """The same installation without any fault, one worker."""
    return replace(
        weather, n_workers=1, n_partitions=1, shared_host=False, commit_events=1_000, run_events=100_000, planned=(),
        crash=0.0, pause=0.0, switch=0.0, lost_acknowledgement=0.0, store_error=0.0, log_error=0.0, host_lost=0.0,
        clock_step=0.0, torn_batch=0.0, leave=0.0, promotions=(), sealed=False,
    )
