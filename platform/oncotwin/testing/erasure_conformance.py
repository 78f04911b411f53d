"""What every twin store must do when a patient is erased, whether it is sealed or not; run by tests/conformance."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from oncotwin.domain.errors import StaleVersionError
from oncotwin.ports.erasure import ErasureOrder, ExportRow, Tombstone
from oncotwin.ports.twin_rows import OutboxRow, SequenceGap
from oncotwin.testing.twin_store_conformance import (
    NOW,
    OpenStore,
    alert,
    entry,
    estimate,
    group,
    letter,
    snapshot,
    twin,
)

GONE, OTHER = "north/p1", "north/p2"


class ErasureConformance:
    """Laws of `oncotwin.ports.erasure.Erasures`, with nothing of the patient left to whoever asks the store."""

    def test_nothing_of_an_erased_patient_is_told(self, open_store: OpenStore) -> None:
        store = open_store()
        store.register_twins([GONE, OTHER])
        store.commit(
            group(
                *(
                    replace(
                        twin(
                            0, journal=(entry(f"e{one}", 1, one),), snapshots=(snapshot(1, 1, one),),
                            estimates=(estimate(f"e{one}", 1, one),), alerts=(alert(f"a{one}", 1, one),),
                        ),
                        twin_id=one,
                    )
                    for one in (GONE, OTHER)
                ),
                dead_letters=(letter("r1", twin_id=GONE), letter("r2", twin_id=OTHER), letter("r3", raw=GONE.encode())),
                outbox=tuple(OutboxRow("twin.estimated", one, one, b"v") for one in (GONE, OTHER)),
            )
        )
        keys = [("urn:lab", f"e{one}") for one in (GONE, OTHER)]
        store.intake_record(dict.fromkeys(keys, "h"), dict(zip(keys, (GONE, OTHER), strict=True)))
        assert store.erasures.erase(Tombstone(GONE, NOW, "asked for"))
        for asked in (store, open_store()):
            assert set(asked.twin_heads()) == set(asked.latest_snapshots([GONE, OTHER])) == {OTHER}
            assert not any((asked.journal(GONE), asked.beliefs(GONE), [*asked.estimates(GONE, superseded=True)]))
            assert [row.twin_id for row in asked.estimates()] == [OTHER]
            assert [row.twin_id for row in asked.alerts()] == [OTHER]
            assert [row.twin_id for row in asked.dead_letters()] == [OTHER]
            assert [row.key for _, row in asked.pending_outbox(9)] == [OTHER]
            assert asked.intake_known(keys) == {keys[1]: "h"}
            assert asked.erased([GONE, OTHER, "north/p3"]) == {GONE}
            # Its ids are taken for ever, with content that is equal to none.
            known = asked.known(keys)
            assert set(known) == set(keys) and known[keys[0]] not in ("", f"hash-e{GONE}")

    def test_erasing_again_changes_nothing(self, open_store: OpenStore) -> None:
        store = open_store()
        first = Tombstone(GONE, NOW, "asked for", "urn:lab", "e9")
        assert store.erasures.erase(first)
        assert not store.erasures.erase(Tombstone(GONE, NOW + timedelta(days=1), "again"))
        assert open_store().erasures.tombstones() == {GONE: first}
        store.erasures.finish(GONE, NOW + timedelta(hours=1))
        store.erasures.finish(GONE, NOW + timedelta(hours=2))
        assert store.erasures.tombstones()[GONE].finished_at == NOW + timedelta(hours=1)

    def test_no_commit_for_an_erased_patient_succeeds(self, open_store: OpenStore) -> None:
        store = open_store()
        store.register_twins([GONE])
        late = replace(twin(1, journal=(entry("e2", 2, GONE),), snapshots=(snapshot(2, 2, GONE),)), twin_id=GONE)
        first = replace(late, expected_version=0, new_version=1)
        store.commit(group(replace(first, journal=(entry("e1", 1, GONE),))))
        store.erasures.erase(Tombstone(GONE, NOW, "asked for"))
        for attempt in (late, first):
            with pytest.raises(StaleVersionError):
                store.commit(group(attempt))
        # Nor for one of whom nothing had come.
        store.erasures.erase(Tombstone(OTHER, NOW, "asked for"))
        store.register_twins([OTHER])
        with pytest.raises(StaleVersionError):
            store.commit(group(replace(twin(0, journal=(entry("e3", 1, OTHER),)), twin_id=OTHER)))

    def test_running_numbers_stay_taken(self, open_store: OpenStore) -> None:
        store = open_store()
        store.register_twins([GONE, OTHER])
        rows = [entry(f"e{n}", n, GONE if n in (1, 2, 5) else OTHER, sequence=n) for n in (1, 2, 3, 5)]
        store.commit(
            group(
                *(
                    replace(
                        twin(
                            0, journal=tuple(row for row in rows if row.twin_id == one),
                            snapshots=(snapshot(5, 3, one),),
                        ),
                        twin_id=one,
                    )
                    for one in (GONE, OTHER)
                )
            )
        )
        assert [(gap.first, gap.last) for gap in store.look_for_gaps(NOW)] == [(4, 4)]
        store.erasures.erase(Tombstone(GONE, NOW, "asked for"))
        [gap] = store.look_for_gaps(NOW)
        assert gap == SequenceGap("urn:lab", "north", 4, 4, NOW)

    def test_orders_in_the_journal_are_found_until_they_are_carried_out(self, open_store: OpenStore) -> None:
        store = open_store()
        store.register_twins([GONE])
        order = entry("e1", 1, GONE, kind="patient.erased")
        store.commit(group(replace(twin(0, journal=(order, entry("e2", 2, GONE))), twin_id=GONE)))
        assert open_store().erasures.orders() == [ErasureOrder(GONE, "urn:lab", "e1")]
        store.erasures.erase(Tombstone(GONE, NOW, "ordered", "urn:lab", "e1"))
        assert open_store().erasures.orders() == []

    def test_exports_are_remembered_by_folder(self, open_store: OpenStore) -> None:
        store = open_store()
        store.erasures.record_export("/data/a", ("estimates",), NOW)
        store.erasures.record_export("/data/b", ("estimates", "forecasts"), NOW)
        store.erasures.record_export("/data/a", ("forecasts",), NOW + timedelta(days=1))
        assert open_store().erasures.exports() == [
            ExportRow("/data/a", NOW + timedelta(days=1), ("forecasts",)),
            ExportRow("/data/b", NOW, ("estimates", "forecasts")),
        ]
        store.erasures.forget_export("/data/a")
        assert [row.folder for row in store.erasures.exports()] == ["/data/b"]
