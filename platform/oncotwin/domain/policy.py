"""What validation needs to know of the world around an event."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True)
class Policy:
    """Made by the shell for each batch; nothing in it is read from a clock or a store here."""

    now: datetime
    """When the events were received, UTC."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Registered source -> institution. A source that is not in it belongs to the institution of its first
    accepted event; the shell registers it so."""
    array_stores: tuple[str, ...] = ()
    """URIs below which a claim check may point, e.g. ``s3://sections/``."""
    clock_skew: timedelta = timedelta(minutes=5)
    """How far the clocks of sources may run ahead of ours."""
    latest: datetime = field(init=False)
    """`now` and the skew: nothing that has happened is later."""

    def __post_init__(self) -> None:
        """Add up `latest` once for the many events of a batch."""
        object.__setattr__(self, "latest", self.now + self.clock_skew)
