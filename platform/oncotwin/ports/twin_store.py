"""The twin store: what is known and what was believed, committed in one transaction a group.

A commit writes the journal, the twins' snapshots, estimates and alerts, what is to be published, what was refused,
and the offsets up to which the log has been read. It is fenced twice: by the epoch of the lease on each partition,
and by the version of each twin (compare and swap, in the order of the ids). A commit that loses writes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

from oncotwin.domain.header import Status, TimePrecision
from oncotwin.domain.ids import EventKey, TwinId
from oncotwin.ports.audit_trail import AuditTrail
from oncotwin.ports.erasure import Erasures


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One accepted event of one patient, as it came.

    Attributes:
        time: clinical time, UTC; recorded_at: at the source; received_at: by us.
        payload: the event's canonical JSON line.
        position: commit position; 0 before the commit.
        partition, offset: where in the log it was read.
        sequence: running number within the source, None where it keeps none.
        supersedes: (source, id) of the event that a correction corrects, None for every other kind.
    """

    source: str
    event_id: str
    twin_id: TwinId
    kind: str
    time: datetime
    time_precision: TimePrecision
    recorded_at: datetime | None
    received_at: datetime
    status: Status
    content_hash: str
    payload: bytes
    position: int = 0
    partition: int = 0
    offset: int = 0
    sequence: int | None = None
    supersedes: EventKey | None = None

    @property
    def key(self) -> EventKey:
        """(source, id)."""
        return (self.source, self.event_id)


@dataclass(frozen=True, slots=True)
class SnapshotRow:
    """A twin's state after an event.

    Attributes:
        time: clinical time of the last event folded.
        n_folded: events folded so far.
        state: canonical bytes; digest: their SHA-256 (hex).
        position: commit position; 0 before the commit.
    """

    twin_id: TwinId
    time: datetime
    n_folded: int
    model_version: str
    state: bytes
    digest: str
    position: int = 0


@dataclass(frozen=True, slots=True)
class EstimateRow:
    """What a twin believed right after one event; ``body`` is JSON.

    Attributes:
        nis: normalised innovation squared of the observation, None where there was none.
    """

    twin_id: TwinId
    time: datetime
    source: str
    event_id: str
    model_version: str
    body: bytes
    nis: float | None = None
    position: int = 0


@dataclass(frozen=True, slots=True)
class AlertRow:
    """A warning; its id follows from twin, event, kind and observable.

    Attributes:
        twin_id: whom it concerns; the institution alone where it concerns no patient, as a gap of a source's numbers.
        since: from when on the innovations point the same way.
        superseded_by: the event whose late arrival or correction explained the alert away; "" while it stands.
    """

    twin_id: TwinId
    alert_id: str
    time: datetime
    observable: str
    kind: str
    severity: str
    message: str
    recommended: str
    since: datetime
    body: bytes
    superseded_by: str = ""
    position: int = 0


@dataclass(frozen=True, slots=True)
class BeliefRow:
    """What one commit made of a twin; kept for ever, so that whoever folds the past again can compare.

    Attributes:
        version: of the twin, which each commit raises by one; position: of the commit.
        time: clinical time of the last event folded; n_folded: events folded.
        digest: SHA-256 (hex) of the state's canonical bytes.
        rewound_to: clinical time from which earlier beliefs were taken back; None where the fold only went on.
        cause: "source id" of the event that took them back, "" for none.
        published_at: moment of the commit.
    """

    twin_id: TwinId
    version: int
    position: int
    model_version: str
    time: datetime
    n_folded: int
    digest: str
    rewound_to: datetime | None
    cause: str
    published_at: datetime


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """Something to publish; consumers drop doubles by ``message_key``.

    Attributes:
        alert_id: the alert that this message tells of: it is not sent where that alert stands already.
    """

    topic: str
    key: str
    message_key: str
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()
    alert_id: str = ""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A refused event with its bytes."""

    rejection_id: str
    reason_code: str
    reason: str
    where: str
    remedy: str
    raw: bytes
    twin_id: TwinId | None
    source: str | None
    event_id: str | None
    received_at: datetime
    state: Literal["open", "resubmitted"] = "open"


@dataclass(frozen=True, slots=True)
class SequenceGap:
    """Running numbers of a source that have not come, though smaller and greater ones have.

    Attributes:
        institution: whose source it is.
        first, last: the missing numbers, both ends included.
        opened_at: when the numbers on both sides had been received.
        alerted_at: when an alert last told of gaps of this source, None where none ever did.
    """

    source: str
    institution: str
    first: int
    last: int
    opened_at: datetime
    alerted_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class TwinCommit:
    """One twin's share of a commit group.

    Attributes:
        rewound_to: estimates at or after this clinical time, of earlier commits, are superseded by this one (they stay
            readable by commit position), and so are alerts that are not raised again; snapshots of that time are
            dropped. None where the fold only went on.
        rewound_by: the event that caused it, for the alerts' ``superseded_by``.
    """

    twin_id: TwinId
    expected_version: int
    new_version: int
    model_version: str
    snapshots: tuple[SnapshotRow, ...]
    journal: tuple[JournalEntry, ...] = ()
    estimates: tuple[EstimateRow, ...] = ()
    alerts: tuple[AlertRow, ...] = ()
    rewound_to: datetime | None = None
    rewound_by: str = ""


@dataclass(frozen=True, slots=True)
class CommitGroup:
    """Everything that is written together.

    Attributes:
        offsets: next offset wanted of each partition read.
        lease_epochs: epoch of the lease on each of them; a partition whose epoch has moved on fences the group.
        sources: newly met sources and the institution each belongs to.
    """

    log_name: str
    offsets: Mapping[int, int]
    lease_epochs: Mapping[int, int]
    twins: tuple[TwinCommit, ...]
    committed_at: datetime
    dead_letters: tuple[DeadLetter, ...] = ()
    outbox: tuple[OutboxRow, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TwinHead:
    """Where a twin stands."""

    twin_id: TwinId
    version: int
    ordinal: int
    model_version: str
    last_time: datetime | None


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
