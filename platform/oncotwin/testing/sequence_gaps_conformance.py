"""What every twin store must do with the sources' running numbers; run by tests/conformance over both databases.

A plug-in's tests subclass `SequenceGapsConformance` and provide the fixture `open_store` of `TwinStoreConformance`.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from oncotwin.ports.twin_rows import AlertRow, OutboxRow, SequenceGap
from oncotwin.ports.twin_store import TwinStore
from oncotwin.testing.twin_store_conformance import NOW, TWIN, OpenStore, alert, entry, group, twin

LAB, PACS = "urn:lab", "urn:pacs"
INSTITUTION = TWIN.partition("/")[0]


def minute(n: float) -> datetime:
    """A moment of receipt, n minutes after the first."""
    return NOW + timedelta(minutes=n)


def receive(store: TwinStore, numbers: Sequence[int | None], at: float = 0.0, source: str = LAB) -> None:
    """Commit one event of each number."""
    store.register_twins([TWIN])
    heads = store.twin_heads([TWIN])
    entries = tuple(
        entry(f"{source}-{at}-{i}", i, source=source, sequence=number, received_at=minute(at))
        for i, number in enumerate(numbers)
    )
    store.commit(group(twin(heads[TWIN].version if heads else 0, journal=entries), at=minute(at)))


def ranges(gaps: Iterable[SequenceGap]) -> list[tuple[int, int]]:
    """First and last number of each gap."""
    return [(gap.first, gap.last) for gap in gaps]


def tell(store: TwinStore, gaps: Sequence[SequenceGap], alert_id: str = "a1") -> bool:
    """Raise an alert of these gaps."""
    return store.raise_gap_alert(warning(alert_id), gaps, OutboxRow("t", "k", alert_id, b"x"), NOW)


def warning(alert_id: str) -> AlertRow:
    """An alert of the institution."""
    return alert(alert_id, 0, INSTITUTION)


class SequenceGapsConformance:
    """Laws of the port's `look_for_gaps` and `raise_gap_alert`."""

    def test_events_without_numbers_have_no_gaps(self, open_store: OpenStore) -> None:
        store = open_store()
        assert store.look_for_gaps(NOW) == []
        receive(store, [None, None])
        assert store.look_for_gaps(NOW) == []

    def test_the_number_comes_back_with_the_entry(self, open_store: OpenStore) -> None:
        store = open_store()
        receive(store, [None, 0, 2**53 - 1])
        assert [row.sequence for row in open_store().journal(TWIN)] == [None, 0, 2**53 - 1]

    def test_a_gap_opens_when_the_numbers_about_it_are_there(self, open_store: OpenStore) -> None:
        store = open_store()
        receive(store, [40, 41])
        assert store.look_for_gaps(NOW) == []
        receive(store, [45, 43], at=5)
        receive(store, [1], at=6, source=PACS)
        found = open_store().look_for_gaps(NOW)
        assert found == [
            SequenceGap(LAB, INSTITUTION, 42, 42, minute(5)), SequenceGap(LAB, INSTITUTION, 44, 44, minute(5))
        ]
        assert store.look_for_gaps(NOW) == found
        assert store.counts()["gaps"] == 2

    def test_each_source_counts_for_itself(self, open_store: OpenStore) -> None:
        store = open_store()
        receive(store, [1, 4], source=PACS)
        receive(store, [2, 3, 9], source=LAB)
        assert [(gap.source, gap.first, gap.last) for gap in store.look_for_gaps(NOW)] == [(LAB, 4, 8), (PACS, 2, 3)]

    def test_what_comes_late_closes_its_part_and_the_rest_stays_open_since_then(self, open_store: OpenStore) -> None:
        store = open_store()
        receive(store, [1, 10])
        assert ranges(store.look_for_gaps(NOW)) == [(2, 9)]
        receive(store, [2, 5, 6], at=30)
        found = store.look_for_gaps(NOW)
        assert ranges(found) == [(3, 4), (7, 9)]
        assert {gap.opened_at for gap in found} == {NOW}
        receive(store, [4, 3, 8, 7, 9], at=40)
        assert store.look_for_gaps(NOW) == []
        assert store.counts()["gaps"] == 0

    def test_a_smaller_number_that_comes_later_is_the_new_beginning(self, open_store: OpenStore) -> None:
        store = open_store()
        receive(store, [7, 8])
        store.look_for_gaps(NOW)
        receive(store, [4, 9], at=3)
        assert store.look_for_gaps(NOW) == [SequenceGap(LAB, INSTITUTION, 5, 6, minute(3))]

    def test_two_events_of_one_number_are_no_gap(self, open_store: OpenStore) -> None:
        store = open_store()
        receive(store, [1, 2, 2, 3, 6])
        assert ranges(store.look_for_gaps(NOW)) == [(4, 5)]
        receive(store, [4, 4], at=1)
        assert ranges(store.look_for_gaps(NOW)) == [(5, 5)]

    def test_a_gap_is_told_of_once(self, open_store: OpenStore) -> None:
        one, other = open_store(), open_store()
        receive(one, [1, 3, 6])
        gaps, same = one.look_for_gaps(NOW), other.look_for_gaps(NOW)
        assert tell(one, gaps)
        assert not tell(other, same, "a2")
        assert [row.alert_id for row in other.alerts()] == ["a1"]
        assert [row.message_key for _, row in other.pending_outbox(9)] == ["a1"]
        assert other.look_for_gaps(NOW) == []
        receive(other, [9], at=1)
        [new] = other.look_for_gaps(NOW)
        assert (new.first, new.last, new.alerted_at) == (7, 8, NOW)
        assert not tell(one, [*gaps, *other.look_for_gaps(NOW)], "a3")

    def test_a_gap_that_was_filled_meanwhile_is_not_told_of(self, open_store: OpenStore) -> None:
        one, other = open_store(), open_store()
        receive(one, [1, 4])
        gaps = one.look_for_gaps(NOW)
        receive(one, [2], at=1)
        other.look_for_gaps(NOW)
        before = one.counts()
        assert not tell(one, gaps)
        assert one.counts() == before

    def test_an_alert_stands_until_the_last_of_its_numbers_has_come(self, open_store: OpenStore) -> None:
        store = open_store()
        receive(store, [1, 3, 6])
        assert tell(store, store.look_for_gaps(NOW))
        known_at = minute(1)
        receive(store, [5, 2], at=2)
        assert store.look_for_gaps(minute(2)) == []
        assert [row.superseded_by for row in store.alerts(INSTITUTION)] == [""]
        receive(store, [4], at=3)
        assert store.look_for_gaps(minute(3)) == []
        assert store.alerts() == []
        [row] = store.alerts(superseded=True)
        assert (row.superseded_by, row.twin_id) == (f"{LAB} {LAB}-3-0", INSTITUTION)
        assert [row.event_id for row in store.journal(TWIN, known_at=known_at)] == [f"{LAB}-0.0-{i}" for i in range(3)]

    def test_any_order_of_arrival_leaves_the_same_gaps(self, open_store: OpenStore) -> None:
        store = open_store()
        rng = random.Random(4)
        numbers = rng.sample(range(300), 200)
        for begin in range(0, len(numbers), 20):
            receive(store, numbers[begin : begin + 20], at=begin)
            found = store.look_for_gaps(NOW)
            came = set(numbers[: begin + 20])
            missing = sorted(set(range(min(came), max(came))) - came)
            assert [n for gap in found for n in range(gap.first, gap.last + 1)] == missing
            # Gaps are as wide as they can be: the numbers beside each have come.
            assert all({gap.first - 1, gap.last + 1} <= came for gap in found)
