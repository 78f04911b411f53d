"""Bitemporal reads while the stream runs at full rate: how long they take, and what they cost the stream.

Ten times a second a process of its own asks what the twin of a random patient believed about a random clinical time
(every other time: about the latest) with what was known at a random moment, and folds the answer from the journal, at
the priority of the commands that read (`giving_way`). Its latency counts from the moment at which the question was due.
An answer about the latest time must have the digest that was published then. Stretches of the stream with and without
the reads take turns over the same installation; the slow-down is that of their median rates.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from multiprocessing.connection import Connection
from statistics import median

import numpy as np
from tests.benchmarks.bench_late import FIRST, lesion
from tests.benchmarks.record import record
from tests.benchmarks.workload import Installation, installation, load_note

from oncotwin.adapters.garbage import collect_rarely
from oncotwin.adapters.ray_cluster import connect, disconnect
from oncotwin.bootstrap import wiring
from oncotwin.bootstrap.settings import Settings
from oncotwin.ports.event_log import NewRecord
from oncotwin.twin.fold import Binding
from oncotwin.twin.recall import check, recall
from oncotwin.twin.replay import components
from oncotwin_flows.groups import Bounds
from oncotwin_flows.worker import Worker
from oncotwin_services.cli.reader import giving_way

COMMAND = "python -m tests.benchmarks.bench_recall"
N_TWINS = 4_000
TWINS_PER_ACTOR = 2_000
N_VISITS = 16
"""Events of each patient before the first stretch."""
N_PAIRS, VISITS_A_STRETCH = 24, 2
DAYS_APART = 30
READS_A_SECOND = 10.0
BAR_P99_S, BAR_SLOWER = 0.2, 0.05


@dataclass(frozen=True)
class Reads:
    """What a reader measured.

    Attributes:
        seconds: of each read, from the moment when it was due; n_compared: answers held against what was published.
        busy_s: processor time that the reads took.
    """

    seconds: list[float]
    n_compared: int
    n_different: int
    busy_s: float


def visits(first: int, n: int) -> Iterator[NewRecord]:
    """Visit after visit of all patients."""
    for number in range(first, first + n):
        for i in range(N_TWINS):
            yield lesion(_patient(i), f"{number:03d}", float(DAYS_APART * number))


def _patient(number: int) -> str:
    return f"north/p{number:06d}"


def _reader(settings: Settings, first: datetime, channel: Connection) -> None:
    """Read while told to; answers with what it measured when told to stop."""
    collect_rarely()
    rng = random.Random(5)

    @lru_cache
    def bind(version: str) -> Binding:
        return wiring.binding(settings, version)

    with closing(wiring.open_store(settings)) as store, giving_way():

        def ask() -> tuple[int, int]:
            last = datetime.now(UTC)
            known_at = first + rng.random() * (last - first)
            day = timedelta(days=DAYS_APART * N_VISITS * rng.random())
            as_of = FIRST + day if rng.random() < 0.5 else None
            found = recall(store, bind, _patient(rng.randrange(N_TWINS)), as_of, known_at)
            components(found.binding, found.belief.state)
            checked = None if as_of is not None else check(store, found)
            return int(checked is not None), int(checked is not None and not checked.equal)

        ask()  # kernels are loaded, connections open
        channel.send("ready")
        while channel.recv() == "read":
            channel.send(_read(ask, channel))


def _read(ask: Callable[[], tuple[int, int]], channel: Connection) -> Reads:
    seconds: list[float] = []
    n_compared = n_different = 0
    begun, busy = time.perf_counter(), time.process_time()
    while not channel.poll():
        due = begun + len(seconds) / READS_A_SECOND
        time.sleep(max(0.0, due - time.perf_counter()))
        compared, different = ask()
        seconds.append(time.perf_counter() - due)
        n_compared, n_different = n_compared + compared, n_different + different
    channel.recv()
    return Reads(seconds, n_compared, n_different, time.process_time() - busy)


def _rate(worker: Worker, site: Installation, first_visit: int) -> float:
    """Events a second over one stretch, which lies in the log before it begins."""
    n = site.fill(visits(first_visit, VISITS_A_STRETCH))
    begun = time.perf_counter()
    tally = worker.run(Bounds(events=n, seconds=1e6, commit_events=1_000, poll_seconds=5.0))
    seconds = time.perf_counter() - begun
    assert (tally.n_accepted, tally.n_rejected) == (n, 0)
    return n / seconds


def measure(site: Installation) -> tuple[list[float], list[float], list[Reads]]:
    """Rates without and with reads, and what the reader measured."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    first = datetime.now(UTC)
    site.fill(visits(0, N_VISITS))
    with closing(site.ray_host(TWINS_PER_ACTOR)) as host:
        worker = site.worker(host)
        worker.run(Bounds(events=N_TWINS * N_VISITS, seconds=1e6, commit_events=1_000, poll_seconds=5.0))
        # The first commit is what anybody can ask about.
        settled = datetime.now(UTC)
        reader = context.Process(target=_reader, args=(site.settings, first + (settled - first) / 2, there))
        reader.start()
        there.close()  # so that a reader that fails is noticed
        assert here.recv() == "ready"
        alone: list[float] = []
        beside: list[float] = []
        reads: list[Reads] = []
        visit = N_VISITS
        for number in range(2 * N_PAIRS):
            # Without, with, with, without: the store grows meanwhile, and each kind has as much of it before.
            with_reads = number % 4 in (1, 2)
            if with_reads:
                here.send("read")
            (beside if with_reads else alone).append(_rate(worker, site, visit))
            visit += VISITS_A_STRETCH
            if with_reads:
                here.send("stop")
                reads.append(here.recv())
        here.send("end")
        reader.join()
        worker.release()
    return alone, beside, reads


