"""Who hosts a twin while its own actor is away; no Ray in it."""

from __future__ import annotations

from oncotwin.adapters.ray_quarters import Quarters


def housed() -> Quarters:
    """Actors a and b on one node, c on another, each with a twin of its name in capitals."""
    quarters = Quarters()
    for name, node in (("a", "one"), ("b", "one"), ("c", "two")):
        assert quarters.lodge(name.upper(), name, False, [], [name]) == name
        quarters.begun(name, node)
    return quarters


def test_a_twin_belongs_to_its_own_actor() -> None:
    quarters = housed()
    assert quarters.where("A") == "a"
    assert quarters.lodge("A", "a", True, ["a", "b", "c"], []) == "a"
    assert quarters.nodes_lost({"one", "two"}) == []
    assert quarters.next_to_rise(["a", "b", "c"]) is None


def test_whoever_is_up_stands_in_for_a_lost_node() -> None:
    quarters = housed()
    assert quarters.nodes_lost({"two"}) == ["a", "b"]
    assert [quarters.lodge(twin, twin.lower(), False, ["c"], []) for twin in "ABC"] == ["c", "c", "c"]
    assert quarters.nodes_lost({"two"}) == []


def test_the_homeless_are_spread_and_stay_where_they_are() -> None:
    quarters = housed()
    quarters.begun("d", "two")
    quarters.nodes_lost({"two"})
    first = [quarters.lodge(twin, twin.lower(), False, ["c", "d"], []) for twin in "AB"]
    assert sorted(first) == ["c", "d"]
    assert [quarters.lodge(twin, twin.lower(), False, ["d", "c"], []) for twin in "AB"] == first


def test_where_all_are_lost_the_first_begins_and_serves_the_others() -> None:
    quarters = housed()
    assert quarters.nodes_lost(set()) == ["a", "b", "c"]
    assert quarters.lodge("B", "b", False, [], []) == "b"
    assert quarters.lodge("A", "a", False, [], ["b"]) == "b"
    assert quarters.lodge("C", "c", False, [], ["b"]) == "b"


def test_one_actor_rises_at_a_time_and_its_twins_go_home() -> None:
    quarters = housed()
    quarters.nodes_lost({"two"})
    assert quarters.next_to_rise(["c", "b", "a"]) == "b"
    assert quarters.next_to_rise(["a"]) is None
    assert quarters.lodge("B", "b", False, ["c"], ["b"]) == "c"
    quarters.begun("b", "two")
    assert quarters.lodge("B", "b", False, ["b", "c"], []) == "b"
    assert quarters.next_to_rise(["b"]) is None
    assert quarters.next_to_rise(["a", "b"]) == "a"


def test_a_twin_with_an_open_commit_stays_with_whom_has_it_in_memory() -> None:
    quarters = housed()
    quarters.nodes_lost({"two"})
    assert quarters.lodge("A", "a", False, ["c"], []) == "c"
    quarters.begun("a", "two")
    assert quarters.lodge("A", "a", True, ["a", "c"], []) == "c"
    assert quarters.lodge("A", "a", False, ["a", "c"], []) == "a"


def test_a_stand_in_that_is_lost_is_replaced() -> None:
    quarters = housed()
    quarters.begun("d", "two")
    quarters.nodes_lost({"two"})
    [chosen] = {quarters.lodge("A", "a", False, ["c"], [])}
    assert chosen == "c"
    assert quarters.lodge("A", "a", True, ["d"], []) == "d"


def test_one_that_falls_while_it_rises_is_tried_again() -> None:
    quarters = housed()
    quarters.nodes_lost({"two"})
    assert quarters.next_to_rise(["a"]) == "a"
    quarters.gone("a")
    assert quarters.lodge("A", "a", False, ["c"], []) == "c"
    assert quarters.next_to_rise(["a"]) == "a"
