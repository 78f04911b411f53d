"""Real patients' events in any order of arrival: the same posteriors, to the bit.

A permutation takes some patients of a data set, shuffles all their events, mixes doubles in, and sends them through
the whole path: embedded log, worker, twins spread over shards, store. Chance decides the number of partitions, the
batches in which events come and are committed, twins in a shard, one or two folding threads, a committing thread or
none, shards that lose their memory, and restarts of everything but log and store. In the end every patient's state,
every estimate and every alert that stands must be that of the run in which all events came in their order, and nothing
may be there twice.

    ONCOTWIN_DATA=DIR python -m tests.replay.permutations --n 1000

A permutation is named by its seed: `--n 1 --seed S` plays it again.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from sqlalchemy.engine import make_url

from oncotwin.adapters.event_log import open_event_log
from oncotwin.adapters.garbage import collect_rarely
from oncotwin.adapters.local_host import LocalHost
from oncotwin.adapters.sql_store import SqlTwinStore, open_twin_store
from oncotwin.adapters.tables import convert
from oncotwin.bootstrap.wiring import LITERATURE, SystemClock, history
from oncotwin.domain.bundle import FilterChoice, ModelBundle
from oncotwin.domain.events import encode_line
from oncotwin.filters.choice import make_filter
from oncotwin.models.androgen import AndrogenSuppression
from oncotwin.models.base import TumourModel
from oncotwin.models.tumour_burden import TumourBurden
from oncotwin.ports.event_log import EventLog, NewRecord
from oncotwin.ports.twin_host import Delivery, Folded, TwinHost
from oncotwin.testing.postgres_server import PostgresServer
from oncotwin.twin.drift import DriftSettings
from oncotwin.twin.fold import Binding, bind
from oncotwin.twin.shard import TwinShard
from oncotwin_flows.groups import Bounds, Tally
from oncotwin_flows.worker import Worker, WorkerSettings

TABLES = {"intermittent-androgen": "intermittent_androgen/psa.csv", "atezolizumab": "atezolizumab"}
N_EVENTS = 300
"""About how many events one permutation has, doubles not counted."""
ON_POSTGRES = 0.1
"""Share of permutations that run over PostgreSQL where a server is given."""
LOG = "log"

Journals = dict[str, list[NewRecord]]
"""Events of each patient in their own order."""


@dataclass(frozen=True)
class Outcome:
    """What one patient's journal ended in, as hashes: state, estimates in force, alerts that stand."""

    state: str
    estimates: str
    alerts: str


def load(table: str, folder: Path) -> Journals:
    """A data set as events, by patient."""
    found: Journals = {}
    for event in convert(table, folder / TABLES[table]):
        found.setdefault(event.subject, []).append(NewRecord(event.subject, encode_line(event)))
    return found


def binding() -> Binding:
    """Both built-in models with the priors of the papers, under the default filter."""
    choice = FilterChoice()
    models: list[TumourModel] = [TumourBurden(), AndrogenSuppression()]
    return bind(LITERATURE, ModelBundle({}, choice), models, make_filter(choice), DriftSettings())


class _Folding:
    """A fold under way on several shards."""

    def __init__(self, parts: Sequence[tuple[list[int], Future[list[Folded]]]], n: int) -> None:
        self._parts = parts
        self._n = n

    def result(self) -> list[Folded]:
        """In the order of the deliveries."""
        found: dict[int, Folded] = {}
        for places, future in self._parts:
            found.update(zip(places, future.result(), strict=True))
        return [found[i] for i in range(self._n)]


