"""Backing up a store while the stream runs, and restoring it to either database."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.hospital import CLEAN, stream
from tests.benchmarks.record import record
from tests.benchmarks.workload import Installation, installation, load_note

from oncotwin.adapters.local_host import LocalHost
from oncotwin.adapters.sql_store.backup import write_backup
from oncotwin.adapters.sql_store.restore import restore_backup
from oncotwin.bootstrap.wiring import SystemClock
from oncotwin.testing.postgres_server import PostgresServer
from oncotwin_flows.groups import Bounds

COMMAND = "python -m tests.benchmarks.bench_backup"
N_TWINS, N_EVENTS = 5_000, 50_000
N_PIECE = 5_000


def fold(site: Installation, host: LocalHost, n: int) -> float:
    """Events a second of a worker over what the log holds."""
    worker = site.worker(host)
    begun = time.perf_counter()
    tally = worker.run(Bounds(n, 1e6, 1_000, 5.0))
    seconds = time.perf_counter() - begun
    assert (tally.n_accepted, tally.n_retries) == (n, 0)
    worker.release()
    return n / seconds


def main() -> None:
    """Measure, print, record."""
    with installation("embedded") as site, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        records = stream(N_TWINS, CLEAN, 1)
        host = site.local_host()
        site.fill(next(records) for _ in range(N_EVENTS))
        fold(site, host, N_EVENTS)
        store_mb = sum(path.stat().st_size for path in site.settings.home.glob("store.sqlite*")) / 1e6

        begun = time.perf_counter()
        manifest = write_backup(site.settings.store_url, folder / "quiet", "bench", SystemClock().now())
        seconds = time.perf_counter() - begun

        # The stream alone before and after, and in between with a backup beside it.
        rates = []
        code = "from oncotwin_services.cli import main; main()"
        command = [sys.executable, "-c", code, "backup", str(folder / "busy"), "--json"]
        for busy in (False, True, False):
            site.fill(next(records) for _ in range(N_PIECE))
            beside = subprocess.Popen([*command, "--home", str(site.settings.home)]) if busy else None
            rates.append(fold(site, host, N_PIECE))
            if beside is not None:
                assert beside.wait() == 0
        alone = (rates[0] + rates[2]) / 2.0
        host.close()

        restored = {}
        begun = time.perf_counter()
        restore_backup(f"sqlite:///{folder / 'again.sqlite'}", folder / "quiet")
        restored["sqlite"] = time.perf_counter() - begun
        with PostgresServer() as server, server.database() as url:
            begun = time.perf_counter()
            restore_backup(url, folder / "quiet")
            restored["postgresql"] = time.perf_counter() - begun

    print(f"{manifest.n_rows:,} rows of {N_EVENTS:,} events, store {store_mb:.0f} MB ({load_note()})")
    print(f"  backup    {manifest.n_rows / seconds:10,.0f} rows/s   {manifest.n_bytes / 1e6:.0f} MB in {seconds:.1f} s")
    record(
        "backup/rows", round(manifest.n_rows / seconds), "1/s", command=COMMAND,
        note=f"{manifest.n_rows:,} rows of {N_EVENTS:,} events; {manifest.n_bytes / 1e6:.0f} MB of a store of "
        f"{store_mb:.0f} MB; {load_note()}",
    )
    print(f"  stream beside it {rates[1]:,.0f} events/s, alone {alone:,.0f}: {rates[1] / alone:.2f}")
    record(
        "backup/stream_beside_it", round(rates[1]), "1/s", reference=round(alone), ratio=round(rates[1] / alone, 3),
        command=COMMAND, note=f"the command in a process of its own, two cores; no commit waits for it; {load_note()}",
    )
    for kind, took in restored.items():
        print(f"  restore to {kind:12}{manifest.n_rows / took:10,.0f} rows/s")
        record(f"backup/restore/{kind}", round(manifest.n_rows / took), "1/s", command=COMMAND, note="one transaction")


if __name__ == "__main__":
    main()