def slowdown(alone: list[float], beside: list[float]) -> tuple[float, float, float]:
    """Share of its rate that the stream loses, by medians, with a 90 % interval (percentile bootstrap of stretches)."""
    rng = np.random.default_rng(1)
    drawn = [np.median(rng.choice(rates, (4_000, len(rates))), axis=1) for rates in (alone, beside)]
    low, high = np.quantile(1.0 - drawn[1] / drawn[0], (0.05, 0.95))
    return 1.0 - median(beside) / median(alone), float(low), float(high)


def main() -> None:
    """Measure, print a table, record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kinds", nargs="*", default=["embedded", "deployed"])
    parser.add_argument("--dry", action="store_true", help="keep no figure")
    chosen = parser.parse_args()
    connect("local", 2, dashboard=False)
    try:
        for kind in chosen.kinds:
            with installation(kind) as site:
                alone, beside, reads = measure(site)
            seconds = [one for part in reads for one in part.seconds]
            p50, p99 = (float(value) for value in np.quantile(seconds, (0.5, 0.99)))
            slower, low, high = slowdown(alone, beside)
            n_compared, n_different = sum(r.n_compared for r in reads), sum(r.n_different for r in reads)
            busy = sum(r.busy_s for r in reads) / len(seconds)
            print(
                f"{kind}: {len(seconds)} reads, p50 {1e3 * p50:.1f} ms, p99 {1e3 * p99:.1f} ms, longest "
                f"{1e3 * max(seconds):.1f} ms, {1e3 * busy:.1f} ms of processor each; {n_different} of {n_compared} "
                f"differ from what was published ({load_note()})"
            )
            print(
                f"  stream alone {median(alone):,.0f} events/s, beside the reads {median(beside):,.0f}: "
                f"{100 * slower:.1f} % slower, 90 % interval {100 * low:.1f} to {100 * high:.1f} % "
                f"(stretches {', '.join(f'{r:,.0f}' for r in alone)}; "
                f"{', '.join(f'{r:,.0f}' for r in beside)})"
            )
            assert n_different == 0 and n_compared > 0
            if chosen.dry:
                continue
            note = (
                f"{READS_A_SECOND:.0f} reads a second of {N_TWINS:,} twins with {N_VISITS} events and more; "
                f"{n_compared} answers of {len(seconds)} compared with what was published, none differs; {load_note()}"
            )
            record(
                f"recall/{kind}/p99", round(p99, 4), "s", reference=BAR_P99_S, ratio=round(p99 / BAR_P99_S, 3),
                bar="under 0.2 s", command=COMMAND, note=note,
            )
            record(
                f"recall/{kind}/slower", round(slower, 4), "1", reference=BAR_SLOWER, bar="under 0.05", command=COMMAND,
                note=f"share of its rate that the stream loses to the reads, by medians of {N_PAIRS} stretches each, "
                f"in turns, 90 % interval {low:.3f} to {high:.3f}; alone {median(alone):,.0f} events/s; {load_note()}",
            )
    finally:
        disconnect()


if __name__ == "__main__":
    main()
