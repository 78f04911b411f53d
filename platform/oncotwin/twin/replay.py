"""What a twin believes, answered from its journal: of any clinical day, knowing what was known on any other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from oncotwin.domain.amendment import Accepted
from oncotwin.domain.ids import TwinId
from oncotwin.models.base import component_names
from oncotwin.ports.twin_rows import JournalEntry
from oncotwin.twin.fold import Binding, Effects
from oncotwin.twin.journal import NOT_FOLDED, decode, in_force, needs_guard
from oncotwin.twin.machine import Task, perform
from oncotwin.twin.rows import Z90
from oncotwin.twin.state import TwinState
from oncotwin.twin.timeline import Item


@dataclass(frozen=True, slots=True)
class Belief:
    """A twin folded from its journal.

    Attributes:
        items: what was folded, in fold order.
    """

    state: TwinState
    items: tuple[Item, ...]
    effects: Effects


def believe(
    binding: Binding, twin_id: TwinId, entries: Sequence[JournalEntry], as_of: datetime | None = None
) -> Belief:
    """Fold a journal, or the part of it that was known, from the beginning up to a clinical time.

    The same kernels, order and seeds as of the live twin: where the same events are in view the state is equal to the
    bit. Corrections count whatever their own time: it says nothing of the time that they correct.
    """
    [belief] = believe_each(binding, twin_id, [read_journal(entries)], as_of)
    return belief


def read_journal(entries: Sequence[JournalEntry]) -> list[Accepted]:
    """The events of a journal that may move the twin."""
    return [decode(entry) for entry in entries if entry.kind not in NOT_FOLDED]


def believe_each(
    binding: Binding, twin_id: TwinId, journals: Sequence[Sequence[Accepted]], as_of: datetime | None = None
) -> list[Belief]:
    """Fold several journals of one patient, each from the beginning, in one batch (`believe`)."""
    tasks = []
    for accepted in journals:
        items = tuple(item for item in in_force(accepted, twin_id) if as_of is None or item.header.time <= as_of)
        tasks.append(Task(TwinState(twin_id, binding.version, guarded=needs_guard(accepted)), items))
    outcomes = perform(binding, tasks)
    return [
        Belief(outcome.states[-1], tuple(task.items), outcome.effects)
        for task, outcome in zip(tasks, outcomes, strict=True)
    ]


def components(binding: Binding, state: TwinState) -> dict[str, dict[str, dict[str, float]]]:
    """Posterior marginals by model and component: mean, sd, and the 5, 50 and 95 % quantiles."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for bound in binding.models:
        part = state.parts.get(bound.model.name)
        if part is None:
            continue
        names = component_names(bound.model, part.cursor.targets)
        mean, covariance = part.moments()
        sd = np.sqrt(np.maximum(np.diagonal(covariance), 0.0))
        found[bound.model.name] = {
            name: {
                "mean": float(m), "sd": float(s), "q05": float(m - Z90 * s), "q50": float(m), "q95": float(m + Z90 * s)
            }
            for name, m, s in zip(names, mean, sd, strict=False)
        }
    return found
