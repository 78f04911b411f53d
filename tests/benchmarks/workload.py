"""The stream's benchmark load and installations: simulated patients whose lesion is measured every six weeks."""

from __future__ import annotations

import json
import math
import os
import random
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from oncotwin.adapters.garbage import collect_rarely
from oncotwin.adapters.local_host import LocalHost
from oncotwin.adapters.ray_host import RayHost
from oncotwin.bootstrap import wiring
from oncotwin.bootstrap.settings import Settings
from oncotwin.domain.bundle import ModelBundle
from oncotwin.ports.event_log import EventLog, NewRecord
from oncotwin.ports.twin_host import TwinHost
from oncotwin.ports.twin_store import TwinStore
from oncotwin.testing.postgres_server import PostgresServer
from oncotwin.testing.servers import KafkaBroker
from oncotwin_flows.worker import Worker, WorkerSettings

START = datetime(2024, 1, 1, tzinfo=UTC)


def measured(patient: str, number: int, rng: random.Random) -> bytes:
    """One measurement as a line: a lesion that grows slowly, with an error of a tenth."""
    time = START + timedelta(days=42 * number, seconds=rng.randrange(86_000))
    mm = 40.0 * math.exp(0.02 * number + rng.gauss(0.0, 0.1))
    content = {
        "specversion": "1.0", "id": f"{patient}-{number}", "source": "urn:oncotwin:north:ris",
        "type": "org.oncotwin.lesion.measured.v1", "subject": patient, "time": time.isoformat().replace("+00:00", "Z"),
        "data": {"lesion": "L1", "kind": "longest_diameter", "value": round(mm, 1), "unit": "mm"},
    }
    return json.dumps(content).encode()


def records(n_twins: int, n_visits: int, *, first_visit: int = 0) -> Iterator[NewRecord]:
    """Visit after visit of all patients, each patient's in order."""
    rng = random.Random(f"{n_twins} {first_visit}")
    for number in range(first_visit, first_visit + n_visits):
        for i in range(n_twins):
            patient = f"north/p{i:06d}"
            yield NewRecord(patient, measured(patient, number, rng))


@dataclass(frozen=True)
class Installation:
    """One installation: its log and store, and workers over them."""

    settings: Settings
    log: EventLog
    store: TwinStore

    def fill(self, records: Iterable[NewRecord]) -> int:
        """Append to the log; returns how many."""
        n = 0
        pending: list[NewRecord] = []
        for one in records:
            pending.append(one)
            if len(pending) == 2_000:
                self.log.append(pending)
                n, pending = n + len(pending), []
        self.log.append(pending)
        return n + len(pending)

    def factory(self) -> wiring.ShardFactory:
        """Shards with the priors of the papers."""
        return wiring.ShardFactory(self.settings, ModelBundle({}).to_json(), wiring.LITERATURE)

    def local_host(self) -> LocalHost:
        """All twins in this process; it looks for cycles as rarely as a worker's does (`wiring.open_host`)."""
        collect_rarely()
        return LocalHost(self.factory()(wiring.LITERATURE))

    def ray_host(self, twins_per_actor: int) -> RayHost:
        """Twins in Ray actors; this process looks for cycles as rarely as a worker's does (`wiring.open_host`)."""
        collect_rarely()
        return RayHost(self.factory(), wiring.LITERATURE, twins_per_actor=twins_per_actor, idle_actor_s=1e6)

    def worker(
        self, host: TwinHost, log: EventLog | None = None, store: TwinStore | None = None,
        on_progress: Callable[[int], None] | None = None, *, threaded: bool = True,
    ) -> Worker:
        """A worker that holds its leases for the whole benchmark."""
        return Worker(
            log or self.log, store or self.store, host, wiring.SystemClock(),
            WorkerSettings("bench", "log", wiring.LITERATURE, 1e6, timedelta(minutes=5), threaded=threaded),
            on_progress,
        )


@contextmanager
def installation(kind: str) -> Iterator[Installation]:
    """A fresh one: ``embedded`` (SQLite) or ``deployed`` (Kafka and PostgreSQL, both started here)."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        settings = Settings(home=Path(folder))
        if kind == "deployed":
            broker = stack.enter_context(KafkaBroker(Path(folder) / "kafka"))
            server = stack.enter_context(PostgresServer())
            settings = Settings(
                home=Path(folder), log=broker.url, store=stack.enter_context(server.database()),
            )
        log = wiring.open_log(settings)
        stack.callback(log.close)
        store = wiring.open_store(settings)
        stack.callback(store.close)
        yield Installation(settings, log, store)


def load_note() -> str:
    """What else the machine did: figures of a busy machine are no figures of the program."""
    return f"load average {os.getloadavg()[0]:.1f} on {len(os.sched_getaffinity(0))} cores"
