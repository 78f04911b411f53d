"""Every write of a worker's way belongs to a named step: one that stands outside of them fails here."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from oncotwin.adapters.event_log import open_event_log
from oncotwin.adapters.local_host import LocalHost
from oncotwin.adapters.sql_store import database, open_twin_store
from oncotwin.adapters.sql_store.commit import COMMIT_STEPS
from oncotwin.bootstrap.wiring import SystemClock, history
from oncotwin.domain.bundle import ModelBundle
from oncotwin.filters.unscented import UnscentedFilter
from oncotwin.models.tumour_burden import TumourBurden
from oncotwin.ports.event_log import NewRecord
from oncotwin.testing.patients import correction, diameter
from oncotwin.twin.drift import DriftSettings
from oncotwin.twin.fold import bind
from oncotwin.twin.shard import TwinShard
from oncotwin_flows.groups import Bounds
from oncotwin_flows.relay import Relay
from oncotwin_flows.steps import RELAY_STEPS, WORKER_STEPS
from oncotwin_flows.worker import Worker, WorkerSettings

WRITES = {
    # The worker's own way: leases; twins are made known, which is harmless to do again.
    "leased": {"leases", "workers"},
    "prepared": {"twins"},
    # The transaction.
    "versions swapped": {"twins"},
    "position": {"commits", "champions"},
    "taken back": {"snapshots", "estimates", "alerts"},
    "journal": {"journal"},
    "snapshots": {"snapshots"},
    "estimates": {"estimates"},
    "alerts": {"alerts"},
    "beliefs": {"beliefs"},
    "thinned": {"snapshots"},
    "outbox": {"outbox"},
    "dead letters": {"dead_letters"},
    "sources": {"sources"},
    "offsets": {"offsets"},
    "audit": {"audit_entries"},
    # The relay's way.
    "marked": {"outbox"},
}
_WRITE = re.compile(r'\s*(?:INSERT\s+INTO|UPDATE|DELETE\s+FROM|COPY)\s+"?(\w+)', re.IGNORECASE)


class Watch:
    """Which tables are written before which step is told."""

    def __init__(self) -> None:
        self.written: dict[str, set[str]] = defaultdict(set)
        self.order: list[str] = []
        self._since: set[str] = set()

    def statement(self, text: str) -> None:
        if (found := _WRITE.match(text)) is not None:
            self._since.add(found[1])

    def step(self, name: str) -> None:
        self.order.append(name)
        self.written[name] |= self._since
        self._since = set()

    def rest(self) -> set[str]:
        return self._since


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'store.sqlite'}"
    else:
        yield str(request.getfixturevalue("postgres_database"))


def test_every_write_belongs_to_a_named_step(
    store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch()
    store = open_twin_store(store_url, on_step=watch.step)
    log = open_event_log(f"embedded:{tmp_path / 'log'}", "events", 2)
    real_copy = database._copy

    def copy(connection: Any, table: Any, columns: Any, rows: Any) -> None:
        # PostgreSQL's bulk rows go around SQLAlchemy's events.
        watch.statement(f"COPY {table.name}")
        real_copy(connection, table, columns, rows)

    monkeypatch.setattr(database, "_copy", copy)

    @event.listens_for(store._engine, "before_cursor_execute")
    def _seen(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        watch.statement(statement)

    binding = bind("1", ModelBundle({}), [TumourBurden()], UnscentedFilter(), DriftSettings())
    worker = Worker(
        log, store, LocalHost(TwinShard(binding, history(store, "1"))), SystemClock(),
        WorkerSettings("w", "log", "1", 1e6, timedelta(minutes=5), threaded=False), on_step=watch.step,
    )
    relay = Relay(store, lambda topic: open_event_log(f"embedded:{tmp_path / 'log'}", topic, 1), on_step=watch.step)
    bounds = Bounds(commit_events=10, poll_seconds=0.05)
    # A jump that raises an alert, then a late event that takes it back, a correction, a move, refusals and doubles.
    visits = [diameter(f"m{i}", 30 * i, 20) for i in range(12)]
    lines = [
        *visits, diameter("jump", 400, 90), diameter("far", 430, 5), diameter("late", 200, 60), visits[0], b"no event",
        correction("c1", 800, "jump", "retract"), correction("c2", 801, "m3", "wrong_patient", right_patient="H1/p2"),
    ]
    for line in lines:
        log.append([NewRecord("H1/p1", line)])
        worker.run(bounds)
        relay.publish()
    assert store.alerts(superseded=True)
    assert watch.rest() == set()
    worker.release()
    assert watch.rest() <= {"leases", "workers"}
    for name, tables in watch.written.items():
        assert tables <= WRITES.get(name, set()), f"step {name} wrote {tables}"
    assert {name: tables for name, tables in watch.written.items() if tables} == WRITES
    assert set(watch.order) == {*COMMIT_STEPS, *WORKER_STEPS, *RELAY_STEPS}
    relay.close()
    log.close()
    store.close()
