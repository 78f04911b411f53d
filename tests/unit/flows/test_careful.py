"""Poison that ends its host is found by folding alone; a host that is only away convicts nobody."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import pytest

from oncotwin.domain.errors import HostLostError
from oncotwin.ports.twin_host import Delivery, Folded, FoldTicket
from oncotwin.testing.patients import accepted, diameter
from oncotwin_flows.careful import SIGN_OF_LIFE_S, CarefulHost


class FakeClock:
    """Time passes only by sleeping."""

    def __init__(self) -> None:
        self.time_s = 0.0

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.time_s, UTC)

    def monotonic(self) -> float:
        return self.time_s

    def sleep(self, seconds: float) -> None:
        self.time_s += seconds


class Answer:
    """A fold that is done, or was lost."""

    def __init__(self, folded: list[Folded] | None) -> None:
        self._folded = folded

    def result(self) -> list[Folded]:
        if self._folded is None:
            raise HostLostError("gone")
        return self._folded


class MortalHost:
    """One process that remembers twins by version, dies of some events, and comes back after some calls.

    Attributes:
        folded: event ids of each call that was answered.
    """

    def __init__(self, poison: Iterable[str] = (), n_calls_down: int = 0, dies_at: Iterable[int] = ()) -> None:
        self.poison = set(poison)
        self.n_calls_down = n_calls_down
        self.dies_at = set(dies_at)
        self.folded: list[list[str]] = []
        self.n_deaths = 0
        self._n_calls = 0
        self._down_for = 0
        self._held: dict[str, int] = {}

    def submit(self, deliveries: Sequence[Delivery]) -> Answer:
        self._n_calls += 1
        if self._down_for > 0:
            self._down_for -= 1
            return Answer(None)
        for delivery in deliveries:
            if self._held.get(delivery.twin_id, delivery.committed) != delivery.version > delivery.committed:
                return Answer(None)
        ids = [event.header.event_id for delivery in deliveries for event in delivery.events]
        if self._n_calls in self.dies_at or self.poison & set(ids):
            self._held.clear()
            self.n_deaths += 1
            self._down_for = self.n_calls_down
            return Answer(None)
        self._held.update({delivery.twin_id: delivery.version + 1 for delivery in deliveries})
        self.folded.append(ids)
        return Answer([Folded(delivery.twin_id, (), (), (), None, ()) for delivery in deliveries])

    def forget(self, twin_ids: Iterable[str]) -> None:
        for twin_id in twin_ids:
            self._held.pop(twin_id, None)

    def follow(self, version: str) -> None:
        raise AssertionError(f"{version}: no test here promotes a version")

    def close(self) -> None:
        self.poison = set()


def delivery(twin: int, *ids: str, version: int = 0, committed: int = 0) -> Delivery:
    items = accepted([diameter(name, 40.0 * n, 20.0, patient=f"H1/p{twin}") for n, name in enumerate(ids)])
    return Delivery(f"H1/p{twin}", twin, version, committed, tuple(items))


def until_folded(host: CarefulHost, group: Sequence[Delivery], n_lost: int) -> list[Folded]:
    """Deliver a group as a worker does: again after each loss."""
    for _ in range(n_lost):
        with pytest.raises(HostLostError):
            host.submit(group).result()
        host.forget([one.twin_id for one in group])
    return host.submit(group).result()


@pytest.mark.parametrize("n_calls_down", [0, 3])
def test_the_culprit_alone_is_left_out(n_calls_down: int) -> None:
    inner = MortalHost({"bad"}, n_calls_down)
    announced: list[str] = []
    host = CarefulHost(inner, FakeClock(), announced.append)
    group = [delivery(0, "a", "b"), delivery(1, "c", "bad", "d"), delivery(2, "e")]
    # The second try meets the poison again, or a host that is not back yet.
    folded = until_folded(host, group, 2)
    assert [one.twin_id for one in folded] == ["H1/p0", "H1/p1", "H1/p2"]
    assert [[failure.key[1] for failure in one.failures] for one in folded] == [[], ["bad"], []]
    assert "ended 2 times" in folded[1].failures[0].trace and "gone" in folded[1].failures[0].trace
    assert inner.folded[-2] == ["c", "d"] and inner.folded[-1] == ["e"]
    assert announced == ["poison: lesion.measured bad ends the process that folds it"]
    # Nobody is suspected any more.
    assert host.submit([delivery(0, "f", version=1, committed=1)]).result()[0].failures == ()
    assert inner.folded[-1] == ["f"]


def test_a_twin_all_of_whose_events_are_poison_is_left_as_it_was() -> None:
    host = CarefulHost(MortalHost({"x", "y"}), FakeClock())
    [one] = until_folded(host, [delivery(0, "x", "y")], 2)
    assert [failure.key[1] for failure in one.failures] == ["x", "y"]


def test_one_loss_by_chance_convicts_nobody() -> None:
    # It dies at any two calls in a row, with nothing wrong in what it was given.
    for first in range(1, 12):
        inner = MortalHost(dies_at={1, 2, first + 2})
        host = CarefulHost(inner, FakeClock())
        folded = until_folded(host, [delivery(0, "a", "b"), delivery(1, "c")], 2)
        assert all(one.failures == () for one in folded)


def test_a_host_that_is_away_convicts_nobody() -> None:
    inner, clock = MortalHost({"a"}, n_calls_down=1_000_000), FakeClock()
    host = CarefulHost(inner, clock)
    group = [delivery(0, "a")]
    with pytest.raises(HostLostError, match="gone"):
        until_folded(host, group, 2)
    assert clock.time_s >= SIGN_OF_LIFE_S
    assert inner.n_deaths == 1


def test_groups_behind_a_suspect_wait_for_their_turn() -> None:
    inner = MortalHost({"bad"})
    host = CarefulHost(inner, FakeClock())
    group = [delivery(0, "a"), delivery(1, "bad")]
    for _ in range(2):
        with pytest.raises(HostLostError):
            host.submit(group).result()
        host.forget(["H1/p0", "H1/p1"])
    tickets: list[FoldTicket] = [host.submit(group), host.submit([delivery(0, "b", version=1), delivery(2, "c")])]
    before = len(inner.folded)
    assert [len(one.failures) for one in tickets[0].result()] == [0, 1]
    tickets.append(host.submit([delivery(0, "d", version=2)]))
    assert [one.twin_id for one in tickets[1].result()] == ["H1/p0", "H1/p2"]
    assert [one.twin_id for one in tickets[2].result()] == ["H1/p0"]
    assert inner.folded[before:][-2:] == [["b", "c"], ["d"]]
    # With none waiting, folds begin when they are submitted.
    host.submit([delivery(0, "e", version=3, committed=3)])
    assert inner.folded[-1] == ["e"]


def test_only_groups_with_a_suspect_are_folded_alone() -> None:
    inner = MortalHost({"bad"})
    host = CarefulHost(inner, FakeClock())
    for _ in range(2):
        with pytest.raises(HostLostError):
            host.submit([delivery(1, "bad")]).result()
        host.forget(["H1/p1"])
    host.submit([delivery(0, "a"), delivery(2, "b")]).result()
    assert inner.folded == [["a", "b"]]
