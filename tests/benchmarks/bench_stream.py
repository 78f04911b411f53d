"""Events per second from the log to committed posteriors: 10,000 twins, embedded and on Kafka with PostgreSQL.

Beside it each stage alone on one core: the same worker on the same events with its twins in its own process, where
one stage runs after the other, so that the stages' times add up to the whole. With two cores and nothing lost between
the stages the stream could run at 2 / sum(1 / r_i).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from tests.benchmarks.record import record
from tests.benchmarks.workload import Installation, installation, load_note, records

from oncotwin.adapters.ray_cluster import connect, disconnect
from oncotwin_flows.groups import Bounds

COMMAND = "python -m tests.benchmarks.bench_stream"
N_TWINS = 10_000
TWINS_PER_ACTOR = 5_000
N_STAGE_TWINS = 5_000
COMMIT_EVENTS = 1_000
N_CORES = 2
BAR_RATE, BAR_RATIO = 1_000.0, 0.60


class Timed:
    """An object one of whose methods is timed."""

    def __init__(self, of: Any, method: str) -> None:
        self._of = of
        self.seconds = 0.0
        called: Callable[..., Any] = getattr(of, method)

        def timed(*arguments: Any, **named: Any) -> Any:
            begun = time.perf_counter()
            try:
                return called(*arguments, **named)
            finally:
                self.seconds += time.perf_counter() - begun

        setattr(self, method, timed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._of, name)


def bounds(n_events: int) -> Bounds:
    """A run over so many events."""
    return Bounds(events=n_events, seconds=1e6, commit_events=COMMIT_EVENTS, poll_seconds=5.0)


def stages(site: Installation) -> dict[str, float]:
    """Rate of each stage alone, events per second; the first visit warms up and wakes the twins."""
    site.fill(records(N_STAGE_TWINS, 1))
    log, store, host = Timed(site.log, "read"), Timed(site.store, "commit"), Timed(site.local_host(), "submit")
    worker = site.worker(host, log, store, threaded=False)
    worker.run(bounds(N_STAGE_TWINS))
    site.fill(records(N_STAGE_TWINS, 1, first_visit=1))
    log.seconds = store.seconds = host.seconds = 0.0
    begun = time.perf_counter()
    tally = worker.run(bounds(N_STAGE_TWINS))
    total = time.perf_counter() - begun
    worker.release()
    assert tally.n_accepted == N_STAGE_TWINS
    seconds = {"read": log.seconds, "fold": host.seconds, "commit": store.seconds}
    seconds["validate and prepare"] = total - sum(seconds.values())
    return {name: N_STAGE_TWINS / taken for name, taken in seconds.items()}


def end_to_end(site: Installation) -> float:
    """Events per second with the twins in Ray actors; the first visit warms up and wakes the twins."""
    site.fill(records(N_TWINS, 1))
    host = site.ray_host(TWINS_PER_ACTOR)

    def progress(n: int) -> None:
        print(".", end="", file=sys.stderr, flush=True)

    worker = site.worker(host, on_progress=progress)
    worker.run(bounds(N_TWINS))
    site.fill(records(N_TWINS, 2, first_visit=1))
    begun = time.perf_counter()
    tally = worker.run(bounds(2 * N_TWINS))
    seconds = time.perf_counter() - begun
    worker.release()
    host.close()
    print(
        f" {tally.n_commits} commits; of {seconds:.1f} s preparing {tally.prepare_s:.1f}, waiting for folds "
        f"{tally.fold_wait_s:.1f}, committing {tally.commit_s:.1f}", file=sys.stderr,
    )
    assert (tally.n_accepted, tally.n_rejected, tally.n_retries) == (2 * N_TWINS, 0, 0)
    return 2 * N_TWINS / seconds


def main() -> None:
    """Measure, print a table, record."""
    connect("local", N_CORES, dashboard=False)
    try:
        for kind in ("embedded", "deployed"):
            with installation(kind) as site:
                alone = stages(site)
            with installation(kind) as site:
                rate = end_to_end(site)
            possible = N_CORES / sum(1.0 / one for one in alone.values())
            print(f"{kind}: events/s ({load_note()})")
            for name, one in alone.items():
                print(f"  {name + ' alone':24}{one:10,.0f}")
                record(f"stream/{kind}/{name.split()[0]}", round(one), "1/s", command=COMMAND, note="alone, one core")
            print(f"  {'two cores, no losses':24}{possible:10,.0f}")
            print(f"  {'end to end':24}{rate:10,.0f}   ratio {rate / possible:.2f}")
            record(
                f"stream/{kind}/end_to_end", round(rate), "1/s", reference=round(possible),
                ratio=round(rate / possible, 3),
                bar=f"at least {BAR_RATIO} of 2 / sum(1/r_i) and at least {BAR_RATE:,.0f} a second", command=COMMAND,
                note=f"{N_TWINS:,} twins, {N_CORES} cores, {TWINS_PER_ACTOR:,} twins an actor; reference: what the "
                f"stages alone allow on two cores; {load_note()}",
            )
    finally:
        disconnect()


if __name__ == "__main__":
    main()
