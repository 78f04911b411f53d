"""A million events over 10,000 twins as a hospital sends them: doubled, late, corrected; and a clean stream beside it.

Both streams run in turns, a piece of each, so that whatever else the machine does falls on both. The log is filled
between the pieces, which are timed alone, as by the worker of bench_stream. The first year of each is not timed: what
is late by a year comes from its end on, so before it the mix is not there yet. Between the pieces the same few events
go into an empty store (`yardstick`): a shared machine may be half as fast a quarter of an hour later, and a stream that
loses speed must be told from a machine that does. ONCOTWIN_LOAD_EVENTS=100000 makes a quick run; the plot goes to
var/load.png.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import ray
from tests.benchmarks.hospital import CLEAN, LATEST_VISITS, Mix, measured, patient, stream
from tests.benchmarks.record import record
from tests.benchmarks.workload import Installation, installation, load_note

from oncotwin.adapters.ray_cluster import connect, disconnect
from oncotwin.adapters.ray_host import NAMESPACE, RayHost
from oncotwin.bootstrap import wiring
from oncotwin.ports.event_log import NewRecord
from oncotwin_flows.groups import Bounds, Tally
from oncotwin_flows.relay import Relay
from oncotwin_flows.worker import Worker, WorkerSettings

COMMAND = "python -m tests.benchmarks.bench_load"
N_EVENTS = int(os.environ.get("ONCOTWIN_LOAD_EVENTS", "1000000"))
N_TWINS = 10_000
TWINS_PER_ACTOR = 5_000
COMMIT_EVENTS = 1_000
N_PIECES = 20
CLEAN_SHARE = 0.25
"""Of the mixed stream's events; a piece of it is enough to be timed."""
N_PROBE = 2_000
N_YARDSTICK, N_YARDSTICK_TWINS = 5_000, 1_000
N_BEFORE = N_TWINS * (LATEST_VISITS + 1)
"""Events of each stream that come before the timed ones."""
BAR_RATIO, BAR_DRIFT = 0.60, 0.10
PLOT = Path("var/load.png")


@dataclass(slots=True)
class Piece:
    """What one piece of a stream cost.

    Attributes:
        latencies: seconds from the reading of a record to its commit, for each record.
        memory_mb: of this process and its actors; store_mb and log_mb: on disk, after the piece.
        machine: events a second of the yardstick around the piece.
    """

    n: int
    seconds: float
    tally: Tally
    latencies: list[float]
    memory_mb: float
    store_mb: float
    log_mb: float
    machine: float = math.nan

    @property
    def rate(self) -> float:
        """Events a second."""
        return self.n / self.seconds


@dataclass(slots=True)
class Lane:
    """One stream on an installation of its own."""

    site: Installation
    host: RayHost
    twins_per_actor: int
    worker: Worker
    relay: Relay
    records: Iterator[NewRecord]
    read_at: deque[float]
    latencies: list[float]
    pieces: list[Piece] = field(default_factory=list)

    def run(self, n: int) -> Piece:
        """Fill the log with so many records, and time the worker on them."""
        return self.send(list(islice(self.records, n)))

    def send(self, records: list[NewRecord]) -> Piece:
        """As `run`, of these records."""
        self.site.fill(records)
        self.latencies.clear()
        begun = time.perf_counter()
        tally = self.worker.run(Bounds(len(records), 1e6, COMMIT_EVENTS, 5.0))
        seconds = time.perf_counter() - begun
        assert (tally.n_read, tally.n_rejected, tally.n_retries) == (len(records), 0, 0)
        assert tally.n_accepted + tally.n_duplicates == len(records)
        # What is published keeps its key alone; the flow does this after each batch, here it is not timed.
        self.relay.publish()
        home = self.site.settings.home
        return Piece(
            len(records), seconds, tally, list(self.latencies), self._memory_mb(), _size_mb(home, "store.sqlite"),
            _size_mb(home / "log", "events."),
        )

    def _memory_mb(self) -> float:
        """Resident memory of this process and of the stream's actors."""
        pids = [os.getpid()]
        for first in range(0, N_TWINS, self.twins_per_actor):
            name = self.host.actor_name("", first)
            actor: Any = ray.get_actor(name, namespace=NAMESPACE)
            pids.append(int(ray.get(actor.pid.remote())))
        return sum(_resident_mb(pid) for pid in pids)


def yardstick() -> float:
    """Events a second into an empty store, always the same: what the machine gives at the moment."""
    with installation("embedded") as site:
        site.fill(islice(stream(N_YARDSTICK_TWINS, CLEAN, 1), N_YARDSTICK))
        worker = site.worker(site.local_host())
        begun = time.perf_counter()
        worker.run(Bounds(N_YARDSTICK, 1e6, COMMIT_EVENTS, 5.0))
        seconds = time.perf_counter() - begun
        worker.release()
    return N_YARDSTICK / seconds


