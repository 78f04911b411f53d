"""Poison that ends the process it is folded in: found by folding alone, and left out, so that everyone else goes on.

An event that raises in a fold is left out by the shard itself. One that ends its process (a fault in compiled code, the
memory's end) takes the answer with it, and the worker only learns that a host was lost. Here the events that were with
it are remembered. Where some were lost twice, their group is folded one twin at a time, and a twin whose host is lost
again is folded event by event. What ends a host twice, alone, with a sign of life of that host before each time, is
poison and becomes a failure; a host that gives no sign of life proves nothing about an event.
"""

from __future__ import annotations

import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from enum import Enum

from oncotwin.domain.amendment import Accepted
from oncotwin.domain.errors import HostLostError
from oncotwin.domain.ids import EventKey, TwinId
from oncotwin.ports.clock import Clock
from oncotwin.ports.twin_host import Delivery, Failure, Folded, FoldTicket, TwinHost

N_LOSSES = 2
"""Times that a host must be lost with an event before that event is suspected, and again before it is convicted."""

SIGN_OF_LIFE_S = 120.0
"""How long a host may take to come back: a lost node is noticed within fifteen, and an actor is up in ten."""

_PAUSE_S = 0.5


class _Way(Enum):
    """How a group is folded: as it comes, after all before it are committed, or one twin at a time."""

    AT_ONCE = "at once"
    IN_TURN = "in turn"
    ALONE = "alone"


class CarefulHost:
    """A host that survives poison; see the module's docstring.

    A ticket's result must be asked for only when the groups submitted before it are committed, as a worker does: what
    a lost host had in memory is then in the store.

    Args:
        host: where the twins live.
        clock: to wait by while a host comes back.
        announce: told of what was found.
    """

    def __init__(self, host: TwinHost, clock: Clock, announce: Callable[[str], None] | None = None) -> None:
        self._host = host
        self._clock = clock
        self._announce = announce or (lambda text: None)
        # Tickets are asked by the thread that commits.
        self._lock = threading.Lock()
        self._losses: Counter[EventKey] = Counter()
        self._n_in_turn = 0

    def submit(self, deliveries: Sequence[Delivery]) -> FoldTicket:
        """Begin to fold; a group with suspects waits until it is its turn."""
        keys = [event.header.key for delivery in deliveries for event in delivery.events]
        with self._lock:
            suspected = any(self._losses[key] >= N_LOSSES for key in keys) if self._losses else False
            way = _Way.ALONE if suspected else _Way.IN_TURN if self._n_in_turn else _Way.AT_ONCE
            if way is not _Way.AT_ONCE:
                self._n_in_turn += 1
        if way is not _Way.AT_ONCE:
            return _Ticket(self, deliveries, keys, way, None)
        try:
            return _Ticket(self, deliveries, keys, way, self._host.submit(deliveries))
        except HostLostError:
            self.lost(keys)
            raise

    def forget(self, twin_ids: Iterable[TwinId]) -> None:
        """Drop what is remembered of these twins; no group is under way any more."""
        with self._lock:
            self._n_in_turn = 0
        self._host.forget(twin_ids)

    def follow(self, version: str) -> None:
        """Fold under another model version: what broke a host under the one before is tried anew."""
        with self._lock:
            self._losses.clear()
        self._host.follow(version)

    def close(self) -> None:
        """Release the host."""
        self._host.close()

    def lost(self, keys: Iterable[EventKey]) -> None:
        """A host was lost while it folded these events."""
        with self._lock:
            self._losses.update(keys)

    def folded(self, keys: Iterable[EventKey], way: _Way) -> None:
        """These events were folded, or convicted."""
        with self._lock:
            for key in keys:
                self._losses.pop(key, None)
            if way is not _Way.AT_ONCE:
                self._n_in_turn = max(0, self._n_in_turn - 1)

    def fold_now(self, deliveries: Sequence[Delivery]) -> list[Folded]:
        """All at once."""
        return self._host.submit(deliveries).result()

    def fold_alone(self, deliveries: Sequence[Delivery]) -> list[Folded]:
        """One twin at a time.

        Raises:
            HostLostError: a host gives no sign of life.
        """
        return [self._fold_twin(delivery) for delivery in deliveries]

    def _fold_twin(self, delivery: Delivery) -> Folded:
        """One twin's events together; where its host is lost with them, one by one."""
        try:
            return self.fold_now([delivery])[0]
        except HostLostError:
            # Maybe the host was still down from the twin before; the next losses count.
            pass
        several = len(delivery.events) > 1
        found = self._try(delivery, 1 if several else N_LOSSES)
        if isinstance(found, Folded):
            return found
        last: Folded | None = None
        good: list[Accepted] = []
        failures: list[Failure] = []
        for event in delivery.events:
            tried = self._try(replace(delivery, events=(*good, event)), N_LOSSES) if several else found
            if isinstance(tried, Folded):
                good.append(event)
                last = tried
            else:
                failures.append(Failure(event.header.key, tried))
                self._announce(f"poison: {event.header.kind} {event.header.event_id} ends the process that folds it")
        if last is None:
            self._wait_for_life(delivery)
            [last] = self.fold_now([replace(delivery, events=())])
        return replace(last, failures=(*last.failures, *failures))

    def _try(self, delivery: Delivery, n_losses: int) -> Folded | str:
        """Fold one delivery; the trace where its host was lost with it so many times."""
        traces = []
        for _ in range(n_losses):
            self._wait_for_life(delivery)
            try:
                return self.fold_now([delivery])[0]
            except HostLostError as error:
                traces.append("".join(traceback.format_exception(error)))
        return (
            f"the process that folds it ended {n_losses} times, each time within the call and after a sign of life. "
            "Look at the host's own log for a fault in compiled code or the memory's end.\n" + "\n".join(traces)
        )

    def _wait_for_life(self, delivery: Delivery) -> None:
        """Return when the twin's host answers a call that folds nothing.

        Raises:
            HostLostError: it does not for long.
        """
        deadline = self._clock.monotonic() + SIGN_OF_LIFE_S
        while True:
            try:
                self._host.submit([replace(delivery, events=())]).result()
                return
            except HostLostError:
                if self._clock.monotonic() >= deadline:
                    raise
            self._clock.sleep(_PAUSE_S)


class _Ticket:
    """A fold that is under way, or waits for its turn."""

    def __init__(
        self, host: CarefulHost, deliveries: Sequence[Delivery], keys: Sequence[EventKey], way: _Way,
        ticket: FoldTicket | None,
    ) -> None:
        self._host = host
        self._deliveries = deliveries
        self._keys = keys
        self._way = way
        self._ticket = ticket

    def result(self) -> list[Folded]:
        """Wait for it, or fold now that everything before is committed."""
        try:
            if self._ticket is not None:
                found = self._ticket.result()
            else:
                now = [replace(delivery, committed=delivery.version) for delivery in self._deliveries]
                found = self._host.fold_alone(now) if self._way is _Way.ALONE else self._host.fold_now(now)
        except HostLostError:
            self._host.lost(self._keys)
            raise
        self._host.folded(self._keys, self._way)
        return found
