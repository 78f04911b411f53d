"""Twins in this process: for tests, for small tools, and as the yardstick of the Ray host."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from oncotwin.domain.ids import TwinId
from oncotwin.ports.twin_host import Delivery, Folded
from oncotwin.twin.shard import TwinShard


class _Done:
    """A fold that is done already."""

    def __init__(self, folded: list[Folded]) -> None:
        self._folded = folded

    def result(self) -> list[Folded]:
        """What was folded."""
        return self._folded


class LocalHost:
    """One shard for all twins, folded at once when submitted."""

    def __init__(self, shard: TwinShard) -> None:
        self._shard = shard

    def submit(self, deliveries: Sequence[Delivery]) -> _Done:
        """Fold now; the ticket only hands over the result."""
        return _Done(self._shard.fold(deliveries))

    def forget(self, twin_ids: Iterable[TwinId]) -> None:
        """Drop twins from memory."""
        self._shard.forget(twin_ids)

    def close(self) -> None:
        """Release the shard's way to the store."""
        self._shard.close()
