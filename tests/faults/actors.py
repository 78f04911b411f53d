"""Twins' hosts of a simulation: real shards in actors that are lost, late, or shared by workers that race."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from tests.faults.scheduler import Process

from oncotwin.domain.errors import HostLostError
from oncotwin.domain.ids import TwinId
from oncotwin.ports.twin_host import Delivery, Folded
from oncotwin.twin.shard import TwinShard


class Killed(BaseException):
    """The process that folds ends, as by a fault in compiled code."""


@dataclass(eq=False)
class _Call:
    """One call on its way to an actor: deliveries to fold, or twins to forget."""

    version: str
    deliveries: Sequence[Delivery]
    forget: Sequence[TwinId] = ()
    answer: list[Folded] | None = None
    lost: str = ""


@dataclass(eq=False)
class _Actor:
    make_shard: Callable[[str], TwinShard]
    version: str
    shard: TwinShard
    owner: Process
    waiting: list[_Call] = field(default_factory=list)

    def work(self) -> None:
        """Do what is waiting, in the order in which it came."""
        waiting, self.waiting = self.waiting, []
        for call in waiting:
            if call.forget:
                self.shard.forget(call.forget)
                continue
            try:
                if call.version != self.version:
                    self.shard.close()
                    self.shard, self.version = self.make_shard(call.version), call.version
                call.answer = self.shard.fold(call.deliveries)
            except Killed:
                # A restarted actor begins with nothing, and what was waiting is lost too.
                for one in (call, *waiting[waiting.index(call) :], *self.waiting):
                    one.lost = "the actor's process ended"
                self.shard, self.waiting = self.make_shard(self.version), []
                return
            except Exception as error:  # an actor hands what its method raised to whoever asks for the answer
                call.lost = f"{type(error).__name__}: {error}"


class Cluster:
    """Named actors, each owned by the worker that was the first to ask for it: it dies with that worker.

    Args:
        is_lost: asked before each call whether the actor is lost there.
        at_once: asked whether an actor works as soon as it is called, or as late as its answer is awaited.
    """

    def __init__(
        self, twins_per_actor: int, make_shard: Callable[[str], TwinShard], is_lost: Callable[[Process], bool],
        at_once: Callable[[], bool],
    ) -> None:
        self._k = twins_per_actor
        self._make_shard = make_shard
        self._is_lost = is_lost
        self._at_once = at_once
        self._actors: dict[str, _Actor] = {}

    def host(self, process: Process, version: str) -> ClusterHost:
        """A process's way to the actors."""
        return ClusterHost(self, process, version)

    def died(self, process: Process) -> None:
        """A worker died, and its actors with it."""
        for name in [name for name, actor in self._actors.items() if actor.owner is process]:
            self.lose(name)

    def lose(self, name: str) -> None:
        """An actor is lost, with what it remembers and what it was to do."""
        actor = self._actors.pop(name)
        for call in actor.waiting:
            call.lost = "the actor is gone"
        actor.shard.close()

    def call(
        self, process: Process, version: str, deliveries: Sequence[Delivery]
    ) -> list[tuple[str, list[int], _Call]]:
        """Send each actor its share."""
        places: dict[str, list[int]] = defaultdict(list)
        for place, delivery in enumerate(deliveries):
            places[f"twins {delivery.ordinal // self._k}"].append(place)
        calls = []
        for name, at in places.items():
            if name in self._actors and self._is_lost(process):
                self.lose(name)
            if name not in self._actors:
                self._actors[name] = _Actor(self._make_shard, version, self._make_shard(version), process)
            call = _Call(version, [deliveries[place] for place in at])
            self._actors[name].waiting.append(call)
            if self._at_once():
                self._actors[name].work()
            calls.append((name, at, call))
        return calls

    def answer(self, process: Process, name: str, call: _Call) -> list[Folded]:
        """Wait for an actor.

        Raises:
            HostLostError: it was lost, or its method failed.
        """
        if name in self._actors and self._is_lost(process):
            self.lose(name)
        if name in self._actors:
            self._actors[name].work()
        if call.answer is None:
            raise HostLostError(f"actor {name!r} was lost ({call.lost}); nothing of its batch was committed")
        return call.answer

    def forget(self, twin_ids: Iterable[TwinId]) -> None:
        """Tell every actor."""
        names = list(twin_ids)
        for actor in self._actors.values():
            actor.waiting.append(_Call("", (), names))


class ClusterHost:
    """`TwinHost` of one process."""

    def __init__(self, cluster: Cluster, process: Process, version: str) -> None:
        self._cluster = cluster
        self._process = process
        self._version = version

    def submit(self, deliveries: Sequence[Delivery]) -> _Ticket:
        """Send deliveries out."""
        calls = self._cluster.call(self._process, self._version, deliveries)
        return _Ticket(self._cluster, self._process, calls, len(deliveries))

    def follow(self, version: str) -> None:
        """Fold under another model version from now on."""
        self._version = version

    def forget(self, twin_ids: Iterable[TwinId]) -> None:
        """Have actors forget twins; a process that died tells nobody anything."""
        if not self._process.dead:
            self._cluster.forget(twin_ids)

    def close(self) -> None:
        """The actors end with their owner."""


class _Ticket:
    def __init__(
        self, cluster: Cluster, process: Process, calls: list[tuple[str, list[int], _Call]], n: int
    ) -> None:
        self._cluster, self._process, self._calls, self._n = cluster, process, calls, n

    def result(self) -> list[Folded]:
        """Wait for all answers, in the order of the deliveries."""
        found: dict[int, Folded] = {}
        for name, places, call in self._calls:
            found.update(zip(places, self._cluster.answer(self._process, name, call), strict=True))
        return [found[place] for place in range(self._n)]
