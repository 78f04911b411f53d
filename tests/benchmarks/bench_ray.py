"""What the engines cost: live twins under EnKF(256) in a Ray actor against the same in this process, and Prefect.

Both hosts are the worker's own, `RayHost` with one actor and `LocalHost`; both fold the same deliveries of 64 twins
under the tumour-burden model and hand over what a commit writes: snapshots, estimates, alerts. Calls are taken in
turns.
"""

from __future__ import annotations

import tempfile
import time
from collections import deque
from datetime import timedelta
from pathlib import Path
from statistics import median

import numpy as np
from tests.benchmarks.record import record
from tests.benchmarks.workload import installation, load_note, records

from oncotwin.adapters.local_host import LocalHost
from oncotwin.adapters.ray_cluster import connect, disconnect
from oncotwin.adapters.ray_host import RayHost
from oncotwin.bootstrap.settings import Settings
from oncotwin.bootstrap.wiring import LITERATURE, ShardFactory, SystemClock
from oncotwin.domain.bundle import FilterChoice, ModelBundle
from oncotwin.ports.twin_host import Delivery, FoldTicket, TwinHost
from oncotwin.testing.patients import accepted, diameter
from oncotwin_flows.assimilate import assimilate
from oncotwin_flows.gaps import GapWatch
from oncotwin_flows.groups import Bounds
from oncotwin_flows.relay import Relay
from oncotwin_flows.runtime import Sealed, quick_flows

COMMAND = "python -m tests.benchmarks.bench_ray"
K, N_MEMBERS, N_CALLS, N_TURN = 64, 256, 27, 5
WAYS = ((8, False), (8, True), (16, True))
"""Events a twin and call, and whether the next call is sent before the last answer is taken, as the worker does."""

BATCH_EVENTS, N_EMPTY_RUNS = 20_000, 5
BAR_ACTOR, BAR_PREFECT = 0.85, 0.10


def calls(n_events: int) -> list[list[Delivery]]:
    """N_CALLS calls with so many measurements of each twin, four days apart."""
    rng = np.random.default_rng(5)
    found = []
    for call in range(N_CALLS):
        deliveries = []
        for twin in range(K):
            lines = [
                diameter(f"{number}", 4.0 * number, float(rng.uniform(25, 35)), patient=f"H1/p{twin:02d}")
                for number in range(call * n_events, (call + 1) * n_events)
            ]
            deliveries.append(Delivery(f"H1/p{twin:02d}", twin, call, call, tuple(accepted(lines))))
        found.append(deliveries)
    return found


def through(host: TwinHost, deliveries: list[list[Delivery]], *, ahead: bool) -> list[str]:
    """Digests of the twins after the last call."""
    under_way: deque[FoldTicket] = deque()
    for one in deliveries:
        under_way.append(host.submit(one))
        if not ahead or len(under_way) > 1:
            folded = under_way.popleft().result()
    for ticket in under_way:
        folded = ticket.result()
    return [one.snapshots[-1].digest for one in folded]


def actor_against_process(n_events: int, *, ahead: bool) -> None:
    """Throughput of both, by the median turn."""
    bundle = ModelBundle({}, FilterChoice("ensemble", {"n_members": N_MEMBERS}))
    with tempfile.TemporaryDirectory() as folder:
        factory = ShardFactory(Settings(home=Path(folder)), bundle.to_json(), LITERATURE)
        hosts: dict[str, TwinHost] = {
            "in-process": LocalHost(factory(LITERATURE)),
            "actor": RayHost(factory, LITERATURE, twins_per_actor=K, idle_actor_s=1e6),
        }
        every = calls(n_events)
        warm, rest = every[:2], every[2:]
        for host in hosts.values():
            through(host, warm, ahead=ahead)
        taken: dict[str, list[float]] = {name: [] for name in hosts}
        for begin in range(0, len(rest), N_TURN):
            digests = []
            for name, host in hosts.items():
                begun = time.perf_counter()
                digests.append(through(host, rest[begin : begin + N_TURN], ahead=ahead))
                taken[name].append(time.perf_counter() - begun)
            assert digests[0] == digests[1]
        for host in hosts.values():
            host.close()
    rates = {name: N_TURN * K * n_events / median(times) for name, times in taken.items()}
    ratio = rates["actor"] / rates["in-process"]
    how = "sent ahead" if ahead else "each answer awaited"
    print(f"EnKF({N_MEMBERS}), {K} twins, {n_events} events a twin and call, {how} ({load_note()})")
    for name, rate in rates.items():
        print(f"  {name:12}{rate:12,.0f} events/s")
    print(f"  ratio {ratio:.3f}, bar {BAR_ACTOR}; the same bits both ways")
    record(
        f"ray/enkf256_actor/{n_events}_events_{'ahead' if ahead else 'awaited'}", round(rates["actor"]), "1/s",
        reference=round(rates["in-process"]), ratio=round(ratio, 3), bar=f"at least {BAR_ACTOR}",
        is_met=ratio >= BAR_ACTOR, command=COMMAND,
        note=f"events per second of live twins at k = {K}, {n_events} events a twin and call, {how}; reference: "
        f"in-process, same calls in turns, median of {(N_CALLS - 2) // N_TURN} turns of {N_TURN} calls; {load_note()}"
        + ("" if ratio >= BAR_ACTOR else "; misses the bar: a call costs some ten milliseconds beside the folding"),
    )


def prefect_over_batch() -> None:
    """Time of a flow run with nothing to do, over the time of a full batch without Prefect."""
    with installation("embedded") as site, quick_flows():
        relay = Relay(site.store, lambda topic: site.log)
        watch = GapWatch(site.store, SystemClock(), timedelta(hours=1))
        worker = site.worker(site.local_host())
        bounds = Bounds(events=BATCH_EVENTS, seconds=1e6, commit_events=1_000, poll_seconds=0.001)
        empty = []
        for _ in range(N_EMPTY_RUNS + 1):
            begun = time.perf_counter()
            assimilate(Sealed(worker), Sealed(watch), Sealed(relay), bounds)
            empty.append(time.perf_counter() - begun)
        site.fill(records(BATCH_EVENTS // 2, 2))
        begun = time.perf_counter()
        tally = worker.run(bounds)
        full = time.perf_counter() - begun
        assert tally.n_accepted == BATCH_EVENTS
    ratio = median(empty[1:]) / full
    print(f"a full batch of {BATCH_EVENTS:,} events {full:.2f} s; Prefect adds {median(empty[1:]):.3f} s: {ratio:.1%}")
    record(
        "flow/prefect_overhead", round(median(empty[1:]), 4), "s", reference=round(full, 2), ratio=round(ratio, 4),
        bar=f"under {BAR_PREFECT}", command=COMMAND,
        note=f"a flow run with nothing to do; reference: a full batch of {BATCH_EVENTS:,} events without Prefect; the "
        f"first run, which starts Prefect's own server, took {empty[0]:.1f} s",
    )


def main() -> None:
    """Measure, print, record."""
    connect("local", 2, dashboard=False)
    try:
        for n_events, ahead in WAYS:
            actor_against_process(n_events, ahead=ahead)
    finally:
        disconnect()
    prefect_over_batch()


if __name__ == "__main__":
    main()
