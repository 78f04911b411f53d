"""Bugs sown into the program one at a time: mistakes that somebody might make; the simulation must find each.

A bug is a change of the running code for the time of a simulation; how many seeds it takes to be found says how sharp
the simulation's eyes are.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import pytest
from sqlalchemy import Connection, select
from tests.faults.actors import ClusterHost
from tests.faults.databases import Databases
from tests.faults.simulation import Tally, simulate

from oncotwin.adapters.sql_store import SqlTwinStore, records, schema
from oncotwin.adapters.sql_store import commit as commit_module
from oncotwin.adapters.sql_store import store as store_module
from oncotwin.adapters.sql_store.database import bulk_insert
from oncotwin.domain.amendment import Accepted
from oncotwin.domain.ids import EventKey
from oncotwin.ports.event_log import NewRecord
from oncotwin.ports.twin_host import Delivery
from oncotwin.ports.twin_rows import CommitGroup, TwinCommit
from oncotwin.twin import shard as shard_module
from oncotwin.twin.machine import only_adds
from oncotwin.twin.shard import TwinShard
from oncotwin.twin.state import TwinState
from oncotwin_flows.relay import Relay
from oncotwin_flows.worker import Worker

Patch = pytest.MonkeyPatch


@dataclass(frozen=True)
class SeededBug:
    """A mistake, and how many seeds may pass before it is found."""

    name: str
    sow: Callable[[Patch], None]
    within: int = 100


def _offsets_first(patch: Patch) -> None:
    real = SqlTwinStore.commit

    def commit(self: SqlTwinStore, group: CommitGroup) -> int:
        with self._transaction(write=True) as connection:
            commit_module._fence_leases(connection, group)
            commit_module._write_offsets(connection, group)
        return real(self, group)

    patch.setattr(SqlTwinStore, "commit", commit)


def _journal_apart(patch: Patch) -> None:
    real = SqlTwinStore.commit

    def commit(self: SqlTwinStore, group: CommitGroup) -> int:
        with self._transaction(write=True) as connection:
            commit_module._fence_leases(connection, group)
            entries = [records.journal_record(e, 1) for twin in self._rows.group(group).twins for e in twin.journal]
            bulk_insert(connection, schema.journal, records.JOURNAL, entries, new_only=True)
        return real(self, group)

    patch.setattr(SqlTwinStore, "commit", commit)
    _journal_ignores_doubles(patch)


def _journal_ignores_doubles(patch: Patch) -> None:
    def write(connection: Connection, twins: Sequence[TwinCommit], position: int) -> None:
        entries = [records.journal_record(entry, position) for twin in twins for entry in twin.journal]
        bulk_insert(connection, schema.journal, records.JOURNAL, entries, new_only=True)

    patch.setattr(commit_module, "_write_journal", write)


def _no_lease_fence(patch: Patch) -> None:
    patch.setattr(commit_module, "_fence_leases", lambda connection, group: None)


def _no_model_fence(patch: Patch) -> None:
    patch.setattr(commit_module, "_fence_model", lambda connection, twins: commit_module.champion_of(connection))


def _no_version_compare(patch: Patch) -> None:
    """Every twin takes the version after the store's, whatever it was folded on."""
    real = vars(store_module)["write_group"]

    def write_group(connection: Connection, group: CommitGroup, *more: Any) -> int:
        table = schema.twins.c
        there = {row.twin_id: row.version for row in connection.execute(select(table.twin_id, table.version))}
        twins = tuple(
            replace(twin, expected_version=there[twin.twin_id], new_version=there[twin.twin_id] + 1)
            for twin in group.twins
        )
        position: int = real(connection, replace(group, twins=twins), *more)
        return position

    patch.setattr(store_module, "write_group", write_group)


def _no_idempotency_key(patch: Patch) -> None:
    def known(self: SqlTwinStore, keys: Sequence[EventKey]) -> dict[EventKey, str]:
        del self, keys
        return {}

    patch.setattr(SqlTwinStore, "known", known)
    _journal_ignores_doubles(patch)


def _snapshots_stay(patch: Patch) -> None:
    real = vars(commit_module)["delete"]

    def delete(table: Any) -> Any:
        statement = real(table)
        return statement.where(table.c.twin_id == "nobody") if table is schema.snapshots else statement

    patch.setattr(commit_module, "delete", delete)


def _estimates_stay(patch: Patch) -> None:
    real = vars(commit_module)["update"]

    def update(table: Any) -> Any:
        statement = real(table)
        return statement.where(table.c.twin_id == "nobody") if table is schema.estimates else statement

    patch.setattr(commit_module, "update", update)


