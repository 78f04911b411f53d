"""Twins in this process: for tests, for small tools, and as the yardstick of the Ray host."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from oncotwin.domain.errors import ModelError
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
    """One shard for all twins, folded at once when submitted.

    Args:
        shard: of the model version to begin with; make_shard: builds that of another.
    """

    def __init__(self, shard: TwinShard, make_shard: Callable[[str], TwinShard] | None = None) -> None:
        self._shard = shard
        self._make_shard = make_shard

    def submit(self, deliveries: Sequence[Delivery]) -> _Done:
        """Fold now; the ticket only hands over the result."""
        return _Done(self._shard.fold(deliveries))

    def forget(self, twin_ids: Iterable[TwinId]) -> None:
        """Drop twins from memory."""
        self._shard.forget(twin_ids)

    def follow(self, version: str) -> None:
        """Fold under another model version from now on."""
        if self._make_shard is None:
            raise ModelError(f"this host folds under one model version alone; start it anew to follow {version}")
        fresh = self._make_shard(version)
        self._shard.close()
        self._shard = fresh

    def close(self) -> None:
        """Release the shard's way to the store."""
        self._shard.close()
