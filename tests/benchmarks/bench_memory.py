"""Memory of 10,000 live twins, all resident in Ray actors, over the same cluster when idle.

Counted is what each process has to itself plus its share of what several hold (PSS), over all processes of the
cluster and this one, as the kernel tells it.
"""

from __future__ import annotations

import gc
import time
from pathlib import Path

from tests.benchmarks.record import record
from tests.benchmarks.workload import installation, load_note, records

from oncotwin.adapters.ray_cluster import connect, disconnect
from oncotwin_flows.groups import Bounds

COMMAND = "python -m tests.benchmarks.bench_memory"
N_TWINS, TWINS_PER_ACTOR, N_VISITS = 10_000, 1_000, 2
BAR_BYTES = 2e9


def descendants(pid: int) -> list[int]:
    """This process and all that came from it."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:  # it ended while we looked
                continue
            parents.setdefault(parent, []).append(int(entry.name))
    found, queue = [], [pid]
    while queue:
        found.append(queue.pop())
        queue.extend(parents.get(found[-1], ()))
    return found


def resident_bytes() -> float:
    """Proportional set size of this process and all of the cluster's."""
    gc.collect()
    total = 0
    for pid in descendants(int(Path("/proc/self").resolve().name)):
        try:
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += 1_024 * int(line.split()[1])
        except OSError:  # it ended while we looked
            continue
    return float(total)


def main() -> None:
    """Measure, print a table, record."""
    connect("local", 2, dashboard=False)
    try:
        with installation("embedded") as site:
            n_events = site.fill(records(N_TWINS, N_VISITS))
            time.sleep(5.0)  # until the cluster's own processes are up and quiet
            idle = resident_bytes()
            host = site.ray_host(TWINS_PER_ACTOR)
            worker = site.worker(host)
            tally = worker.run(Bounds(events=n_events, seconds=1e6, commit_events=5_000, poll_seconds=5.0))
            assert tally.n_accepted == n_events
            live = resident_bytes()
            n_actors = host.n_actors
            worker.release()
            host.close()
    finally:
        disconnect()
    more = live - idle
    print(f"idle {idle / 1e9:.2f} GB, with {N_TWINS:,} twins in {n_actors} actors {live / 1e9:.2f} GB ({load_note()})")
    print(f"more {more / 1e9:.2f} GB, bar under {BAR_BYTES / 1e9:.0f} GB; {more / N_TWINS / 1e3:.0f} kB a twin")
    record(
        "ray/memory_10000_twins", round(more / 1e9, 3), "GB", reference=BAR_BYTES / 1e9,
        ratio=round(more / BAR_BYTES, 3), bar="under 2 GB over an idle cluster", command=COMMAND,
        note=f"{n_actors} actors of {TWINS_PER_ACTOR:,} twins, all resident; proportional set size of all processes, "
        f"the worker's included; idle {idle / 1e9:.2f} GB",
    )


if __name__ == "__main__":
    main()