def _marked_before_append(patch: Patch) -> None:
    def publish(self: Relay) -> int:
        n = 0
        while rows := self._store.pending_outbox(self._chunk):
            self._on_step("pending")
            self._store.mark_published([number for number, _ in rows])
            self._on_step("marked")
            by_topic: dict[str, list[NewRecord]] = defaultdict(list)
            for _, row in rows:
                by_topic[row.topic].append(NewRecord(row.key, row.value, row.headers))
            for topic, messages in by_topic.items():
                if topic not in self._topics:
                    self._topics[topic] = self._open_topic(topic)
                self._topics[topic].append(messages)
                self._on_step("appended")
            n += len(rows)
        return n

    patch.setattr(Relay, "publish", publish)


def _positions_kept(patch: Patch) -> None:
    real = Worker._reset

    def reset(self: Worker) -> None:
        positions, epochs = dict(self._positions), dict(self._epochs)
        real(self)
        self._positions.update(positions)
        self._epochs = epochs

    patch.setattr(Worker, "_reset", reset)


def _memory_kept(patch: Patch) -> None:
    def holds(self: TwinShard, delivery: Delivery) -> bool:
        return delivery.twin_id in self._held

    patch.setattr(TwinShard, "_holds", holds)
    patch.setattr(ClusterHost, "forget", lambda self, twin_ids: None)


def _late_at_the_end(patch: Patch) -> None:
    def goes_on(state: TwinState, new: Sequence[Accepted]) -> bool:
        return only_adds(state, new)

    patch.setattr(shard_module, "goes_on", goes_on)


def _late_from_the_latest(patch: Patch) -> None:
    real = TwinShard._snapshot

    def snapshot(self: TwinShard, delivery: Delivery, before: Any) -> TwinState:
        del before
        return real(self, delivery, self._held[delivery.twin_id].state.last[0])  # type: ignore[index]

    patch.setattr(TwinShard, "_snapshot", snapshot)


class _Forgetful(dict[EventKey, str]):
    """Knows nothing of what is under way."""

    def get(self, key: Any, default: Any = None) -> Any:
        del key
        return default


def _under_way_unseen(patch: Patch) -> None:
    real = Worker.__init__

    def init(self: Worker, *arguments: Any, **named: Any) -> None:
        real(self, *arguments, **named)
        self._under_way = _Forgetful()

    patch.setattr(Worker, "__init__", init)
    _journal_ignores_doubles(patch)


def _outbox_apart(patch: Patch) -> None:
    real = SqlTwinStore.commit

    def commit(self: SqlTwinStore, group: CommitGroup) -> int:
        position = real(self, replace(group, outbox=()))
        self._on_step("offsets")
        with self._transaction(write=True) as connection:
            rows = [records.outbox_record(row) for row in self._rows.group(group).outbox]
            bulk_insert(connection, schema.outbox, records.OUTBOX, rows, new_only=True)
        return position

    patch.setattr(SqlTwinStore, "commit", commit)


BUGS = (
    SeededBug("offsets are written before the journal, in a transaction of their own", _offsets_first),
    SeededBug("the journal is written before the rest, in a transaction of its own", _journal_apart),
    SeededBug("the fence of the leases is left out", _no_lease_fence),
    SeededBug("the fence of the model version is left out", _no_model_fence),
    SeededBug("the version of a twin is not compared", _no_version_compare),
    SeededBug("the idempotency key is dropped", _no_idempotency_key),
    SeededBug("snapshots are not superseded when a twin is rewound", _snapshots_stay),
    SeededBug("estimates are not superseded when a twin is rewound", _estimates_stay),
    SeededBug("messages are marked as published before their topic has them", _marked_before_append),
    SeededBug("messages are put aside after the commit, in a transaction of their own", _outbox_apart),
    SeededBug("the worker keeps its place in the log after a commit that failed", _positions_kept),
    SeededBug("an actor keeps what it folded for a commit that failed", _memory_kept),
    SeededBug("a late event is folded at the end", _late_at_the_end),
    SeededBug("a late event is folded onto the latest snapshot", _late_from_the_latest),
    SeededBug("doubles of what is under way are not seen", _under_way_unseen),
)


def find(bug: SeededBug, databases: Databases, first: int = 1) -> tuple[int, str] | None:
    """Sow a bug and simulate until a seed fails; returns how many it took and what was seen, None for never."""
    with Patch.context() as patch:
        bug.sow(patch)
        for n in range(1, bug.within + 1):
            try:
                simulate(first + n - 1, databases, Tally())
            except Exception as error:  # whatever it is, it was seen
                return n, f"{type(error).__name__}: {error}"
    return None


def main() -> None:
    """Sow every bug in turn and print after how many seeds it was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.seeded_bugs", description=main.__doc__)
    parser.add_argument("--first", type=int, default=1, help="the first seed (%(default)s)")
    chosen = parser.parse_args()
    missed = 0
    with closing(Databases()) as databases:
        for bug in BUGS:
            found = find(bug, databases, chosen.first)
            missed += found is None
            said = f"after {found[0]} seeds: {found[1][:160]}" if found else f"NOT FOUND in {bug.within} seeds"
            print(f"{bug.name}: {said}", flush=True)
    sys.exit(missed > 0)


if __name__ == "__main__":
    main()
