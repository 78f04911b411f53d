"""The clock the shell goes by, and hands to the core, which reads none itself."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    """Says what time it is, how much has passed, and waits."""

    def now(self) -> datetime:
        """The present instant, aware, in UTC; it may be set back or forward at any moment."""
        ...

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back."""
        ...

    def sleep(self, seconds: float) -> None:
        """Return after so many seconds."""
        ...