@dataclass
class ShardedHost:
    """Twins in shards of k, folded by some threads; now and then a shard loses its memory, as an actor that died.

    Attributes:
        stores: one of each thread, since a store serves one thread at a time.
    """

    bound: Binding
    stores: Sequence[SqlTwinStore]
    k: int
    rng: random.Random
    loss: float
    shards: dict[int, TwinShard] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._threads = [ThreadPoolExecutor(1) for _ in self.stores]

    def submit(self, deliveries: Sequence[Delivery]) -> _Folding:
        """Begin to fold, each shard in the thread that it belongs to."""
        places: dict[int, list[int]] = {}
        for place, delivery in enumerate(deliveries):
            places.setdefault(delivery.ordinal // self.k, []).append(place)
        parts = []
        for number, mine in places.items():
            thread = number % len(self.stores)
            if number not in self.shards or self.rng.random() < self.loss:
                reader = history(self.stores[thread], LITERATURE)
                self.shards[number] = TwinShard(self.bound, reader)
            fold, given = self.shards[number].fold, [deliveries[place] for place in mine]
            parts.append((mine, self._threads[thread].submit(fold, given)))
        return _Folding(parts, len(deliveries))

    def forget(self, twin_ids: Iterable[str]) -> None:
        """Drop twins from memory, once nobody folds them any more."""
        names = list(twin_ids)
        for number, shard in self.shards.items():
            self._threads[number % len(self.stores)].submit(shard.forget, names).result()

    def follow(self, version: str) -> None:
        """There is one version alone."""
        raise AssertionError(f"nobody promoted {version}")

    def close(self) -> None:
        """End the threads."""
        for thread in self._threads:
            thread.shutdown()


def outcomes(store: SqlTwinStore) -> dict[str, Outcome]:
    """How every patient's journal ended."""
    heads = store.twin_heads()
    states = {twin_id: row.digest for twin_id, row in store.latest_snapshots(list(heads)).items()}
    return {
        twin_id: Outcome(
            state,
            _hash(f"{row.time} {row.source} {row.event_id} {row.nis!r} ".encode() + row.body for row in rows),
            _hash(row.alert_id.encode() + row.body for row in store.alerts(twin_id)),
        )
        for twin_id, state in states.items()
        for rows in [list(store.estimates(twin_id))]
    }


def _hash(parts: Iterable[bytes]) -> str:
    """Of parts in any order; one that is there twice counts twice."""
    return hashlib.sha256(b"\x00".join(sorted(parts))).hexdigest()


def make_worker(log: EventLog, store: SqlTwinStore, host: TwinHost, *, threaded: bool) -> Worker:
    """A worker whose leases last."""
    settings = WorkerSettings("w", LOG, LITERATURE, 1e6, timedelta(minutes=5), threaded=threaded)
    return Worker(log, store, host, SystemClock(), settings)


def in_order(journals: Journals) -> dict[str, Outcome]:
    """The reference: every patient's events once, in their order."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        log = stack.enter_context(closing(open_event_log(f"embedded:{name}/log", "events", 8)))
        store = stack.enter_context(closing(open_twin_store(f"sqlite:///{name}/store.sqlite")))
        log.append([record for records in journals.values() for record in records])
        host = LocalHost(TwinShard(binding(), history(store, LITERATURE)))
        worker = make_worker(log, store, host, threaded=False)
        tally = worker.run(Bounds(events=10**9, seconds=1e9, commit_events=2_000))
        assert tally.n_accepted == sum(map(len, journals.values()))
        return outcomes(store)


@dataclass
class Permutation:
    """One permutation: what chance decides, and what came of it."""

    seed: int
    journals: Journals
    bound: Binding

    def __post_init__(self) -> None:
        rng = self.rng = random.Random(f"permutation {self.seed}")
        self.patients: list[str] = []
        n, names = 0, sorted(self.journals)
        while n < N_EVENTS and len(self.patients) < len(names):
            patient = rng.choice([one for one in names if one not in self.patients])
            self.patients.append(patient)
            n += len(self.journals[patient])
        records = [record for patient in self.patients for record in self.journals[patient]]
        doubles = rng.choices(records, k=rng.randrange(len(records) // 3 + 1))
        self.n_events, self.records = len(records), [*records, *doubles]
        rng.shuffle(self.records)
        self.n_partitions = rng.choice((1, 2, 3, 8))
        self.k = rng.choice((1, 1, 2, 7, 64))
        self.n_threads, self.threaded = rng.choice((1, 2)), rng.random() < 0.5
        self.loss = rng.choice((0.0, 0.0, 0.02))
        self.largest = rng.choice((5, 40, 200))
        self.restarts = rng.choice((0, 1, 3))

    def run(self, folder: Path, url: str) -> dict[str, Outcome]:
        """Send the events through; returns how every patient ended."""
        rng, waiting, tally = self.rng, list(self.records), Tally()
        cuts = sorted((rng.randrange(len(waiting)) for _ in range(self.restarts)), reverse=True)
        with closing(open_event_log(f"embedded:{folder / 'log'}", "events", self.n_partitions)):
            pass
        while True:
            until = cuts.pop(0) if cuts else 0
            with ExitStack() as stack:
                log = stack.enter_context(
                    closing(open_event_log(f"embedded:{folder / 'log'}", "events", self.n_partitions))
                )
                stores = [
                    stack.enter_context(closing(open_twin_store(url))) for _ in range(1 + self.n_threads)
                ]
                host = ShardedHost(self.bound, stores[1:], self.k, rng, self.loss)
                stack.callback(host.close)
                worker = make_worker(log, stores[0], host, threaded=self.threaded)
                while len(waiting) > until:
                    n = rng.randrange(1, self.largest)
                    log.append(waiting[-n:])
                    del waiting[-n:]
                    bounds = Bounds(
                        events=rng.choice((n, 10**9)), seconds=1e9, commit_events=rng.randrange(1, self.largest),
                        poll_seconds=0.0,
                    )
                    tally.add(worker.run(bounds))
                if not until and not cuts:
                    tally.add(worker.run(Bounds(events=10**9, seconds=1e9, commit_events=50, poll_seconds=0.0)))
                    assert tally.n_accepted == self.n_events, (tally, self.n_events)
                    assert tally.n_duplicates == len(self.records) - self.n_events, tally
                    assert stores[0].counts()["journal"] == self.n_events
                    return outcomes(stores[0])


def different(found: dict[str, Outcome], expected: dict[str, Outcome], patients: Sequence[str]) -> list[str]:
    """Patients whose outcome is another, with what differs."""
    told = []
    for patient in patients:
        one, other = found.get(patient), expected[patient]
        if one != other:
            parts = ["everything"] if one is None else [
                name for name in ("state", "estimates", "alerts") if getattr(one, name) != getattr(other, name)
            ]
            told.append(f"{patient}: {', '.join(parts)}")
    if len(found) != len(patients):
        told.append(f"{len(found)} twins of {len(patients)} patients")
    return told


@contextmanager
def empty_database(server_url: str) -> Iterator[str]:
    """A new database of a PostgreSQL server, for this process alone."""
    import psycopg

    plain, name = server_url.replace("postgresql+psycopg", "postgresql"), f"permutation_{os.getpid()}"
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())
        connection.execute(f"CREATE DATABASE {name}".encode())
        try:
            yield make_url(server_url).set(database=name).render_as_string(hide_password=False)
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def permute(
    seed: int, tables: dict[str, Journals], expected: dict[str, dict[str, Outcome]], server_url: str | None = None,
    bound: Binding | None = None,
) -> tuple[list[str], int]:
    """Play one permutation.

    Args:
        server_url: of a PostgreSQL server; without it all permutations run over SQLite.
    Returns:
        (what came out differently, number of events sent).
    """
    table = sorted(tables)[seed % len(tables)]
    permutation = Permutation(seed, tables[table], bound or binding())
    on_postgres = permutation.rng.random() < ON_POSTGRES
    with ExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory())
        url = f"sqlite:///{name}/store.sqlite"
        if server_url is not None and on_postgres:
            url = stack.enter_context(empty_database(server_url))
        found = permutation.run(Path(name), url)
    return different(found, expected[table], permutation.patients), len(permutation.records)


class _Process:
    """What each process keeps between permutations."""

    tables: dict[str, Journals]
    expected: dict[str, dict[str, Outcome]]
    bound: Binding
    server_url: str


def _begin(tables: dict[str, Journals], expected: dict[str, dict[str, Outcome]], server_url: str) -> None:
    collect_rarely()
    _Process.tables, _Process.expected, _Process.bound = tables, expected, binding()
    _Process.server_url = server_url


def _play(seed: int) -> tuple[int, list[str], int]:
    told, n = permute(seed, _Process.tables, _Process.expected, _Process.server_url, _Process.bound)
    return seed, told, n


def main() -> int:
    """Play permutations on all cores, show progress, print the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=0, help="of the first")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    chosen = parser.parse_args()
    folder = Path(os.environ["ONCOTWIN_DATA"])
    tables = {table: load(table, folder) for table in TABLES}
    expected = {table: in_order(journals) for table, journals in tables.items()}
    print(f"in order: {', '.join(f'{len(one)} patients of {table}' for table, one in expected.items())}")
    begun, n_done, n_events, failed = time.monotonic(), 0, 0, []
    context = multiprocessing.get_context("spawn")
    with (
        PostgresServer() as server,
        ProcessPoolExecutor(chosen.processes, context, _begin, (tables, expected, server.url())) as pool,
    ):
        waiting = [pool.submit(_play, chosen.seed + i) for i in range(chosen.n)]
        for future in as_completed(waiting):
            seed, told, n = future.result()
            n_done, n_events = n_done + 1, n_events + n
            if told:
                failed.append(seed)
                print(f"\nseed {seed}: {'; '.join(told)}")
            if n_done % 10 == 0 or n_done == chosen.n:
                rate = (time.monotonic() - begun) / n_done
                left = rate * (chosen.n - n_done)
                print(
                    f"\r{n_done} of {chosen.n} permutations, {len(failed)} different, {left / 60:.0f} min left ",
                    end="", file=sys.stderr, flush=True,
                )
    seconds = time.monotonic() - begun
    print(
        f"\n{len(failed)} of {chosen.n} permutations with a different posterior; {n_events:,} events sent in "
        f"{seconds / 60:.1f} min" + (f"; seeds {failed}" if failed else "")
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
