"""An installation that is backed up, and what a backup must hold."""

from __future__ import annotations

import json
import random
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import select

from oncotwin.adapters.sql_store import schema
from oncotwin.adapters.sql_store.backup import Manifest
from oncotwin.adapters.sql_store.database import open_engine
from oncotwin.adapters.sql_store.restore import read_manifest, row_chunks
from oncotwin.bootstrap import wiring
from oncotwin.bootstrap.settings import Settings
from oncotwin.ports.event_log import NewRecord
from oncotwin.ports.twin_store import TwinStore
from oncotwin.testing.patients import correction, diameter, treatment
from oncotwin_flows.assimilate import open_worker
from oncotwin_flows.groups import Bounds

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Site:
    """An installation with its twins in this process."""

    settings: Settings

    def append(self, lines: list[bytes]) -> None:
        with closing(wiring.open_log(self.settings)) as log:
            log.append([NewRecord(json.loads(line)["subject"], line) for line in lines])

    def work(self, n_events: int = 1_000_000, commit_events: int = 7) -> None:
        with open_worker(self.settings) as (worker, _, _):
            worker.run(Bounds(n_events, 1e6, commit_events, 0.0))

    def store(self) -> closing[TwinStore]:
        return closing(wiring.open_store(self.settings))

    def digests(self) -> dict[str, str]:
        with self.store() as store:
            rows = store.latest_snapshots(list(store.twin_heads()))
        return {twin_id: row.digest for twin_id, row in rows.items()}

    def journal(self) -> dict[tuple[str, str], bytes]:
        with self.store() as store:
            return {row.key: row.payload for twin_id in store.twin_heads() for row in store.journal(twin_id)}

    def __post_init__(self) -> None:
        self.store().__enter__().close()


def cohort(first: int, last: int) -> list[bytes]:
    """Visits of five patients, a late one and a correction among them."""
    rng = random.Random(first)
    lines = []
    for visit in range(first, last):
        for p in range(5):
            patient = f"H1/p{p}"
            if visit == 2:
                lines.append(treatment(f"{p}-on", 5, "drugA", "on", patient=patient))
            lines.append(diameter(f"{p}-{visit}", 40.0 * visit, rng.uniform(8, 60), patient=patient))
    if first > 0:
        lines.append(diameter("late", 41, 33.0, patient="H1/p1"))
        lines.append(correction("c", 900, "2-1", "retract", patient="H1/p2"))
    return lines


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    [table] = [one for one in read_manifest(folder).tables if one.name == name]
    columns = [column for column, _ in table.columns]
    return [
        dict(zip(columns, row, strict=True)) for chunk in row_chunks(folder / table.file_name, table) for row in chunk
    ]


def messages(url: str) -> set[str]:
    """Ids of all messages that a store ever made."""
    engine = open_engine(url)
    with engine.connect() as connection, connection.begin():
        found = set(connection.scalars(select(schema.outbox.c.message_key)))
    engine.dispose()
    return found


def messages_of(folder: Path) -> set[str]:
    """Ids of the messages in a backup."""
    return {row["message_key"] for row in rows(folder, "outbox")}


def assert_one_moment(folder: Path, manifest: Manifest) -> None:
    """Journal, commits and offsets of a store whose log holds no doubles belong together."""
    commits = rows(folder, "commits")
    journal = rows(folder, "journal")
    assert len(journal) == sum(row["n_events"] for row in commits)
    assert sum(row["next_offset"] for row in rows(folder, "offsets")) == len(journal)
    assert manifest.position == max((row["position"] for row in commits), default=0)
    assert {row["position"] for row in journal} <= {row["position"] for row in commits}
