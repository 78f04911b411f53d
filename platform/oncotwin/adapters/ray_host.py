"""Twins as Ray actors: one actor hosts ``twins_per_actor`` twins, found by name in the Ray dashboard.

With ``twins_per_actor = 1`` the actor of a patient is named ``<institution>/<patient>``; with more, an actor is named
after the ordinals that it hosts, ``twins 0-63``. Actors are caches of the store: any may die at any moment. Ray
starts none again and retries no call (``max_restarts = 0``, ``max_task_retries = 0``): the worker delivers again what
was not committed, and what it is delivered to begins then. After the loss of a node, see `Quarters`.
"""

from __future__ import annotations

import copyreg
import os
import pickle
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.metrics import Counter, Gauge, Histogram

from oncotwin.adapters.garbage import collect_rarely
from oncotwin.adapters.ray_quarters import Quarters
from oncotwin.domain.errors import HostLostError
from oncotwin.domain.header import EventHeader
from oncotwin.domain.ids import TwinId
from oncotwin.domain.observation import Observation
from oncotwin.domain.treatment import Treatment
from oncotwin.ports.twin_host import Delivery, Folded
from oncotwin.ports.twin_rows import AlertRow, EstimateRow, SnapshotRow
from oncotwin.twin.shard import TwinShard

NAMESPACE = "oncotwin"

_START_S = 300.0
"""How long a process may take to begin; on a machine that was too busy by far it took a minute."""
_MORE_S = 0.5
"""Added to an actor's patience for each delivery: under a new model version each is its whole journal folded again."""

ShardFactory = Callable[[str], TwinShard]
"""Builds a shard in the actor's own process, from the model version to follow."""


def _send_by_fields(kind: type[Any]) -> None:
    """Pickle a frozen dataclass as its constructor's arguments: by its own method it takes five times as long."""
    values = attrgetter(*(one.name for one in fields(kind)))
    copyreg.pickle(kind, lambda item: (kind, values(item)))


# What travels for every event, there and back; all have several fields.
for _kind in (Delivery, EventHeader, Observation, Treatment, Folded, SnapshotRow, EstimateRow, AlertRow):
    _send_by_fields(_kind)


class TwinActor:
    """The actor class: a shard, its metrics, and the sleep of the idle."""

    def __init__(self, make_shard: ShardFactory, version: str, label: str) -> None:
        collect_rarely()
        self._make_shard = make_shard
        self._version = version
        self._shard = make_shard(version)
        self._n_twins = 0
        self._live = Gauge("oncotwin_live_twins", "Twins in memory", tag_keys=("actor",))
        self._live.set_default_tags({"actor": label})
        self._events = Counter("oncotwin_events", "Events folded")
        self._alerts = Counter("oncotwin_alerts", "Alerts raised")
        self._latency = Histogram(
            "oncotwin_assimilation_seconds", "Time to fold one delivery batch",
            boundaries=[0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10],
        )
        self._nis = Histogram(
            "oncotwin_nis", "Normalised innovation squared", boundaries=[0.1, 0.5, 1, 2, 4, 8, 16, 32]
        )

    def fold(self, version: str, packed: bytes) -> NDArray[np.uint8]:
        """Fold deliveries under a model version; takes a pickled list of `Delivery`, gives one of `Folded`.

        The answer is an array of bytes, which Ray shares with the asking process without copying.
        """
        deliveries: list[Delivery] = pickle.loads(packed)
        if version != self._version:
            self._shard.close()
            self._shard = self._make_shard(version)
            self._version = version
        begun = time.perf_counter()
        folded = self._shard.fold(deliveries)
        self._latency.observe(time.perf_counter() - begun)
        self._events.inc(max(1, sum(len(delivery.events) for delivery in deliveries)))
        n_alerts = sum(len(one.alerts) for one in folded)
        if n_alerts:
            self._alerts.inc(n_alerts)
        for one in folded:
            for estimate in one.estimates[-1:]:
                if estimate.nis is not None:
                    self._nis.observe(max(estimate.nis, 1e-9))
        if self._shard.n_twins != self._n_twins:
            self._n_twins = self._shard.n_twins
            self._live.set(self._n_twins)
        return np.frombuffer(pickle.dumps(folded, pickle.HIGHEST_PROTOCOL), dtype=np.uint8)

    def follow(self, make_shard: ShardFactory, version: str) -> None:
        """Build shards in another way from now on: that of a version which was promoted after the actor began."""
        self._make_shard = make_shard
        if version != self._version:
            fresh = make_shard(version)
            self._shard.close()
            self._shard = fresh
            self._version = version

    def forget(self, twin_ids: list[TwinId]) -> None:
        """Drop twins from memory."""
        self._shard.forget(twin_ids)

    def node(self) -> str:
        """Id of the node that it is on: a sign of life."""
        return str(ray.get_runtime_context().get_node_id())

    def pid(self) -> int:
        """Process id, for those who want to see it die."""
        return os.getpid()


