"""Where it is written down since when a log's lag has not shrunk, so that a restart does not forget it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class LagRow:
    """How far the store is behind a log.

    Attributes:
        lag: events in the log that are not committed.
        smallest: the least that it was since ``since``.
        since: from when on it has not shrunk; the time of the measurement where it has.
    """

    log_name: str
    lag: int
    smallest: int
    since: datetime
    measured_at: datetime


class LagBook(Protocol):
    """One row a log; usable from one thread at a time, from any number of processes."""

    def read(self, log_name: str) -> LagRow | None:
        """What was written last, None where nothing was."""
        ...

    def write(self, row: LagRow) -> None:
        """Replace what was written of this log."""
        ...

    def close(self) -> None:
        """Release connections."""
        ...
