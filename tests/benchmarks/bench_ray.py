"""What the engines cost: live twins under EnKF(256) in a Ray actor against the same in this process, and Prefect.

Both hosts are the worker's own, `RayHost` with one actor and `LocalHost`; both fold the same deliveries of 64 twins
with 8 measurements each under the tumour-burden model and hand over what a commit writes: snapshots, estimates, alerts.
As in the worker, the next call is sent before the answer to the last is taken. Calls are taken in turns of ten.
"""

from __future__ import annotations

import tempfile
import time
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
K, N_MEMBERS, N_EVENTS, N_CALLS, N_TURN = 64, 256, 16, 27, 5
BATCH_EVENTS, N_EMPTY_RUNS = 20_000, 5
BAR_ACTOR, BAR_PREFECT = 0.85, 0.10


def calls() -> list[list[Delivery]]:
    """N_CALLS calls with N_EVENTS measurements of each twin, four days apart."""
    rng = np.random.default_rng(5)
    found = []
    for call in range(N_CALLS):
        deliveries = []
        for twin in range(K):
            lines = [
                diameter(f"{number}", 4.0 * number, float(rng.uniform(25, 35)), patient=f"H1/p{twin:02d}")
                for number in range(call * N_EVENTS, (call + 1) * N_EVENTS)
            ]
            deliveries.append(Delivery(f"H1/p{twin:02d}", twin, call, call, tuple(accepted(lines))))
        found.append(deliveries)
    return found


def through(host: TwinHost, deliveries: list[list[Delivery]]) -> list[str]:
    """Digests of the twins after the last call."""
    ticket: FoldTicket | None = None
    for one in deliveries:
        ahead = host.submit(one)
        if ticket is not None:
            ticket.result()
        ticket = ahead
    assert ticket is not None
    return [one.snapshots[-1].digest for one in ticket.result()]


def actor_against_process() -> None:
    """Throughput of both, by the median call."""
    bundle = ModelBundle({}, FilterChoice("ensemble", {"n_members": N_MEMBERS}))
    with tempfile.TemporaryDirectory() as folder:
        factory = ShardFactory(Settings(home=Path(folder)), bundle.to_json(), LITERATURE)
        hosts: dict[str, TwinHost] = {
            "in-process": LocalHost(factory(LITERATURE)),
            "actor": RayHost(factory, LITERATURE, twins_per_actor=K, idle_actor_s=1e6),
        }
        every = calls()
        warm, rest = every[:2], every[2:]
        for host in hosts.values():
            through(host, warm)
        taken: dict[str, list[float]] = {name: [] for name in hosts}
        for begin in range(0, len(rest), N_TURN):
            digests = []
            for name, host in hosts.items():
                begun = time.perf_counter()
                digests.append(through(host, rest[begin : begin + N_TURN]))
                taken[name].append(time.perf_counter() - begun)
            assert digests[0] == digests[1]
        for host in hosts.values():
            host.close()
    rates = {name: N_TURN * K * N_EVENTS / median(times) for name, times in taken.items()}
    ratio = rates["actor"] / rates["in-process"]
    print(f"EnKF({N_MEMBERS}), {K} twins, {N_EVENTS} events a twin and call ({load_note()})")
    for name, rate in rates.items():
        print(f"  {name:12}{rate:12,.0f} events/s")
    print(f"  ratio {ratio:.3f}, bar {BAR_ACTOR}; the same bits both ways")
    record(
        "ray/enkf256_actor", round(rates["actor"]), "1/s", reference=round(rates["in-process"]),
        ratio=round(ratio, 3), bar=f"at least {BAR_ACTOR}", command=COMMAND,
        note=f"events per second of live twins at k = {K}, {N_EVENTS} events a twin and call; reference: in-process, "
        f"same calls in turns, median of {(N_CALLS - 2) // N_TURN} turns of {N_TURN}, the next call sent before the "
        f"last answer is taken, as the worker does; {load_note()}",
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
        actor_against_process()
    finally:
        disconnect()
    prefect_over_batch()


if __name__ == "__main__":
    main()
