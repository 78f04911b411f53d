"""Events that break the fold, and events that end its process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tests.faults.actors import Killed
from tests.faults.population import KILLER, POISON

from oncotwin.models.base import Hyperparameters, TumourModel
from oncotwin.twin import fold
from oncotwin.twin.timeline import Cursor, Item, Step, plan_steps


@contextmanager
def poisoned_kernel() -> Iterator[None]:
    """Have the fold fail on events that are poison."""

    def explode(
        model: TumourModel, hyper: Hyperparameters, cursor: Cursor, items: Sequence[Item], keys: Sequence[int]
    ) -> tuple[list[Step], Cursor]:
        if any(item.header.event_id.startswith(KILLER) for item in items):
            raise Killed
        if any(item.header.event_id.startswith(POISON) for item in items):
            raise ZeroDivisionError("the kernel failed")
        return plan_steps(model, hyper, cursor, items, keys)

    there: Any = fold
    before = there.plan_steps
    there.plan_steps = explode
    try:
        yield
    finally:
        there.plan_steps = before
