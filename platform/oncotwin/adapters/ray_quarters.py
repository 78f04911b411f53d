"""Which actor a twin's events go to: its own, or one that stands in while its own comes up again.

A node's loss takes many actors at once. To start them all together is slow: a process that hosts twins takes several
seconds of processor before it folds anything. So they begin one after the other, and whoever is up serves the twins of
those that are not: any actor can, for a shard is a cache of the store. A twin goes home once its own actor has begun
and nothing of it awaits a commit, for until then only the memory of its host has that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Container

from oncotwin.domain.ids import TwinId


class Quarters:
    """Where each twin is, and which actors lost their node; not thread-safe."""

    def __init__(self) -> None:
        self._of_twin: dict[TwinId, str] = {}
        self._nodes: dict[str, str] = {}
        # Actors without a node, and who stands in for each; "" where nobody does yet.
        self._homeless: dict[str, str] = {}
        self.rising: str | None = None
        """The homeless actor that is being started; one at a time."""

    def begun(self, name: str, node: str) -> None:
        """An actor gave a sign of life on a node; its twins go home."""
        self._nodes[name] = node
        self._homeless.pop(name, None)
        self.gone(name)

    def gone(self, name: str) -> None:
        """An actor is lost, or asleep; one that was being started may be again."""
        if self.rising == name:
            self.rising = None

    def where(self, twin_id: TwinId) -> str | None:
        """The actor that a twin's last events went to."""
        return self._of_twin.get(twin_id)

    def nodes_lost(self, alive: Container[str]) -> list[str]:
        """Names of the actors whose node is not among these; they are homeless from now on."""
        lost = [name for name, node in self._nodes.items() if node not in alive]
        for name in lost:
            del self._nodes[name]
            self._homeless.setdefault(name, "")
            self.gone(name)
        return lost

    def lodge(self, twin_id: TwinId, own: str, awaits: bool, up: Collection[str], starting: Collection[str]) -> str:
        """The actor that gets a twin's next events.

        Args:
            own: the actor that it belongs to.
            awaits: whether a fold of it is not committed yet.
            up, starting: actors that have begun, and those of which nobody knows yet.
        """
        was = self._of_twin.get(twin_id, own)
        stays = awaits and was != own and (was in up or was in starting)
        name = was if stays else self._stand_in(own, up, starting) if own in self._homeless else own
        self._of_twin[twin_id] = name
        return name

    def _stand_in(self, own: str, up: Collection[str], starting: Collection[str]) -> str:
        """Who serves the twins of a homeless actor: the same as before, else who serves the fewest others."""
        chosen = self._homeless[own]
        if chosen in up or chosen in starting:
            return chosen
        others = [name for name in up or starting if name != own]
        if others:
            guests = Counter(self._homeless.values())
            self._homeless[own] = min(others, key=lambda name: guests[name])
            return self._homeless[own]
        # Nobody is there: it begins itself, and serves the others of its node.
        del self._homeless[own]
        return own

    def next_to_rise(self, wanted: Collection[str]) -> str | None:
        """A homeless actor to start now, of those whose twins have events; None while another starts."""
        if self.rising is None:
            self.rising = next((name for name in wanted if name in self._homeless), None)
            return self.rising
        return None
