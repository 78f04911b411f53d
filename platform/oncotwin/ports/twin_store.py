"""The twin store: what is known and what was believed, committed in one transaction a group.

A commit writes the journal, the twins' snapshots, estimates and alerts, what is to be published, what was refused,
and the offsets up to which the log has been read. It is fenced twice: by the epoch of the lease on each partition,
and by the version of each twin (compare and swap, in the order of the ids). A commit that loses writes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from oncotwin.domain.ids import EventKey, TwinId
from oncotwin.ports.audit_trail import AuditTrail
from oncotwin.ports.erasure import Erasures
from oncotwin.ports.twin_rows import (
    AlertRow,
    BeliefRow,
    CommitGroup,
    DeadLetter,
    EstimateRow,
    JournalEntry,
    OutboxRow,
    SequenceGap,
    SnapshotRow,
    TwinHead,
)


class TwinStore(Protocol):
    """Reads and the one commit; usable from one thread at a time, from any number of processes."""

    def commit(self, group: CommitGroup) -> int:
        """Write a group in one transaction.

        Returns:
            Its commit position; positions rise.
        Raises:
            FencedError: a lease has another epoch. StaleVersionError: a twin has another version, or an event's key is
                in the journal already. ChampionChangedError: another model version is the champion. StoreError: the
                database failed. In each case nothing was written.
        """
        ...

    def offsets(self, log_name: str) -> dict[int, int]:
        """Next offset wanted of each partition that was ever committed."""
        ...

    def acquire_leases(
        self, log_name: str, worker: str, partitions: Iterable[int], ttl_s: float, now: datetime,
        max_partitions: int | None = None,
    ) -> dict[int, int]:
        """Take free or expired partitions up to a number, and renew one's own; returns all held: partition -> epoch.

        Without a number a worker takes a fair share among those that ask for one; what it holds beyond its share is
        given back.
        """
        ...

    def release_leases(self, log_name: str, worker: str, epochs: Mapping[int, int]) -> None:
        """Give partitions back and leave the circle of workers that share them."""
        ...

    def known(self, keys: Sequence[EventKey]) -> dict[EventKey, str]:
        """Content hash of those keys that are in the journal."""
        ...

    def erased(self, twin_ids: Sequence[TwinId]) -> frozenset[TwinId]:
        """Those of the patients who were erased: nothing of them is taken in again."""
        ...

    def register_twins(self, twin_ids: Sequence[TwinId]) -> dict[TwinId, int]:
        """Ordinal of each twin, given at its first registration and kept."""
        ...

    def twin_heads(self, twin_ids: Sequence[TwinId] | None = None) -> dict[TwinId, TwinHead]:
        """Where these twins stand (all, for None); twins never committed are left out."""
        ...

    def latest_snapshots(
        self, twin_ids: Sequence[TwinId], before: datetime | None = None, *, model_version: str | None = None
    ) -> dict[TwinId, SnapshotRow]:
        """The latest snapshot of each twin, with clinical time strictly before ``before``.

        Snapshots are a means to fold less: they thin out with age, and those that were superseded are gone.

        Args:
            model_version: whose; the champion's by default.
        """
        ...

    def journal(
        self, twin_id: TwinId, *, since: datetime | None = None, known_at: datetime | None = None
    ) -> list[JournalEntry]:
        """A twin's journal by clinical time, source, id, as known at a moment.

        Args:
            since: leave out what lies before this clinical time, but not corrections, whose own time says nothing of
                where they take effect.
        """
        ...

    def corrections_of(self, keys: Sequence[EventKey]) -> dict[EventKey, list[JournalEntry]]:
        """Corrections in any journal of those events that have some."""
        ...

    def beliefs(self, twin_id: TwinId, *, known_at: datetime | None = None) -> list[BeliefRow]:
        """What each commit made of a twin, oldest first; with ``known_at`` up to the last commit by then."""
        ...

    def position_at(self, moment: datetime) -> int:
        """The last commit at or before a moment; 0 before the first."""
        ...

    def champion(self, known_at: datetime | None = None) -> str | None:
        """The model version that is believed, now or as of a moment; None before the first commit."""
        ...

    def estimates(
        self, twin_id: TwinId | None = None, *, known_at: datetime | None = None, superseded: bool = False
    ) -> Iterable[EstimateRow]:
        """Estimates by twin and clinical time; of each event the latest as known, or all with ``superseded``."""
        ...

    def alerts(
        self, twins: TwinId | Sequence[TwinId] | None = None, *, superseded: bool = False,
        known_at: datetime | None = None,
    ) -> list[AlertRow]:
        """Alerts by clinical time, as they stood at a moment; with ``superseded`` also those explained away by then."""
        ...

    def look_for_gaps(self, now: datetime) -> list[SequenceGap]:
        """Follow each source's running numbers: note gaps that opened, and close what has come since.

        A source begins with the smallest number that it has sent. An alert all of whose numbers have come is superseded
        by the event that brought the last of them. Costs what is new since the last look, and the open gaps.

        Returns:
            Gaps that are open and that no alert tells of yet, by source and number.
        """
        ...

    def raise_gap_alert(
        self, alert: AlertRow, missing: Sequence[SequenceGap], message: OutboxRow, now: datetime
    ) -> bool:
        """Keep an alert and its message in one transaction, as what tells of these gaps.

        Returns:
            False, and nothing is written, where one of the gaps is not as given any more: another worker told of it, or
            numbers have come.
        """
        ...

    def dead_letters(self, state: str | None = "open") -> list[DeadLetter]:
        """What was refused, in order of arrival; None for every state.

        A letter's id may be another than the one it was given with: a hash of its bytes would say too much of them.
        """
        ...

    def add_dead_letters(self, letters: Sequence[DeadLetter]) -> int:
        """Keep what an intake refused; returns how many were not known yet."""
        ...

    def mark_resubmitted(self, rejection_ids: Sequence[str]) -> None:
        """The letters' events were sent again."""
        ...

    def pending_outbox(self, limit: int) -> list[tuple[int, OutboxRow]]:
        """Rows not published yet, oldest first, with their ids."""
        ...

    def mark_published(self, ids: Sequence[int]) -> None:
        """The rows are in their topics."""
        ...

    def intake_known(self, keys: Sequence[EventKey]) -> dict[EventKey, str]:
        """Content hash of those keys that an intake has appended to the log."""
        ...

    def intake_record(self, hashes: Mapping[EventKey, str], twin_ids: Mapping[EventKey, TwinId]) -> None:
        """Remember the content hash of what was appended to the log, and whose it is."""
        ...

    def sources(self) -> dict[str, str]:
        """Sources and the institution that each is bound to."""
        ...

    def counts(self) -> dict[str, int]:
        """Rows of each table, for ``oncotwin status``."""
        ...

    @property
    def erasures(self) -> Erasures:
        """Tombstones, and what an erasure must find."""
        ...

    @property
    def audit(self) -> AuditTrail:
        """The audit trail, which lies beside what it tells of."""
        ...

    def close(self) -> None:
        """Release connections."""
        ...