def _resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _size_mb(folder: Path, prefix: str) -> float:
    return sum(path.stat().st_size for path in folder.rglob(f"{prefix}*") if path.is_file()) / 1e6


@contextmanager
def open_lane(mix: Mix, twins_per_actor: int) -> Iterator[Lane]:
    """An installation, a worker over it, and its stream, a year old; all twins are awake."""
    with ExitStack() as stack:
        site = stack.enter_context(installation("embedded"))
        host = site.ray_host(twins_per_actor)
        stack.callback(host.close)
        read_at: deque[float] = deque()
        latencies: list[float] = []

        def step(name: str) -> None:
            if name == "read":
                read_at.append(time.perf_counter())

        def committed(n: int) -> None:
            latencies.extend([time.perf_counter() - read_at.popleft()] * n)
            print(".", end="", file=sys.stderr, flush=True)

        worker = Worker(
            site.log, site.store, host, wiring.SystemClock(),
            WorkerSettings("bench", "log", wiring.LITERATURE, 1e6, timedelta(minutes=5)), committed, on_step=step,
        )
        stack.callback(worker.release)
        relay = Relay(site.store, lambda topic: wiring.open_log(site.settings, topic))
        stack.callback(relay.close)
        lane = Lane(site, host, twins_per_actor, worker, relay, stream(N_TWINS, mix, 1), read_at, latencies)
        lane.run(N_BEFORE)
        yield lane


def cost_of_lateness(lane: Lane, n_visits: int) -> tuple[float, float]:
    """Seconds for an event that follows, and for one late by a year: each for as many twins, one a twin."""
    import random

    rng = random.Random(9)
    # Beyond every visit sent, then the year before it, at moments that no visit has.
    followed = [NewRecord(patient(i), measured(patient(i), n_visits + 1, rng)) for i in range(N_PROBE)]
    late = [
        NewRecord(one.key, one.value.replace(b"T00:00:00Z", b"T06:00:00Z").replace(b'"id": "', b'"id": "late-'))
        for one in (
            NewRecord(patient(i), measured(patient(i), n_visits + 1 - LATEST_VISITS, rng)) for i in range(N_PROBE)
        )
    ]
    return lane.send(followed).seconds / N_PROBE, lane.send(late).seconds / N_PROBE


def plot(mixed: list[Piece], clean: list[Piece]) -> None:
    """Throughput, memory, and size on disk over the run."""
    mpl.use("Agg")
    from matplotlib import pyplot

    done = np.cumsum([piece.n for piece in mixed])
    figure, axes = pyplot.subplots(3, 1, figsize=(8, 9), sharex=True, layout="constrained")
    axes[0].plot(done, [piece.rate for piece in mixed], marker="o", label="doubled, late, corrected")
    axes[0].plot(done, [piece.rate for piece in clean], marker=".", label="clean, in order")
    axes[0].plot(done, [piece.machine for piece in mixed], ls=":", label="the same events into an empty store")
    axes[0].set_ylabel("events/s")
    axes[0].legend()
    axes[1].plot(done, [piece.memory_mb for piece in mixed], marker="o")
    axes[1].set_ylabel("memory, MB")
    axes[2].plot(done, [piece.store_mb for piece in mixed], marker="o", label="store")
    axes[2].plot(done, [piece.log_mb for piece in mixed], marker=".", label="log")
    axes[2].set_ylabel("on disk, MB")
    axes[2].set_xlabel("events")
    axes[2].legend()
    for one in axes:
        one.set_ylim(bottom=0)
        one.grid(alpha=0.3)
    PLOT.parent.mkdir(exist_ok=True)
    figure.savefig(PLOT, dpi=120)
    pyplot.close(figure)


