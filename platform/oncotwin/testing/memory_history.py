"""A store's reading side in memory, for shards under test: what was delivered and what the shard made of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from oncotwin.domain.amendment import Accepted, Correction
from oncotwin.domain.header import EventHeader
from oncotwin.domain.ids import TwinId
from oncotwin.ports.twin_host import Delivery, Folded
from oncotwin.ports.twin_rows import JournalEntry, SnapshotRow
from oncotwin.twin.shard import History


class MemoryHistory:
    """Commits what a shard folded, and reads it back as the store would."""

    def __init__(self) -> None:
        self._events: dict[TwinId, dict[tuple[str, str], Accepted]] = {}
        self._snapshots: dict[TwinId, list[SnapshotRow]] = {}
        self.versions: dict[TwinId, int] = {}

    def commit(self, deliveries: Sequence[Delivery], folded: Sequence[Folded]) -> None:
        """Keep events and snapshots; snapshots after a rewind are dropped."""
        for delivery, one in zip(deliveries, folded, strict=True):
            known = self._events.setdefault(one.twin_id, {})
            failed = {failure.key for failure in one.failures}
            known.update({e.header.key: e for e in delivery.events if e.header.key not in failed})
            rows = self._snapshots.get(one.twin_id, [])
            if one.rewound_to is not None:
                rows = [row for row in rows if row.time < one.rewound_to]
            self._snapshots[one.twin_id] = [*rows, *one.snapshots]
            self.versions[one.twin_id] = delivery.version + 1

    def reader(self) -> History:
        """The callbacks that a shard reads by."""
        return History(journal=self._journal, snapshots=self._latest, decode=self._decode)

    def _journal(self, twin_id: TwinId, since: datetime | None) -> list[JournalEntry]:
        return [
            _row(event.header)
            for event in self._events.get(twin_id, {}).values()
            if since is None or event.header.time >= since or isinstance(event, Correction)
        ]

    def _decode(self, row: JournalEntry) -> Accepted:
        return self._events[row.twin_id][row.key]

    def _latest(self, twin_ids: Sequence[TwinId], before: datetime | None) -> dict[TwinId, SnapshotRow]:
        found: dict[TwinId, SnapshotRow] = {}
        for twin_id in twin_ids:
            rows = [row for row in self._snapshots.get(twin_id, []) if before is None or row.time < before]
            if rows:
                # Of equals the one committed last, as the store does.
                found[twin_id] = max(reversed(rows), key=lambda row: (row.time, row.n_folded))
        return found


def _row(header: EventHeader) -> JournalEntry:
    """A journal row without its bytes: the memory keeps the items themselves."""
    return JournalEntry(
        header.source, header.event_id, header.twin_id, header.kind, header.time, header.time_precision,
        header.recorded_at, header.time, header.status, header.content_hash, b"",
    )