@dataclass(slots=True)
class _Ticket:
    """Folds under way on several actors, results in the order of the deliveries.

    Attributes:
        parts: name of the actor, places of its deliveries, reference to its answer; n: deliveries.
        begun: waits for an actor's sign of life, where it may not have begun yet.
        lost: told the name of an actor that did not answer, and whether it may still be at it.
        patience_s: longest wait for an actor once it has begun; `_MORE_S` more for each delivery.
    """

    parts: list[tuple[str, list[int], Any]]
    begun: Callable[[str], None]
    n: int
    lost: Callable[[str, bool], None]
    patience_s: float

    def result(self) -> list[Folded]:
        """Wait for all actors.

        Raises:
            HostLostError: an actor died, or hangs.
        """
        found: list[Folded | None] = [None] * self.n
        for name, places, reference in self.parts:
            patience_s = self.patience_s + _MORE_S * len(places)
            try:
                self.begun(name)
                answers: list[Folded] = pickle.loads(ray.get(reference, timeout=patience_s))
            except GetTimeoutError as error:
                self.lost(name, True)
                raise HostLostError(
                    f"a twin actor did not begin in {_START_S:.0f} s, or did not answer in {patience_s:.0f} s, and was "
                    "ended; nothing of its batch was committed, the worker delivers it again"
                ) from error
            except RayError as error:
                self.lost(name, False)
                raise HostLostError(
                    f"a twin actor was lost ({type(error).__name__}); nothing of its batch was committed, "
                    "the worker delivers it again"
                ) from error
            for place, answer in zip(places, answers, strict=True):
                found[place] = answer
        return [one for one in found if one is not None]


