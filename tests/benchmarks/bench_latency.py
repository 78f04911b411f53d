"""Time from an event in the log to its committed posterior, at 100 events per second."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import numpy as np
from tests.benchmarks.record import record
from tests.benchmarks.workload import installation, load_note, records

from oncotwin.adapters.ray_cluster import connect, disconnect
from oncotwin.adapters.sql_store import open_twin_store
from oncotwin.ports.event_log import NewRecord
from oncotwin.ports.twin_rows import CommitGroup
from oncotwin_flows.groups import Bounds

COMMAND = "python -m tests.benchmarks.bench_latency"
N_TWINS, TWINS_PER_ACTOR = 1_000, 500
RATE, SECONDS = 100, 30
BAR_P99_S = 3.0


class Noting:
    """A store that notes when each event was committed."""

    def __init__(self, url: str) -> None:
        self._store = open_twin_store(url)
        self.committed: dict[str, float] = {}

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def commit(self, group: CommitGroup) -> int:
        """Commit, then note the time."""
        position = self._store.commit(group)
        now = time.perf_counter()
        self.committed.update((entry.event_id, now) for twin in group.twins for entry in twin.journal)
        return position


def latencies(kind: str) -> Sequence[float]:
    """Seconds from append to commit of each event."""
    with installation(kind) as site:
        site.fill(records(N_TWINS, 1))
        store = Noting(site.settings.store_url)
        host = site.ray_host(TWINS_PER_ACTOR)
        worker = site.worker(host, store=store)  # type: ignore[arg-type]  # it is a store, by what it passes on
        worker.run(Bounds(events=N_TWINS, seconds=600.0, commit_events=1_000, poll_seconds=5.0))
        appended: dict[str, float] = {}
        to_send = list(records(N_TWINS, RATE * SECONDS // N_TWINS, first_visit=1))
        # A log object serves one thread; the hospital has its own.
        sender = threading.Thread(target=_send, args=(site.settings, to_send, appended))
        sender.start()
        deadline = time.monotonic() + SECONDS + 120.0
        while len(store.committed) < N_TWINS + len(to_send) and time.monotonic() < deadline:
            worker.run(Bounds(events=20_000, seconds=30.0, commit_events=1_000, poll_seconds=0.2))
        sender.join()
        worker.release()
        host.close()
        return [store.committed[name] - moment for name, moment in appended.items()]


def _send(settings: object, to_send: Sequence[NewRecord], appended: dict[str, float]) -> None:
    """Append one event every hundredth of a second; its latency counts from the moment at which it was due."""
    from oncotwin.bootstrap import wiring
    from oncotwin.bootstrap.settings import Settings

    assert isinstance(settings, Settings)
    log = wiring.open_log(settings)
    begun = time.perf_counter()
    for number, one in enumerate(to_send):
        due = begun + number / RATE
        time.sleep(max(0.0, due - time.perf_counter()))
        patient, visit = one.key, 1 + number // N_TWINS
        appended[f"{patient}-{visit}"] = due
        log.append([one])
    log.close()


def main() -> None:
    """Measure, print a table, record."""
    connect("local", 2, dashboard=False)
    try:
        for kind in ("embedded", "deployed"):
            seconds = latencies(kind)
            p50, p99 = (float(value) for value in np.quantile(seconds, (0.5, 0.99)))
            print(f"{kind:10} p50 {p50:6.3f} s   p99 {p99:6.3f} s   of {len(seconds):,} events ({load_note()})")
            note = f"{RATE} events/s for {SECONDS} s, {N_TWINS:,} twins; from the moment due in the log; {load_note()}"
            record(f"stream/{kind}/latency_p50", round(p50, 4), "s", command=COMMAND, note=note)
            record(
                f"stream/{kind}/latency_p99", round(p99, 4), "s", reference=BAR_P99_S, ratio=round(p99 / BAR_P99_S, 3),
                bar=f"under {BAR_P99_S:.0f} s", command=COMMAND, note=note,
            )
    finally:
        disconnect()


if __name__ == "__main__":
    main()
