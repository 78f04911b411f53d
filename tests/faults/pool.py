"""Seeds of the simulation spread over the processors, each with stores of its own."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed

from tests.faults.databases import Databases
from tests.faults.simulation import Tally, run

_AT_ONCE = 5
"""Seeds that a process is given together: few enough that progress is seen, and that an interrupt loses little."""

_databases: list[Databases] = []


def n_jobs() -> int:
    """Processes that there are processors for."""
    return len(os.sched_getaffinity(0))


def _open(urls: multiprocessing.Queue[str]) -> None:
    """Each process takes one PostgreSQL database, where there is one for it."""
    _databases.append(Databases(urls.get() or None))


def _run(seeds: Sequence[int]) -> Tally:
    return run(seeds, _databases[0])


def run_many(
    seeds: Sequence[int], jobs: int, postgres_urls: Sequence[str] = (),
    on_progress: Callable[[Tally], None] | None = None,
) -> Tally:
    """Run seeds in several processes.

    Args:
        postgres_urls: of empty databases, one for each process; without them all stores are SQLite's.
        on_progress: told of each few seeds that are done.
    """
    tally = Tally()
    context = multiprocessing.get_context("spawn")
    urls: multiprocessing.Queue[str] = context.Queue()
    for number in range(jobs):
        urls.put(postgres_urls[number] if number < len(postgres_urls) else "")
    with ProcessPoolExecutor(jobs, context, _open, (urls,)) as pool:
        pieces = [pool.submit(_run, seeds[i : i + _AT_ONCE]) for i in range(0, len(seeds), _AT_ONCE)]
        try:
            for piece in as_completed(pieces):
                done = piece.result()
                tally.add(done)
                if on_progress is not None:
                    on_progress(done)
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
    return tally
