"""A commit group on its way through a worker, the bounds of a run, and its tally."""

from __future__ import annotations

from dataclasses import dataclass, field

from oncotwin.domain.ids import TwinId
from oncotwin.ports.twin_host import Delivery, FoldTicket
from oncotwin.ports.twin_rows import DeadLetter, JournalEntry


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much one run of the flow may do.

    Attributes:
        events: most records read; seconds: longest time; commit_events: most records of one commit group.
    """

    events: int = 20_000
    seconds: float = 30.0
    commit_events: int = 1_000
    poll_seconds: float = 0.2


@dataclass(slots=True)
class Tally:
    """What a run did."""

    n_read: int = 0
    n_accepted: int = 0
    n_duplicates: int = 0
    n_rejected: int = 0
    n_alerts: int = 0
    n_estimates: int = 0
    n_commits: int = 0
    n_retries: int = 0
    partitions: int = 0
    fold_wait_s: float = 0.0
    commit_s: float = 0.0
    prepare_s: float = 0.0

    def add(self, other: Tally) -> None:
        """Count a commit's work, or another run's, to this one's; ``partitions`` are its own to say."""
        for name in self.__slots__:
            if name != "partitions":
                setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass(slots=True)
class Group:
    """Records on their way to one commit."""

    offsets: dict[int, int]
    n_records: int
    epochs: dict[int, int] = field(default_factory=dict)
    deliveries: list[Delivery] = field(default_factory=list)
    entries: dict[TwinId, list[JournalEntry]] = field(default_factory=dict)
    dead_letters: list[DeadLetter] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)
    n_accepted: int = 0
    n_duplicates: int = 0
    ticket: FoldTicket | None = None
