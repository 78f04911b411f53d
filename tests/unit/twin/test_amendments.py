"""What corrections make of events, against a plain reading of the rules."""

from __future__ import annotations

import random
from collections import defaultdict
from itertools import permutations

import pytest

from oncotwin.domain.amendment import Accepted
from oncotwin.testing.patients import accepted, consent, correction, diameter
from oncotwin.twin.amendments import moved, settle, waiting
from oncotwin.twin.journal import in_force, may_be_learnt_from, needs_guard, rewind_time


def replacement(day: float, mm: float) -> dict[str, object]:
    [event] = accepted([diameter("x", day, mm)])
    return {
        "type": "org.oncotwin.lesion.measured.v1", "time": event.header.time.isoformat(),
        "data": {"lesion": "L1", "kind": "longest_diameter", "value": mm, "unit": "mm"},
    }


def ids(*lines: bytes) -> list[tuple[str, float | None]]:
    return [(item.header.event_id, getattr(item, "value", None)) for item in in_force(accepted(lines), "H1/p1")]


def test_the_correction_recorded_last_counts() -> None:
    event = diameter("m", 0, 20)
    first = correction("a", 10, "m", "replace", replacement=replacement(0, 30))
    second = correction("b", 11, "m", "replace", replacement=replacement(5, 40))
    assert ids(event, first, second) == ids(second, first, event) == [("m", 40)]
    assert ids(event, first, second, correction("c", 12, "b", "retract")) == [("m", 30)]
    assert ids(event, first, second, correction("c", 12, "m", "retract")) == []


def test_a_correction_waits_for_its_event() -> None:
    early = correction("a", 10, "m", "replace", replacement=replacement(0, 30))
    assert ids(early) == [] and needs_guard(accepted([early]))
    assert ids(early, diameter("m", 0, 20)) == [("m", 30)]


def test_corrections_that_wait_are_listed() -> None:
    early, later = (correction(name, day, "m", "retract") for name, day in (("a", 10), ("b", 11)))
    taken_back = correction("c", 12, "b", "retract")

    def names(*lines: bytes) -> list[str]:
        return [one.header.event_id for one in waiting(accepted(lines))]

    assert names(early) == ["a"] and names(early, diameter("m", 0, 20)) == []
    assert names(later, early) == ["b"], "of several the one that would count"
    assert names(later, early, taken_back) == ["a"]
    assert names(taken_back) == ["c"]


@pytest.mark.parametrize(("n", "left"), [(1, 0), (2, 1), (3, 0), (4, 1), (5, 0)])
def test_a_chain_of_corrections_stands_or_falls_with_its_end(n: int, left: int) -> None:
    # Recorded in the wrong order on purpose: what corrects a correction counts whenever it was recorded.
    chain = [correction(f"c{i}", 100 - i, "m" if i == 0 else f"c{i - 1}", "retract") for i in range(n)]
    for order in permutations([diameter("m", 0, 20), *chain]) if n < 4 else [[diameter("m", 0, 20), *chain]]:
        assert len(ids(*order)) == left


def test_in_a_circle_the_one_recorded_last_stands() -> None:
    circle = [correction("a", 10, "b", "retract"), correction("b", 11, "a", "retract"), diameter("m", 0, 20)]
    assert ids(*circle) == [("m", 20)]
    circle_of_three = (("a", 10, "b"), ("b", 11, "c"), ("c", 12, "a"))
    three = [correction(one, day, other, "retract") for one, day, other in circle_of_three]
    _, moves = settle(accepted([*three, diameter("m", 0, 20)]))
    assert moves == {} and ids(*three, diameter("m", 0, 20)) == [("m", 20)]


def test_consent_that_was_sent_in_error_has_no_effect() -> None:
    lines = [diameter("m0", 0, 20), diameter("m9", 90, 20), consent("w", 30, "withdrawn")]
    assert ids(*lines) == [("m0", 20)]
    retracted = [*lines, correction("c", 40, "w", "retract")]
    assert ids(*retracted) == [("m0", 20), ("m9", 20)]
    assert may_be_learnt_from(accepted(retracted)) and not may_be_learnt_from(accepted(lines))


def by_twin(lines: list[bytes]) -> dict[str, list[Accepted]]:
    found: dict[str, list[Accepted]] = defaultdict(list)
    for event in accepted(lines):
        found[event.header.twin_id].append(event)
    return found


def test_what_is_moved_is_what_it_had_been_corrected_to() -> None:
    lines = [
        diameter("m", 0, 20), correction("a", 10, "m", "replace", replacement=replacement(3, 30)),
        correction("b", 11, "m", "wrong_patient", right_patient="H1/p2"),
    ]
    journals = moved(by_twin(lines))
    assert in_force(journals["H1/p1"], "H1/p1") == []
    [item] = in_force(journals["H1/p2"], "H1/p2")
    assert (item.header.key, item.header.twin_id) == (("urn:oncotwin:H1:ris", "m"), "H1/p2")
    assert getattr(item, "value", None) == 30


def test_patients_who_send_an_event_to_each_other_come_to_an_end() -> None:
    lines = [diameter("m", 0, 20)]
    for n in range(7):
        here, there = (1, 2) if n % 2 == 0 else (2, 1)
        lines.append(
            correction(f"c{n}", 10 + n, "m", "wrong_patient", right_patient=f"H1/p{there}", patient=f"H1/p{here}")
        )
    for seed in range(5):
        random.Random(seed).shuffle(lines)
        journals = moved(by_twin(lines))
        counts = {name: len(in_force(journals[name], name)) for name in ("H1/p1", "H1/p2")}
        # The last word, recorded by the first patient, is that it belongs to the second.
        assert counts == {"H1/p1": 0, "H1/p2": 1}


def test_a_fold_starts_before_everything_that_hangs_together() -> None:
    [*journal, new] = accepted(
        [
            diameter("m", 100, 20, result="R1"), diameter("r", 50, 22, result="R1"),
            correction("a", 110, "m", "replace", replacement=replacement(70, 30)), correction("b", 120, "a", "retract"),
        ]
    )
    assert rewind_time([new], journal) == journal[1].header.time
