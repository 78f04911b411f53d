"""What every twin store must say of the past: what was believed when, and what explained it away.

Run with `oncotwin.testing.twin_store_conformance`, whose rows and fixture it shares.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from oncotwin.domain.errors import ChampionChangedError
from oncotwin.ports.twin_rows import OutboxRow
from oncotwin.testing.twin_store_conformance import (
    NOW,
    OTHER,
    TWIN,
    OpenStore,
    alert,
    day,
    entry,
    estimate,
    group,
    snapshot,
    twin,
)


class BeliefsConformance:
    """Laws of the port `oncotwin.ports.twin_store.TwinStore` on what was believed."""

    def test_what_was_known_on_an_earlier_day(self, open_store: OpenStore) -> None:
        store = open_store()
        store.register_twins([TWIN])
        # The second event is clinically earlier but arrives a day later, and takes back what was believed since.
        store.commit(
            group(twin(0, journal=(entry("e1", 10),), snapshots=(snapshot(10, 1),), estimates=(estimate("e1", 10),)))
        )
        tomorrow = NOW + timedelta(days=1)
        mended = estimate("e1", 10, body=b'{"model": "m", "n": 2}')
        store.commit(
            group(
                twin(
                    1, journal=(entry("e0", 5),), snapshots=(snapshot(5, 1), snapshot(10, 2)),
                    estimates=(estimate("e0", 5), mended), rewound_to=day(5), rewound_by="urn:lab e0",
                ),
                at=tomorrow,
            )
        )
        early = tomorrow - timedelta(microseconds=1)
        assert [row.event_id for row in store.journal(TWIN, known_at=early)] == ["e1"]
        assert [row.event_id for row in store.journal(TWIN, known_at=tomorrow)] == ["e0", "e1"]
        assert store.journal(TWIN, known_at=NOW - timedelta(days=1)) == []
        assert [row.body for row in store.estimates(TWIN, known_at=early)] == [b'{"model": "m"}']
        assert [row.body for row in store.estimates(TWIN)] == [b'{"model": "m"}', mended.body]
        assert [row.event_id for row in store.estimates(TWIN)] == ["e0", "e1"]
        assert len(list(store.estimates(TWIN, superseded=True))) == 3
        assert store.latest_snapshots([TWIN])[TWIN].digest == snapshot(10, 2).digest
        assert store.latest_snapshots([TWIN], before=day(10))[TWIN].digest == snapshot(5, 1).digest
        assert store.latest_snapshots([TWIN], before=day(5)) == {}
        believed = store.beliefs(TWIN)
        assert [(row.version, row.digest, row.published_at) for row in believed] == [
            (1, snapshot(10, 1).digest, NOW), (2, snapshot(10, 2).digest, tomorrow),
        ]
        assert (believed[1].rewound_to, believed[1].cause) == (day(5), "urn:lab e0")
        assert store.beliefs(TWIN, known_at=early) == believed[:1]
        assert store.beliefs(TWIN, known_at=NOW - timedelta(days=1)) == []
        assert [store.position_at(moment) for moment in (early, tomorrow)] == [row.position for row in believed]

    def test_only_the_champions_folds_are_committed(self, open_store: OpenStore) -> None:
        store = open_store()
        assert store.champion() is None
        store.register_twins([TWIN])
        store.commit(group(twin(0)))
        assert (store.champion(), store.champion(NOW - timedelta(days=1))) == ("1", None)
        before = store.counts()
        with pytest.raises(ChampionChangedError, match="fold again"):
            store.commit(group(replace(twin(1), model_version="2")))
        assert store.counts() == before

    def test_snapshots_thin_out_with_age(self, open_store: OpenStore) -> None:
        store = open_store()
        store.register_twins([TWIN, OTHER])
        for n in range(120):
            journal = (entry(f"e{n}", n),)
            store.commit(group(twin(n, journal=journal, snapshots=(snapshot(n, n + 1),))))
            assert store.counts()["snapshots"] <= 20
        for n in range(1, 120):
            found = store.latest_snapshots([TWIN], before=day(n)).get(TWIN)
            # From any day the next snapshot before it, or the beginning, lies within half the distance to the present.
            assert n - (found.n_folded if found else 0) <= max(0, (120 - n) // 2) + 3

    def test_corrections_are_found_by_what_they_correct(self, open_store: OpenStore) -> None:
        store = open_store()
        store.register_twins([TWIN])
        corrected = entry("c1", 3, kind="record.corrected", supersedes=("urn:lab", "e1"))
        store.commit(group(twin(0, journal=(corrected, entry("e2", 4)))))
        found = store.corrections_of([("urn:lab", "e1"), ("urn:lab", "e2"), ("urn:b", "e1")])
        assert {key: [row.event_id for row in rows] for key, rows in found.items()} == {("urn:lab", "e1"): ["c1"]}
        assert store.corrections_of([]) == {}
        # A correction says by its time nothing of what it corrects: it is read whatever the time.
        assert [row.event_id for row in store.journal(TWIN, since=day(4))] == ["c1", "e2"]

    def test_commits_of_clocks_that_disagree_keep_their_order(self, open_store: OpenStore) -> None:
        store = open_store()
        store.register_twins([TWIN])
        first = store.commit(group(twin(0, journal=(entry("e1", 0),))))
        behind = NOW - timedelta(hours=1)
        second = store.commit(group(twin(1, journal=(entry("e2", 1),)), at=behind))
        assert second > first
        assert store.journal(TWIN, known_at=behind) == []
        assert len(store.journal(TWIN, known_at=NOW)) == 2

    def test_the_latest_snapshot_of_a_day_with_several_events(self, open_store: OpenStore) -> None:
        store = open_store()
        store.register_twins([TWIN, OTHER])
        store.commit(
            group(
                twin(0, snapshots=(snapshot(1, 1), snapshot(1, 2), snapshot(1, 3))),
                twin(0, OTHER, snapshots=(snapshot(-700_000, 0, OTHER),)),
            )
        )
        found = store.latest_snapshots([TWIN, OTHER, "north/unknown"])
        assert {key: row.n_folded for key, row in found.items()} == {TWIN: 3, OTHER: 0}
        assert found[OTHER].time == day(-700_000)

    def test_alerts_are_explained_away_or_stand(self, open_store: OpenStore) -> None:
        store = open_store()
        store.register_twins([TWIN, OTHER])
        store.commit(
            group(
                twin(0, alerts=(alert("early", 1), alert("gone", 5), alert("stays", 6))),
                twin(0, OTHER, alerts=(alert("theirs", 9, OTHER),)),
            )
        )
        store.commit(group(twin(1, alerts=(alert("stays", 6), alert("new", 7)), rewound_to=day(5), rewound_by="fix")))
        assert [row.alert_id for row in store.alerts()] == ["early", "stays", "new", "theirs"]
        assert [row.alert_id for row in store.alerts(TWIN)] == ["early", "stays", "new"]
        everything = {row.alert_id: row.superseded_by for row in store.alerts(superseded=True)}
        assert everything == {"early": "", "gone": "fix", "stays": "", "new": "", "theirs": ""}
        # The same alert may come back when what explained it is itself taken back.
        store.commit(group(twin(2, alerts=(alert("gone", 5),), rewound_to=day(5), rewound_by="fix of the fix")))
        assert [row.alert_id for row in store.alerts(TWIN)] == ["early", "gone"]

    def test_an_alert_that_stands_shows_what_is_known_now(self, open_store: OpenStore) -> None:
        store = open_store()
        store.register_twins([TWIN])
        first, again = alert("a", 6), replace(alert("a", 6), message="PSA rises by more", body=b'{"n": 2}')
        told = OutboxRow("twin.alerted", TWIN, "k1", b"x", alert_id="a")
        store.commit(group(twin(0, alerts=(first,)), outbox=(told,)))
        store.commit(
            group(
                twin(1, alerts=(again,), rewound_to=day(5), rewound_by="fix"), at=NOW + timedelta(days=1),
                outbox=(replace(told, message_key="k2"),),
            )
        )
        assert [(row.message, row.body) for row in store.alerts(TWIN)] == [(again.message, again.body)]
        assert [(row.message, row.superseded_by) for row in store.alerts(superseded=True)] == [(again.message, "")]
        assert [(row.message, row.body) for row in store.alerts(known_at=NOW)] == [(first.message, first.body)]
        # It is the same alert: nobody is told again.
        assert [row.message_key for _, row in store.pending_outbox(9)] == ["k1"]
        store.commit(group(twin(2, rewound_to=day(5), rewound_by="gone"), at=NOW + timedelta(days=2)))
        assert store.alerts(TWIN) == []
        tomorrow = NOW + timedelta(days=1)
        assert [row.message for row in store.alerts(TWIN, known_at=tomorrow)] == [again.message]
        told_of = store.alerts(TWIN, superseded=True)
        assert [(row.message, row.superseded_by) for row in told_of] == [(again.message, "gone")]
        assert [row.superseded_by for row in store.alerts(TWIN, superseded=True, known_at=tomorrow)] == [""]
