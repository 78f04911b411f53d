"""Events posted to the wrong patient, through the whole path."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

import pytest
from tests.integration.site import Site, as_record, digests, replayed

from oncotwin.domain.amendment import Accepted
from oncotwin.ports.twin_host import Delivery
from oncotwin.testing.memory_history import MemoryHistory
from oncotwin.testing.patients import NOW, accepted, correction, diameter
from oncotwin.twin.amendments import moved
from oncotwin.twin.journal import in_force
from oncotwin.twin.replay import believe
from oncotwin.twin.shard import TwinShard
from oncotwin.twin.state import from_bytes, to_bytes
from oncotwin_flows.moves import moved_rows


def n_folded(site: Site, twin_id: str) -> int:
    return believe(site.binding, twin_id, site.store.journal(twin_id)).state.n_folded


@pytest.mark.parametrize("first", ["event", "correction", "together"])
def test_wrong_patient_moves_the_event_whichever_comes_first(site: Site, first: str) -> None:
    lines = [diameter(f"a{i}", 30 * i, 20 + i, patient="H1/p1") for i in range(4)]
    lines += [diameter(f"b{i}", 30 * i, 40 + i, patient="H1/p2") for i in range(4)]
    move = correction("c", 200, "a2", "wrong_patient", right_patient="H1/p2")
    for part in {"event": [lines, [move]], "correction": [[move], lines], "together": [[move, *lines]]}[first]:
        site.log.append([as_record(line) for line in part])
        site.work()
    [right] = TwinShard(site.binding, MemoryHistory().reader()).fold(
        [Delivery("H1/p2", 0, 0, 0, tuple(accepted([*lines[4:], diameter("a2", 60, 22, patient="H1/p2")])))]
    )
    # The moved event is folded under its own source and id, as if it had been posted to the right patient; the state
    # remembers only that the journal holds such a one.
    present = from_bytes(site.store.latest_snapshots(["H1/p2"])["H1/p2"].state)
    assert to_bytes(replace(present, guarded=False)) == right.snapshots[-1].state
    assert digests(site) == replayed(site)
    assert (n_folded(site, "H1/p1"), n_folded(site, "H1/p2")) == (3, 5)


def test_a_move_is_taken_back_outdone_corrected_and_passed_on(new_site: Callable[[], Site]) -> None:
    site = new_site()
    lines = [diameter(f"a{i}", 30 * i, 20 + i, patient="H1/p1") for i in range(3)]
    for p in (2, 3):
        lines.append(diameter(f"b{p}", 10, 40, patient=f"H1/p{p}"))
    steps: list[tuple[list[bytes], tuple[int, int, int]]] = [
        (lines, (3, 1, 1)),
        ([correction("c1", 200, "a1", "wrong_patient", right_patient="H1/p2")], (2, 2, 1)),
        # Taken back: the event stands where it was.
        ([correction("c2", 201, "c1", "retract")], (3, 1, 1)),
        # The correction of the correction is itself wrong.
        ([correction("c3", 202, "c2", "retract")], (2, 2, 1)),
        # Outdone by a later word of the same patient's.
        ([correction("c4", 203, "a1", "wrong_patient", right_patient="H1/p3")], (2, 1, 2)),
        # Passed on by the one who received it, and retracted there.
        ([correction("c5", 204, "a1", "wrong_patient", right_patient="H1/p2", patient="H1/p3")], (2, 2, 1)),
        ([correction("c6", 205, "a1", "retract", patient="H1/p2")], (2, 1, 1)),
        ([correction("c7", 206, "c6", "retract", patient="H1/p2")], (2, 2, 1)),
        # And home again: what moved it away before does not hold it off.
        ([correction("c8", 207, "a1", "wrong_patient", right_patient="H1/p1", patient="H1/p2")], (3, 1, 1)),
        ([correction("c9", 208, "a0", "retract")], (2, 1, 1)),
    ]
    for new, expected in steps:
        site.log.append([as_record(line) for line in new])
        site.work()
        assert tuple(n_folded(site, f"H1/p{p}") for p in (1, 2, 3)) == expected, new
        assert digests(site) == replayed(site)
    at_the_end = digests(site)
    every = [line for new, _ in steps for line in new]
    by_twin: dict[str, list[Accepted]] = defaultdict(list)
    for event in accepted(every):
        by_twin[event.header.twin_id].append(event)
    for twin_id, events in moved(by_twin).items():
        items = in_force(events, twin_id)
        assert len(items) == n_folded(site, twin_id)
    # The same in another order ends in the same bits.
    random.Random(5).shuffle(every)
    other = new_site()
    for line in every:
        other.log.append([as_record(line)])
        other.work()
    assert digests(other) == at_the_end


def test_a_correction_that_moves_nothing_needs_no_whole_journal(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [diameter(f"a{i}", 30 * i, 20 + i, patient="H1/p1") for i in range(4)]
    site.log.append([as_record(line) for line in [*lines, correction("c1", 200, "a1", "retract", patient="H1/p1")]])
    site.work()
    read = site.store.journal
    asked: list[int] = []

    def journal(twin_id: str, *, since: datetime | None = None) -> object:
        rows = read(twin_id, since=since)
        asked.append(len(rows))
        return rows

    new = {"H1/p1": accepted([correction("c2", 201, "a2", "retract", patient="H1/p1")])}
    with monkeypatch.context() as patched:
        patched.setattr(site.store, "journal", journal)
        assert moved_rows(new, {}, site.store, NOW) == []
    assert asked == [1]
    # Once an event was moved, what others were told of it may change with any correction.
    asked.clear()
    site.log.append([as_record(correction("c3", 202, "a3", "wrong_patient", right_patient="H1/p2", patient="H1/p1"))])
    site.work()
    with monkeypatch.context() as patched:
        patched.setattr(site.store, "journal", journal)
        assert moved_rows(new, {}, site.store, NOW) == []
    assert asked == [2, 6]
