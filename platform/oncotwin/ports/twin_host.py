"""Where twins live: a host folds events into them and remembers them between calls."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from oncotwin.domain.amendment import Accepted
from oncotwin.domain.ids import EventKey, TwinId
from oncotwin.ports.twin_rows import AlertRow, EstimateRow, SnapshotRow


@dataclass(frozen=True, slots=True)
class Delivery:
    """New events of one twin.

    Attributes:
        ordinal: running number of the twin in the store; decides which actor hosts it.
        version: version of the twin that the caller expects to build on; 0 for a new twin.
        committed: version of the twin in the store; behind ``version`` while earlier deliveries await their commit.
        events: not in the journal yet, without duplicates, in order of arrival.
        owner: whose deliveries build on each other: what a host folded for another, or for the same worker before it
            began again, may never have been committed.
    """

    twin_id: TwinId
    ordinal: int
    version: int
    committed: int
    events: tuple[Accepted, ...]
    owner: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """An event that the twin could not fold; it goes to the dead letters with its trace."""

    key: EventKey
    trace: str


@dataclass(frozen=True, slots=True)
class Folded:
    """What one delivery made of its twin; the caller commits it.

    Attributes:
        snapshots: to keep; the last is the twin's present state.
        rewound_to: beliefs at or after this clinical time are superseded by this fold; None where it only went on.
        failures: events that were left out.
    """

    twin_id: TwinId
    snapshots: tuple[SnapshotRow, ...]
    estimates: tuple[EstimateRow, ...]
    alerts: tuple[AlertRow, ...]
    rewound_to: datetime | None
    failures: tuple[Failure, ...]


class FoldTicket(Protocol):
    """A fold under way."""

    def result(self) -> list[Folded]:
        """Wait for it.

        Raises:
            HostLostError: a host died; nothing was committed, so the events may be delivered again.
        """
        ...


class TwinHost(Protocol):
    """Folds deliveries; what it remembers is a cache of the store."""

    def submit(self, deliveries: Sequence[Delivery]) -> FoldTicket:
        """Begin to fold; deliveries of one twin are folded in the order in which they were submitted."""
        ...

    def forget(self, twin_ids: Iterable[TwinId]) -> None:
        """Drop what is remembered of these twins: their commit failed, or another worker changed them."""
        ...

    def follow(self, version: str) -> None:
        """Fold under another model version from now on; nothing is under way.

        Raises:
            ModelError: no such version.
        """
        ...

    def close(self) -> None:
        """Release processes and connections."""
        ...