def main() -> None:
    """Run both streams, print, record, plot."""
    connect("local", 2, dashboard=False)
    try:
        # Actors are found by name: the lanes' must not share theirs.
        with open_lane(Mix(), TWINS_PER_ACTOR) as mixed, open_lane(CLEAN, TWINS_PER_ACTOR + 1) as clean:
            n_piece = N_EVENTS // N_PIECES
            print(" events  mixed/s  clean/s  machine/s  p99 s  memory MB  store MB  log MB")
            before = yardstick()
            for number in range(N_PIECES):
                # Whichever is first has the machine at another moment: they take turns at it too.
                for lane, n in ((mixed, n_piece), (clean, round(n_piece * CLEAN_SHARE)))[:: 1 if number % 2 else -1]:
                    lane.pieces.append(lane.run(n))
                one, other = mixed.pieces[-1], clean.pieces[-1]
                after = yardstick()
                one.machine = other.machine = (before + after) / 2.0
                before = after
                print(
                    f"\r{(number + 1) * n_piece:>7,} {one.rate:8,.0f} {other.rate:8,.0f} {one.machine:10,.0f} "
                    f"{np.quantile(one.latencies, 0.99):6.2f} {one.memory_mb:10,.0f} {one.store_mb:9,.0f} "
                    f"{one.log_mb:7,.0f}", flush=True,
                )
            n_visits = (N_EVENTS + N_BEFORE) // N_TWINS + 2
            followed_s, late_s = cost_of_lateness(mixed, n_visits)
            report(mixed.pieces, clean.pieces, followed_s, late_s)
            plot(mixed.pieces, clean.pieces)
            print(f"plot: {PLOT}")
    finally:
        disconnect()


def report(mixed: list[Piece], clean: list[Piece], followed_s: float, late_s: float) -> None:
    """Print and record the figures."""

    def rate(pieces: list[Piece]) -> float:
        return sum(piece.n for piece in pieces) / sum(piece.seconds for piece in pieces)

    tenth = N_PIECES // 10
    first, last = rate(mixed[:tenth]), rate(mixed[-tenth:])
    clean_first, clean_last = rate(clean[:tenth]), rate(clean[-tenth:])
    ratio = rate(mixed) / rate(clean)

    def steady(pieces: list[Piece]) -> float:
        """As if the machine had been as fast all the time as it was in the first tenth."""
        machine = float(np.mean([piece.machine for piece in pieces]))
        return rate(pieces) * float(np.mean([piece.machine for piece in mixed[:tenth]])) / machine

    latency = np.concatenate([piece.latencies for piece in mixed])
    end, begin_mb = mixed[-1], mixed[tenth - 1].memory_mb
    n_duplicates = sum(piece.tally.n_duplicates for piece in mixed)
    whole = f"{N_EVENTS:,} events over {N_TWINS:,} twins a year old, {n_duplicates:,} of them doubles; {load_note()}"
    figures: list[tuple[str, float, str, dict[str, Any]]] = [
        ("throughput", round(rate(mixed)), "1/s", {
            "reference": round(rate(clean)), "ratio": round(ratio, 3),
            "bar": f"at least {BAR_RATIO} of a clean stream in the same run", "is_met": ratio >= BAR_RATIO,
            "note": whole}),
        ("last_tenth", round(last), "1/s", {
            "reference": round(first), "ratio": round(last / first, 3),
            "bar": f"within {BAR_DRIFT:.0%} of the first tenth", "is_met": abs(last / first - 1.0) <= BAR_DRIFT,
            "note": f"of the clean stream beside it: {clean_last / clean_first:.3f}; {load_note()}"}),
        ("last_tenth_of_a_steady_machine", round(steady(mixed[-tenth:])), "1/s", {
            "reference": round(first), "ratio": round(steady(mixed[-tenth:]) / first, 3),
            "bar": f"within {BAR_DRIFT:.0%} of the first tenth",
            "is_met": abs(steady(mixed[-tenth:]) / first - 1.0) <= BAR_DRIFT,
            "note": f"over what {N_YARDSTICK:,} events into an empty store took meanwhile"}),
        ("p99_read_to_commit", round(float(np.quantile(latency, 0.99)), 3), "s", {
            "note": f"at full rate, groups of {COMMIT_EVENTS:,}; median {np.median(latency):.3f} s"}),
        ("memory_end", round(end.memory_mb), "MB", {
            "reference": round(begin_mb), "ratio": round(end.memory_mb / begin_mb, 3),
            "note": "this process and its actors; reference: after the first tenth"}),
        ("store_bytes_an_event", round(1e6 * end.store_mb / (N_EVENTS + N_BEFORE)), "B", {
            "note": f"store {end.store_mb:,.0f} MB, log {end.log_mb:,.0f} MB, sealed, with the audit chain"}),
        ("late_event", round(1e3 * late_s, 3), "ms", {
            "reference": round(1e3 * followed_s, 3), "ratio": round(late_s / followed_s, 2),
            "note": f"late by a year, {N_PROBE:,} twins at once, commit included; reference: an event that follows"}),
    ]
    print(f"\n{whole}")
    for name, value, unit, more in figures:
        held = "" if "reference" not in more else f"   against {more['reference']:,} ({more['ratio']:.3f})"
        print(f"  {name:32}{value:>12,} {unit}{held}")
        if N_EVENTS >= 1_000_000:
            record(f"load/{name}", value, unit, command=COMMAND, **more)


if __name__ == "__main__":
    main()
