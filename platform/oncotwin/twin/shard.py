"""A shard: the twins that one host holds, as a cache of the store."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from oncotwin.domain.amendment import Accepted
from oncotwin.domain.errors import HostLostError, StoreUnavailableError
from oncotwin.domain.ids import TwinId
from oncotwin.ports.twin_host import Delivery, Failure, Folded
from oncotwin.ports.twin_rows import AlertRow, EstimateRow, JournalEntry, SnapshotRow
from oncotwin.twin.fold import Binding
from oncotwin.twin.journal import NOT_FOLDED
from oncotwin.twin.machine import (
    Outcome,
    Task,
    forward_task,
    goes_on,
    late_task,
    only_adds,
    perform,
    rewind_start,
    rewind_task,
)
from oncotwin.twin.rows import alert_row, estimate_row, snapshot_row
from oncotwin.twin.state import TwinState, from_bytes

EVER = datetime(1, 1, 1, tzinfo=UTC)
"""Before any clinical time: everything that was believed is superseded."""


@dataclass(frozen=True, slots=True)
class History:
    """How a shard reads what the store knows.

    Attributes:
        journal: journal rows of a twin, in fold order: all, or those from a clinical time on and all corrections.
        snapshots: the latest valid snapshot of each twin, before a clinical time where one is given.
        decode: a journal row as the validated event that it was.
        close: releases what reading needs.
    """

    journal: Callable[[TwinId, datetime | None], list[JournalEntry]]
    snapshots: Callable[[Sequence[TwinId], datetime | None], dict[TwinId, SnapshotRow]]
    decode: Callable[[JournalEntry], Accepted]
    close: Callable[[], None] = lambda: None


@dataclass(slots=True)
class _Held:
    """A twin in memory and the version that its present state will have once committed.

    Attributes:
        awaiting: deliveries folded but maybe not committed yet: (version made, events, rewound_to). The store does
            not show them, so a fold that starts again adds them to the journal that it reads.
    """

    state: TwinState
    version: int
    owner: str
    awaiting: tuple[tuple[int, tuple[Accepted, ...], datetime | None], ...] = ()


class TwinShard:
    """Folds deliveries for the twins that come its way; not thread-safe, one caller at a time."""

    def __init__(self, binding: Binding, history: History) -> None:
        self._binding = binding
        self._history = history
        self._held: dict[TwinId, _Held] = {}

    @property
    def n_twins(self) -> int:
        """Twins in memory."""
        return len(self._held)

    def close(self) -> None:
        """Release what reading the store needs."""
        self._history.close()

    def forget(self, twin_ids: Iterable[TwinId]) -> None:
        """Drop twins from memory; the store has what was committed."""
        for twin_id in twin_ids:
            self._held.pop(twin_id, None)

    def fold(self, deliveries: Sequence[Delivery]) -> list[Folded]:
        """Fold all deliveries in one batch; where that fails, one by one, then event by event, to find the culprit."""
        self._wake(deliveries)
        try:
            tasks = [self._task(delivery) for delivery in deliveries]
            outcomes = perform(self._binding, tasks)
        except (StoreUnavailableError, HostLostError):
            # No event's fault.
            raise
        except Exception:  # one bad event must not stall the twins beside it
            return [self._fold_alone(delivery) for delivery in deliveries]
        return [self._keep(delivery, outcome, ()) for delivery, outcome in zip(deliveries, outcomes, strict=True)]

    def _wake(self, deliveries: Sequence[Delivery]) -> None:
        """Bring up twins that are not in memory, or not at the version that the caller builds on.

        Raises:
            HostLostError: that version awaits its commit, so only the memory that is gone had it.
        """
        missing = []
        for delivery in deliveries:
            if self._holds(delivery):
                continue
            if delivery.version > delivery.committed:
                raise HostLostError(
                    f"twin {delivery.twin_id}: version {delivery.version} awaits its commit and is not in this host's "
                    "memory any more; deliver again from what is committed"
                )
        for delivery in deliveries:
            if not self._holds(delivery):
                self._held[delivery.twin_id] = _Held(
                    self._empty(delivery.twin_id), delivery.version, delivery.owner
                )
                if delivery.version > 0:
                    missing.append(delivery.twin_id)
            else:
                held = self._held[delivery.twin_id]
                held.awaiting = tuple(entry for entry in held.awaiting if entry[0] > delivery.committed)
        if missing:
            for twin_id, row in self._history.snapshots(missing, None).items():
                self._held[twin_id].state = from_bytes(row.state)

    def _holds(self, delivery: Delivery) -> bool:
        """Whether what is in memory is what the delivery builds on."""
        held = self._held.get(delivery.twin_id)
        return held is not None and (held.version, held.owner) == (delivery.version, delivery.owner)

    def _empty(self, twin_id: TwinId) -> TwinState:
        return TwinState(twin_id, self._binding.version)

    def _task(self, delivery: Delivery) -> Task:
        """Go on where the events only follow; else start again from a snapshot before the earliest change."""
        held = self._held[delivery.twin_id]
        current = held.state.model_version == self._binding.version
        if current and goes_on(held.state, delivery.events):
            return forward_task(held.state, delivery.events)
        if not current:
            return rewind_task(self._empty(delivery.twin_id), delivery.events, self._journal(delivery, held), EVER)
        if not delivery.events:
            return forward_task(held.state, ())
        if only_adds(held.state, delivery.events):
            before = self._before(held, min(event.header.time for event in delivery.events))
            snapshot = self._snapshot(delivery, before)
            since = None if snapshot.last is None else snapshot.last[0]
            return late_task(snapshot, delivery.events, self._journal(delivery, held, since), before)
        journal = self._journal(delivery, held)
        before = self._before(held, rewind_start(delivery.events, journal))
        return rewind_task(self._snapshot(delivery, before), delivery.events, journal, before)

    @staticmethod
    def _before(held: _Held, since: datetime) -> datetime:
        """Snapshots in the store do not know yet what folds that await their commit have taken back."""
        return min([since, *(rewound for _, _, rewound in held.awaiting if rewound is not None)])

    def _snapshot(self, delivery: Delivery, before: datetime) -> TwinState:
        """The latest snapshot before a clinical time, or an empty state."""
        rows = self._history.snapshots([delivery.twin_id], before) if delivery.committed > 0 else {}
        row = rows.get(delivery.twin_id)
        fits = row is not None and row.model_version == self._binding.version
        return from_bytes(row.state) if row is not None and fits else self._empty(delivery.twin_id)

    def _journal(self, delivery: Delivery, held: _Held, since: datetime | None = None) -> list[Accepted]:
        """What is known of a patient before a delivery: what the store has, and what awaits its commit."""
        rows = self._history.journal(delivery.twin_id, since) if delivery.committed > 0 else []
        journal = [self._history.decode(row) for row in rows if row.kind not in NOT_FOLDED]
        journal.extend(event for _, events, _ in held.awaiting for event in events)
        return journal

    def _fold_alone(self, delivery: Delivery) -> Folded:
        """One twin's delivery; where it fails, its events one at a time, leaving out those that cannot be folded."""
        try:
            [outcome] = perform(self._binding, [self._task(delivery)])
            return self._keep(delivery, outcome, ())
        except StoreUnavailableError:
            raise
        except Exception:  # the events are tried again, each with those that were good before it
            pass
        good: list[Accepted] = []
        failures: list[Failure] = []
        for event in delivery.events:
            try:
                perform(self._binding, [self._task(replace(delivery, events=(*good, event)))])
                good.append(event)
            except StoreUnavailableError:
                raise
            except Exception:  # whatever the event broke, it is kept with its trace as a dead letter
                failures.append(Failure(event.header.key, traceback.format_exc()))
        [outcome] = perform(self._binding, [self._task(replace(delivery, events=tuple(good)))])
        return self._keep(delivery, outcome, tuple(failures))

    def _keep(self, delivery: Delivery, outcome: Outcome, failures: tuple[Failure, ...]) -> Folded:
        version = delivery.version + 1
        failed = {failure.key for failure in failures}
        events = tuple(event for event in delivery.events if event.header.key not in failed)
        awaiting = (*self._held[delivery.twin_id].awaiting, (version, events, outcome.rewound_to))
        self._held[delivery.twin_id] = _Held(outcome.states[-1], version, delivery.owner, awaiting)
        return folded(delivery.twin_id, outcome, failures)


def folded(twin_id: TwinId, outcome: Outcome, failures: tuple[Failure, ...]) -> Folded:
    """An outcome as rows of the store."""
    snapshots = tuple(snapshot_row(state) for state in outcome.states)
    estimates: tuple[EstimateRow, ...] = tuple(
        estimate_row(twin_id, outcome.states[-1].model_version, estimate) for estimate in outcome.effects.estimates
    )
    alerts: tuple[AlertRow, ...] = tuple(alert_row(twin_id, alert) for alert in outcome.effects.alerts)
    return Folded(twin_id, snapshots, estimates, alerts, outcome.rewound_to, failures)
