"""What the audit trail costs: in a commit, on the disk, and to whoever verifies or asks for a proof.

The cost in a commit is all of it: commitments under the patients' keys, canonical JSON, hashes, and the insert, as the
difference between the same commits with and without entries, in turns; beside it the parts by themselves.
"""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

from tests.benchmarks.bench_store import N_EVENTS, START, make_groups
from tests.benchmarks.record import record
from tests.faults.audit_stores import Settable

from oncotwin.adapters.keys import open_key_store
from oncotwin.adapters.sealing import Sealer
from oncotwin.adapters.signing import SigningKeys
from oncotwin.adapters.sql_store import SqlTwinStore, open_twin_store
from oncotwin.adapters.sql_store.audit import AuditWriter
from oncotwin.domain.audit import AuditDraft, Head, extend
from oncotwin.ports.twin_rows import CommitGroup
from oncotwin.testing.postgres_server import PostgresServer
from oncotwin_flows.audit import find_entry, prove, verify
from oncotwin_flows.checkpoints import Checkpoints

COMMAND = "python -m tests.benchmarks.bench_audit"
N_GROUPS = 12
N_ENTRIES = N_GROUPS * N_EVENTS * 2
TARGET_US = 15.0


def open_sealed(url: str, folder: Path) -> SqlTwinStore:
    """A store under patients' keys."""
    store = open_twin_store(url, sealer=Sealer(open_key_store(f"sqlite:///{folder}/keys.sqlite")))
    store.register_twins([twin.twin_id for twin in make_groups(1)[0].twins])
    return store


def silence(store: SqlTwinStore) -> None:
    """Have the store's commits tell nothing."""

    def nothing(group: CommitGroup, kept: CommitGroup) -> list[AuditDraft]:
        del group, kept
        return []

    store._drafts.of_group = nothing  # type: ignore[method-assign]


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the clock, and of this process's processor time."""
    begun, worked = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - begun, time.process_time() - worked


def parts(store: SqlTwinStore, groups: list[CommitGroup]) -> tuple[float, float]:
    """Microseconds of processor time an entry for drafting and for chaining, without a database; medians."""
    writer = AuditWriter(store._sealer)
    head = Head()
    drafted, chained = [], []
    for group in groups:
        begun = time.process_time()
        drafts = writer.of_group(group, group)
        between = time.process_time()
        entries = extend("north", head, drafts, group.committed_at)
        chained.append((time.process_time() - between) / len(drafts))
        drafted.append((between - begun) / len(drafts))
        head = Head(entries[-1].seq, entries[-1].hash)
    return 1e6 * median(drafted), 1e6 * median(chained)


def measure(name: str, url: str, silent_url: str, folder: Path) -> None:
    """Commits with and without, then what was written read back."""
    groups = make_groups(N_GROUPS)
    telling, silent = open_sealed(url, folder), open_sealed(silent_url, folder / "silent")
    silence(silent)
    taken: list[list[tuple[float, float]]] = [[], []]
    for group in groups:
        for store, durations in zip((telling, silent), taken, strict=True):
            durations.append(timed(partial(store.commit, group)))
    # The first turn warms up. Entries in a commit: one an event, one a belief.
    wall, worked = (
        1e6 * median(a[k] - b[k] for a, b in zip(taken[0][1:], taken[1][1:], strict=True)) / (2 * N_EVENTS)
        for k in (0, 1)
    )
    drafted, chained = parts(telling, groups)
    keys = SigningKeys(folder / "signing")
    signing = Checkpoints(telling.audit, keys, Settable(START), None, 1, 1.0)
    signed_s, _ = timed(lambda: signing.make(["north"]))
    verified_s, _ = timed(lambda: verify(telling.audit, keys, institution="north"))
    assert not verify(telling.audit, keys, institution="north").all_flaws
    entry, _ = find_entry(telling.audit, "north:7")
    proved_s, _ = timed(lambda: prove(telling.audit, keys, signing, entry))
    print(
        f"{name:10s} {wall:5.1f} us an entry in a commit ({worked:.1f} us of our processor time; drafted "
        f"{drafted:.1f}, chained {chained:.1f}); of {N_ENTRIES:,} entries: signed in {signed_s:.2f} s, verified at "
        f"{N_ENTRIES / verified_s:,.0f}/s, one proved in {1e3 * proved_s:.0f} ms"
    )
    record(
        f"audit/{name.lower()}/entry", wall, "us", bar=f"at most {TARGET_US:.0f}", command=COMMAND,
        note=f"{N_GROUPS} commits of {N_EVENTS:,} events of as many patients, sealed, against the same commits "
        f"without; of it {worked:.1f} us of the client's processor time",
    )
    record(
        f"audit/{name.lower()}/verify", N_ENTRIES / verified_s, "1/s", command=COMMAND,
        note="entries a second: hashes, links, Merkle tree, signed checkpoint",
    )
    record(
        f"audit/{name.lower()}/prove", 1e3 * proved_s, "ms", command=COMMAND,
        note=f"one inclusion proof among {N_ENTRIES:,} entries",
    )
    telling.close()
    silent.close()


def size(path: Path) -> float:
    """Bytes an entry in an SQLite file: what the file loses when the table is emptied."""
    connection = sqlite3.connect(path, isolation_level=None)
    sizes = []
    (n,) = connection.execute("SELECT count(*) FROM audit_entries").fetchone()
    for statement in ("SELECT 1", "DELETE FROM audit_entries"):
        connection.execute(statement)
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        sizes.append(path.stat().st_size)
    connection.close()
    return (sizes[0] - sizes[1]) / float(n)


def main() -> None:
    """Measure, print, record."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "silent").mkdir()
        measure("SQLite", f"sqlite:///{folder}/a.sqlite", f"sqlite:///{folder}/b.sqlite", folder)
        n_bytes = size(folder / "a.sqlite")
        print(f"{n_bytes:.0f} bytes an entry in SQLite")
        record("audit/sqlite/size", n_bytes, "B", command=COMMAND, note="bytes an entry in the file, its key included")
        with PostgresServer() as server, server.database() as url, server.database() as other:
            measure("PostgreSQL", url, other, folder)


if __name__ == "__main__":
    main()
