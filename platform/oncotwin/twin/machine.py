"""One twin as a machine: journal in, state and effects out.

A late event, a correction, an upgrade of the model and a question about the past are one operation: take a snapshot
from before the earliest clinical time concerned, fold the journal forward from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from oncotwin.domain.amendment import Accepted, Arrival, Consent, Correction
from oncotwin.twin.fold import Binding, Effects, advance
from oncotwin.twin.journal import fold_key, in_force, needs_guard, report_name, rewind_time
from oncotwin.twin.snapshots import kept_within
from oncotwin.twin.state import TwinState
from oncotwin.twin.timeline import Item, moment


@dataclass(frozen=True, slots=True)
class Task:
    """What one twin is to fold.

    Attributes:
        state: to start from.
        items: in fold order, all after ``state.last``.
        rewound_to: clinical time from which earlier beliefs are superseded; None where the fold only goes on.
    """

    state: TwinState
    items: tuple[Item, ...]
    rewound_to: datetime | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """A task's result.

    Attributes:
        states: snapshots to keep, in order; the last is the twin's present state.
    """

    states: tuple[TwinState, ...]
    effects: Effects
    rewound_to: datetime | None


def goes_on(state: TwinState, new: Sequence[Accepted]) -> bool:
    """Whether new events only follow what the twin has folded, so that nothing must be taken back."""
    return only_adds(state, new) and all(state.last is None or fold_key(event) > state.last for event in new)


def only_adds(state: TwinState, new: Sequence[Accepted]) -> bool:
    """Whether new events, early or late, change nothing of what is known but add to it."""
    if state.guarded:
        return False
    reports = set(state.reports)
    for event in new:
        if isinstance(event, Correction | Consent | Arrival):
            return False
        name = report_name(event.header)
        if name is not None:
            if name in reports or event.header.status == "entered-in-error":
                return False
            reports.add(name)
    return True


def forward_task(state: TwinState, new: Sequence[Accepted]) -> Task:
    """The task of a twin whose new events only follow (`goes_on`)."""
    return Task(state, tuple(in_force(new, state.twin_id)))


def rewind_start(new: Sequence[Accepted], journal: Sequence[Accepted]) -> datetime:
    """Clinical time before which a snapshot must lie for the new events to be folded."""
    return rewind_time(new, journal)


def rewind_task(
    snapshot: TwinState, new: Sequence[Accepted], journal: Sequence[Accepted], since: datetime | None
) -> Task:
    """The task of a twin that starts again from a snapshot.

    Args:
        snapshot: from before `rewind_start`, or an empty state.
        journal: all that is known of the patient; ``new`` may be part of it.
        since: `rewind_start`, or None where the fold starts anew for another reason (a new model version).
    """
    known = [*journal, *new]
    items = [
        item
        for item in in_force(known, snapshot.twin_id)
        if snapshot.last is None or fold_key(item) > snapshot.last
    ]
    return Task(replace(snapshot, guarded=needs_guard(known)), tuple(items), since)


def late_task(
    snapshot: TwinState, new: Sequence[Accepted], journal: Sequence[Accepted], since: datetime
) -> Task:
    """The task of a twin whose new events are late and only add (`only_adds`): a part of the journal is enough.

    Args:
        journal: what is known from the snapshot's clinical time on, and every correction. Of a result that was reported
            before that time too, the snapshot knows which report stands: it has folded it, or it would not be in
            force.
    """
    items = [
        item
        for item in in_force([*journal, *new], snapshot.twin_id, whole=False)
        if (snapshot.last is None or fold_key(item) > snapshot.last)
        and report_name(item.header) not in snapshot.reports
    ]
    # The snapshot may be from a time when a correction still waited.
    return Task(replace(snapshot, guarded=False), tuple(items), since)


def perform(binding: Binding, tasks: Sequence[Task]) -> list[Outcome]:
    """Fold every task's items; rounds end where a snapshot is due, so all twins of a round share one kernel call."""
    states = [task.state for task in tasks]
    stops = [kept_within(task.state.n_folded, task.state.n_folded + len(task.items)) for task in tasks]
    kept: list[list[TwinState]] = [[] for _ in tasks]
    estimates: list[list[Effects]] = [[] for _ in tasks]
    position = [0] * len(tasks)
    while True:
        turn, batches = [], []
        for i, task in enumerate(tasks):
            if position[i] < len(task.items):
                room = stops[i][len(kept[i])] - states[i].n_folded
                batches.append(task.items[position[i] : position[i] + room])
                position[i] += len(batches[-1])
                turn.append(i)
        if not turn:
            break
        for i, (state, effects) in zip(
            turn, advance(binding, [states[i] for i in turn], batches), strict=True
        ):
            states[i] = state
            estimates[i].append(effects)
            if position[i] < len(tasks[i].items):
                kept[i].append(state)
    return [
        Outcome(
            (*kept[i], states[i]),
            _new_effects(estimates[i], task.rewound_to),
            task.rewound_to,
        )
        for i, task in enumerate(tasks)
    ]


def _new_effects(folded: Sequence[Effects], since: datetime | None) -> Effects:
    """What a fold is to write down; what lies before the time from which it takes beliefs back stands already."""
    estimates = tuple(e for effects in folded for e in effects.estimates)
    alerts = tuple(a for effects in folded for a in effects.alerts)
    if since is None:
        return Effects(estimates, alerts)
    return Effects(
        tuple(e for e in estimates if moment(e.time) >= since), tuple(a for a in alerts if moment(a.time) >= since)
    )


def handle(binding: Binding, state: TwinState, event: Accepted) -> tuple[TwinState, Effects]:
    """Fold one event into one twin: the batch of one, for callers that hold a single patient.

    Args:
        event: after ``state.last`` in fold order (see `goes_on`).
    """
    [outcome] = perform(binding, [forward_task(state, [event])])
    return outcome.states[-1], outcome.effects