class RayHost:
    """Spreads deliveries over named actors; creates them when first needed and puts idle ones to sleep."""

    def __init__(
        self, make_shard: ShardFactory, version: str, *, twins_per_actor: int, idle_actor_s: float,
        clock: Callable[[], float] = time.monotonic, make_factory: Callable[[str], ShardFactory] | None = None,
        fold_timeout_s: float = 120.0,
    ) -> None:
        self._make_shard = make_shard
        self._make_factory = make_factory
        self._version = version
        # What actors that began under another version were told to follow; None while no other was promoted.
        self._told: dict[str, str] | None = None
        self._k = twins_per_actor
        self._idle_s = idle_actor_s
        self._clock = clock
        self._patience_s = fold_timeout_s
        self._actors: dict[str, Any] = {}
        self._used: dict[str, float] = {}
        self._quarters = Quarters()
        # References to the sign of life of actors that may not have begun yet.
        self._starting: dict[str, Any] = {}
        # One thread submits, another asks for results, and hears of losses.
        self._lock = threading.RLock()
        self._remote = ray.remote(TwinActor)

    def actor_name(self, twin_id: TwinId, ordinal: int) -> str:
        """Name of the actor that hosts a twin."""
        if self._k == 1:
            return twin_id
        first = ordinal // self._k * self._k
        return f"twins {first}-{first + self._k - 1}"

    def _actor(self, name: str) -> Any:
        actor: Any = self._actors.get(name)
        if actor is None:
            # A sliver of a processor: an actor waits for events most of its life.
            actor = self._remote.options(
                name=name, namespace=NAMESPACE, get_if_exists=True, num_cpus=0.001, max_restarts=0,
                max_task_retries=0,
            ).remote(self._make_shard, self._version, name if self._k > 1 else "patient")
            self._actors[name] = actor
            self._starting[name] = actor.node.remote()
        self._used[name] = self._clock()
        return actor

    def submit(self, deliveries: Sequence[Delivery]) -> _Ticket:
        """Send each actor its deliveries in one call."""
        with self._lock:
            places = self._places(deliveries)
            parts = []
            for name, at in places.items():
                # Pickled here: Ray's own pickler asks Python code about each object, which takes five times as long.
                packed = pickle.dumps([deliveries[place] for place in at], pickle.HIGHEST_PROTOCOL)
                actor = self._actor(name)
                if self._told is not None and self._told.get(name) != self._version:
                    actor.follow.remote(self._make_shard, self._version)
                    self._told[name] = self._version
                parts.append((name, at, actor.fold.remote(self._version, packed)))
            self._sleep_idle()
        return _Ticket(parts, self._begun, len(deliveries), self._lost, self._patience_s)

    def _places(self, deliveries: Sequence[Delivery]) -> dict[str, list[int]]:
        """Names of actors and the places of the deliveries that each gets."""
        if self._quarters.rising is not None:
            self._look_at(self._quarters.rising)
        places: dict[str, list[int]] = defaultdict(list)
        left: dict[str, list[TwinId]] = defaultdict(list)
        own_names: dict[str, None] = {}
        # In order, and quick to look into: each delivery of a homeless actor does.
        starting = dict.fromkeys(name for name in self._starting if name != self._quarters.rising)
        up = dict.fromkeys(name for name in self._actors if name not in self._starting)
        for place, delivery in enumerate(deliveries):
            own = self.actor_name(delivery.twin_id, delivery.ordinal)
            own_names[own] = None
            before = self._quarters.where(delivery.twin_id)
            awaits = delivery.version > delivery.committed
            name = self._quarters.lodge(delivery.twin_id, own, awaits, up, starting)
            if name not in self._actors:
                # It starts now, so that the next one finds it.
                self._actor(name)
                starting[name] = None
            if before is not None and before != name:
                left[before].append(delivery.twin_id)
            places[name].append(place)
        for name, twin_ids in left.items():
            if name in self._actors:
                self._actors[name].forget.remote(twin_ids)
        if (rising := self._quarters.next_to_rise(own_names)) is not None:
            self._actor(rising)
        return places

    def _look_at(self, name: str) -> None:
        """Whether an actor has begun, without waiting for it."""
        reference = self._starting.get(name)
        if reference is None or not ray.wait([reference], timeout=0)[0]:
            return
        try:
            self._begun(name)
        except RayError:
            self._lost(name, False)

    def _begun(self, name: str) -> None:
        """Wait until an actor has begun.

        Raises:
            GetTimeoutError: it does not. RayError: it is lost.
        """
        reference = self._starting.get(name)
        if reference is None:
            return
        node: str = ray.get(reference, timeout=_START_S)
        with self._lock:
            if self._starting.get(name) is reference:
                del self._starting[name]
                self._quarters.begun(name, node)

    def _lost(self, name: str, hangs: bool) -> None:
        """Look an actor up again before its next use: it is gone, or another worker put it to sleep for good.

        With its node, all actors of that node are gone.
        """
        with self._lock:
            actor = self._let_go(name)
            if hangs and actor is not None:
                ray.kill(actor)
            list_nodes: Callable[[], list[dict[str, Any]]] = ray.nodes
            for other in self._quarters.nodes_lost({node["NodeID"] for node in list_nodes() if node["Alive"]}):
                self._let_go(other)

    def _let_go(self, name: str) -> Any:
        """Forget how to reach an actor, and whatever was known of it."""
        self._quarters.gone(name)
        self._starting.pop(name, None)
        self._used.pop(name, None)
        if self._told is not None:
            self._told.pop(name, None)
        return self._actors.pop(name, None)

    def follow(self, version: str) -> None:
        """Fold under another model version from now on; actors get to know of it before their next fold."""
        if version != self._version:
            if self._make_factory is not None:
                self._make_shard = self._make_factory(version)
            self._version = version
            self._told = self._told or {}

    def forget(self, twin_ids: Iterable[TwinId]) -> None:
        """Drop twins from the actors' memory."""
        with self._lock:
            by_actor: dict[str, list[TwinId]] = defaultdict(list)
            for twin_id in twin_ids:
                if (name := self._quarters.where(twin_id)) is not None:
                    by_actor[name].append(twin_id)
            for name, ids in by_actor.items():
                if name in self._actors:
                    self._actors[name].forget.remote(ids)

    def _sleep_idle(self) -> None:
        """Let go of actors that nobody used for long; their twins wake from the store."""
        now = self._clock()
        for name in [name for name, used in self._used.items() if now - used > self._idle_s]:
            ray.kill(self._let_go(name))

    @property
    def n_actors(self) -> int:
        """Actors awake."""
        return len(self._actors)

    def close(self) -> None:
        """Let all actors go."""
        for actor in self._actors.values():
            ray.kill(actor)
        self._actors.clear()
        self._used.clear()
