"""What the twin store keeps, row by row, and what is committed together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from oncotwin.domain.header import Status, TimePrecision
from oncotwin.domain.ids import EventKey, TwinId


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
