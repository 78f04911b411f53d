"""What every store must do with the lines of model versions; run by tests/conformance over SQLite and PostgreSQL.

A plug-in's tests subclass `LinesConformance` beside `TwinStoreConformance`, with the same fixture.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta

import pytest

from oncotwin.domain.errors import ChampionChangedError, LineBehindError, StaleVersionError
from oncotwin.ports.erasure import Tombstone
from oncotwin.ports.line_store import LineLag, LineStore, Promotion
from oncotwin.ports.twin_rows import AlertRow, EstimateRow, OutboxRow, SnapshotRow, TwinCommit
from oncotwin.testing.twin_store_conformance import (
    NOW,
    OTHER,
    TWIN,
    alert,
    day,
    entry,
    estimate,
    group,
    snapshot,
    twin,
)

OpenLines = Callable[[], LineStore]
LATER = NOW + timedelta(days=1)


def digest(state: bytes) -> str:
    """A state's name, as a store that seals states computes it anew."""
    return hashlib.sha256(state).hexdigest()


def shown(lag: LineLag, n: float, version: str = "2", event: str = "") -> TwinCommit:
    """What a line made of a twin: one snapshot and one estimate of day n."""
    row = replace(estimate(event or f"e{n:g}", n, lag.twin_id), model_version=version, body=b'{"model": "m2"}')
    state = f"{version} {lag.twin_id} {n:g}".encode()
    present = replace(snapshot(n, lag.version, lag.twin_id, version, state), digest=digest(state))
    return TwinCommit(lag.twin_id, lag.folded, lag.version, version, (present,), (), (row,))


def nothing(twins: Sequence[TwinCommit], gone: Sequence[AlertRow] = ()) -> Sequence[OutboxRow]:
    """No messages."""
    del twins, gone
    return ()


def promotion(
    version: str = "2", fold: Callable[[Sequence[LineLag]], Sequence[TwinCommit]] = lambda lags: (),
    tell: Callable[[Sequence[TwinCommit], Sequence[AlertRow]], Sequence[OutboxRow]] = nothing, most_behind: int = 0,
) -> Promotion:
    """A version is to be believed."""
    return Promotion(version, "anna", LATER, fold, tell, most_behind)


def begin(store: LineStore) -> None:
    """Two twins, one event each, under version 1."""
    store.register_twins([TWIN, OTHER])
    store.commit(
        group(
            twin(
                0, journal=(entry("e1", 1),), snapshots=(snapshot(1, 1),), estimates=(estimate("e1", 1),),
                alerts=(alert("both", 1), alert("old", 1)),
            ),
            twin(0, OTHER, journal=(entry("o1", 1, OTHER),), snapshots=(snapshot(1, 1, OTHER),)),
        )
    )


def catch_up(store: LineStore, version: str = "2", n: float = 1) -> None:
    """Bring a line up to date."""
    lags = store.behind(version, 10)
    store.commit_line(version, [shown(lag, n, version) for lag in lags], NOW)


class LinesConformance:
    """Laws of the port `oncotwin.ports.line_store.LineStore`."""

    def test_a_line_lags_until_it_is_folded(self, open_store: OpenLines) -> None:
        store = open_store()
        assert store.behind("2", 10) == [] and store.lines() == {} and store.champions() == []
        begin(store)
        position = store.position_at(NOW)
        lags = store.behind("2", 10)
        ordinals = store.register_twins([TWIN, OTHER])
        assert [(lag.twin_id, lag.ordinal, lag.version, lag.folded, lag.since, lag.until) for lag in lags] == [
            (twin_id, ordinals[twin_id], 1, 0, 0, position) for twin_id in sorted(ordinals, key=ordinals.__getitem__)
        ]
        assert store.n_behind("2") == 2 and store.n_behind("1") == 0
        assert store.behind("2", 1) == lags[:1] and store.behind("2", 5, after=lags[0].ordinal) == lags[1:]
        store.commit_line("2", [shown(lags[0], 1)], NOW)
        assert [lag.twin_id for lag in store.behind("2", 10)] == [lags[1].twin_id] and store.lines() == {"2": 1}
        catch_up(store)
        assert store.behind("2", 10) == [] and store.lines() == {"2": 0}
        store.commit(group(twin(1, journal=(entry("e2", 2), entry("e0", 0)), snapshots=(snapshot(2, 2),))))
        [lag] = store.behind("2", 10)
        assert (lag.twin_id, lag.version, lag.folded) == (TWIN, 2, 1)
        assert lag.since < store.position_at(NOW) == lag.until
        assert [row.event_id for row in store.journal_between([lag])[TWIN]] == ["e0", "e2"]
        assert store.journal_between([]) == {}
        assert [row.event_id for row in store.journal_between([replace(lag, since=0)])[TWIN]] == ["e0", "e1", "e2"]

    def test_a_line_is_seen_by_nobody_else(self, open_store: OpenLines) -> None:
        store = open_store()
        begin(store)

        def seen() -> tuple[object, ...]:
            return (
                list(store.estimates()), list(store.estimates(superseded=True)), store.alerts(),
                store.latest_snapshots([TWIN, OTHER]), store.twin_heads(), store.beliefs(TWIN), store.offsets("log"),
                store.pending_outbox(10), store.champion(),
            )

        before = seen()
        catch_up(store)
        assert seen() == before
        mine = store.latest_snapshots([TWIN, OTHER], model_version="2")
        assert {row.model_version for row in mine.values()} == {"2"} and len(mine) == 2
        assert [row.body for row in store.line_estimates("2", [TWIN])] == [b'{"model": "m2"}']
        assert [row.event_id for row in store.line_estimates("1", [TWIN, OTHER])] == ["e1"]
        # A line that starts again takes its own beliefs back, and nobody else's.
        store.commit(group(twin(1, journal=(entry("e0", 0),), snapshots=(snapshot(1, 2),))))
        before = seen()
        [lag] = store.behind("2", 10)
        again = replace(shown(lag, 1, event="e1"), rewound_to=day(0), rewound_by="urn:lab e0")
        store.commit_line("2", [again], NOW)
        assert seen() == before
        assert len(store.line_estimates("2", [TWIN])) == 1
        assert store.latest_snapshots([TWIN], model_version="2")[TWIN].n_folded == 2

    def test_two_who_move_a_line(self, open_store: OpenLines) -> None:
        store = open_store()
        begin(store)
        lags = store.behind("2", 10)
        commits = [shown(lag, 1) for lag in lags]
        store.commit_line("2", commits[:1], NOW)
        before = store.counts()
        with pytest.raises(StaleVersionError, match="fold again"):
            store.commit_line("2", commits, NOW)
        with pytest.raises(ChampionChangedError, match="moves with the stream"):
            store.commit_line("1", [shown(lag, 1, "1") for lag in lags], NOW)
        for never in (3, 2):
            with pytest.raises(StaleVersionError, match="has no version"):
                store.commit_line("2", [replace(shown(lags[1], 1), new_version=never)], NOW)
        assert store.counts() == before and store.n_behind("2") == 1

    def test_a_line_keeps_nothing_of_an_erased_patient(self, open_store: OpenLines) -> None:
        store = open_store()
        begin(store)
        lags = store.behind("2", 10)
        store.erasures.erase(Tombstone(TWIN, NOW, "asked for", "urn:lab", "x"))
        assert [lag.twin_id for lag in store.behind("2", 10)] == [OTHER] and store.n_behind("2") == 1
        with pytest.raises(StaleVersionError, match="erased"):
            store.commit_line("2", [shown(lag, 1) for lag in lags], NOW)
        assert store.line_estimates("2", [TWIN, OTHER]) == []
        catch_up(store)
        store.promote(promotion())
        assert set(store.twin_heads()) == {OTHER} and store.beliefs(TWIN) == []
        assert {row.twin_id for row in store.line_estimates("2", [TWIN, OTHER])} == {OTHER}

    def test_nothing_new_moves_a_line_without_rows(self, open_store: OpenLines) -> None:
        store = open_store()
        begin(store)
        catch_up(store)
        store.commit(group(twin(1, snapshots=(snapshot(1, 1),))))
        before = store.counts()["snapshots"]
        [lag] = store.behind("2", 10)
        assert store.journal_between([lag]) == {TWIN: []}
        store.commit_line("2", [TwinCommit(TWIN, lag.folded, lag.version, "2", ())], NOW)
        assert store.n_behind("2") == 0 and store.counts()["snapshots"] == before

    def test_a_promotion_switches_everybody_at_once(self, open_store: OpenLines) -> None:
        store = open_store()
        begin(store)
        lags = store.behind("2", 10)
        raised = {TWIN: (alert("both", 1), alert("new", 1)), OTHER: ()}
        store.commit_line("2", [replace(shown(lag, 1), alerts=raised[lag.twin_id]) for lag in lags], NOW)
        told: list[tuple[TwinCommit, ...]] = []
        gone: list[AlertRow] = []

        def tell(twins: Sequence[TwinCommit], no_more: Sequence[AlertRow]) -> Sequence[OutboxRow]:
            told.append(tuple(twins))
            gone.extend(no_more)
            return [OutboxRow("t", one.twin_id, f"k:{one.twin_id}:{one.new_version}", b"v") for one in twins]

        position = store.promote(promotion(tell=tell))
        assert store.champion() == "2" and store.champion(NOW) == "1"
        assert [(row.position, row.model_version, row.chosen_by) for row in store.champions()][1:] == [
            (position, "2", "anna")
        ]
        assert {(head.version, head.model_version) for head in store.twin_heads().values()} == {(2, "2")}
        present = digest(f"2 {TWIN} 1".encode())
        assert store.latest_snapshots([TWIN, OTHER])[TWIN].digest == present
        assert {row.model_version for row in store.latest_snapshots([TWIN, OTHER]).values()} == {"2"}
        assert [row.body for row in store.estimates(TWIN)] == [b'{"model": "m2"}']
        assert [row.body for row in store.estimates(TWIN, known_at=NOW)] == [b'{"model": "m"}']
        assert {row.alert_id for row in store.alerts()} == {"both", "new"}
        everything = [(row.alert_id, row.superseded_by) for row in store.alerts(superseded=True)]
        assert everything == [("both", ""), ("new", ""), ("old", "model 2")]
        assert {row.alert_id for row in store.alerts(superseded=True, known_at=NOW)} == {"both", "old"}
        believed = store.beliefs(TWIN)
        assert [(row.version, row.model_version, row.position == position, row.cause) for row in believed] == [
            (1, "1", False, ""), (2, "2", True, "model 2"),
        ]
        assert believed[1].published_at == LATER and believed[1].digest == present
        # What is told: every twin, its version, its latest estimate, and the alerts that come and go.
        [twins] = told
        assert [(one.twin_id, one.expected_version, one.new_version) for one in twins] == [
            (TWIN, 1, 2), (OTHER, 1, 2),
        ]
        assert [[row.body for row in one.estimates] for one in twins] == [[b'{"model": "m2"}'], [b'{"model": "m2"}']]
        assert [[row.alert_id for row in one.alerts] for one in twins] == [["new"], []]
        assert twins[0].snapshots[-1].digest == present and twins[0].rewound_to is not None
        assert [row.alert_id for row in gone] == ["old"]
        assert {row.message_key for _, row in store.pending_outbox(10)} == {f"k:{TWIN}:2", f"k:{OTHER}:2"}
        # The line before is complete, so that rolling back folds nothing.
        assert store.lines() == {"1": 0} and store.n_behind("2") == 0
        with pytest.raises(ChampionChangedError, match="fold again"):
            store.commit(group(replace(twin(2), model_version="1"), at=LATER))
        later = snapshot(2, 2, version="2")
        store.commit(group(replace(twin(2, snapshots=(later,)), model_version="2"), at=LATER))
        assert store.lines() == {"1": 1}

    def test_a_line_too_far_behind_is_not_promoted(self, open_store: OpenLines) -> None:
        store = open_store()
        begin(store)
        before = store.counts()

        def fold(lags: Sequence[LineLag]) -> Sequence[TwinCommit]:
            return [shown(lag, 1) for lag in lags]

        for refused in (promotion(fold=fold, most_behind=1), promotion(most_behind=2)):
            with pytest.raises(LineBehindError):
                store.promote(refused)
        assert (store.counts(), store.champion(), store.lines()) == (before, "1", {})
        store.promote(promotion(fold=fold, most_behind=2))
        assert store.champion() == "2" and len(store.latest_snapshots([TWIN, OTHER])) == 2
        with pytest.raises(ChampionChangedError, match="already"):
            store.promote(promotion(fold=fold, most_behind=2))

    def test_to_and_fro_ends_where_it_began(self, open_store: OpenLines) -> None:
        store = open_store()
        begin(store)

        def seen() -> tuple[object, ...]:
            alerts = [(row.alert_id, row.body) for row in store.alerts()]
            return (list(store.estimates()), store.latest_snapshots([TWIN, OTHER]), alerts)

        first = seen()
        catch_up(store)
        for version in ("2", "1", "2", "1"):
            store.promote(promotion(version))
        assert seen() == first
        assert [row.model_version for row in store.beliefs(TWIN)] == ["1", "2", "1", "2", "1"]
        assert {head.version for head in store.twin_heads().values()} == {5}

    def test_a_store_without_twins_has_a_champion_too(self, open_store: OpenLines) -> None:
        store = open_store()
        store.promote(promotion("7"))
        assert store.champion() == "7"
        store.register_twins([TWIN])
        with pytest.raises(ChampionChangedError):
            store.commit(group(twin(0), at=LATER))

    def test_readers_of_many_twins_see_one_version(self, open_store: OpenLines) -> None:
        store = open_store()
        ids = [f"north/p{i:04d}" for i in range(450)]
        store.register_twins(ids)
        store.commit(
            group(
                *(
                    twin(0, name, snapshots=(snapshot(1, 1, name),), estimates=(estimate(f"e{name}", 1, name),))
                    for name in ids
                )
            )
        )
        lags = store.behind("2", 1_000)
        store.commit_line("2", [shown(lag, 1) for lag in lags], NOW)
        reading = iter(store.estimates())
        found: list[EstimateRow] = [next(reading)]
        open_store().promote(promotion())
        found.extend(reading)
        assert len(found) == 450 and {row.model_version for row in found} == {"1"}
        assert {row.model_version for row in store.estimates()} == {"2"}

    def test_a_lines_snapshots_thin_out_too(self, open_store: OpenLines) -> None:
        store = open_store()
        store.register_twins([TWIN])
        for n in range(40):
            store.commit(group(twin(n, journal=(entry(f"e{n}", n),), snapshots=(snapshot(n, n + 1),))))
            [lag] = store.behind("2", 10)
            made: SnapshotRow = snapshot(n, n + 1, version="2")
            new = tuple(store.journal_between([lag])[TWIN])
            store.commit_line("2", [TwinCommit(TWIN, lag.folded, lag.version, "2", (made,), new)], NOW)
        assert store.counts()["snapshots"] <= 2 * 16
        assert store.counts()["journal"] == 40

    def test_alerts_of_a_line_count_while_it_is_believed(self, open_store: OpenLines) -> None:
        store = open_store()
        begin(store)
        # In shadow an alert comes and goes: nobody was told.
        [first, second] = store.behind("2", 10)
        raised = {TWIN: (alert("secret", 1), alert("both", 1))}
        store.commit_line(
            "2", [replace(shown(lag, 1), alerts=raised.get(lag.twin_id, ())) for lag in (first, second)], NOW
        )
        store.commit(group(twin(1, journal=(entry("e0", 0),), snapshots=(snapshot(1, 2),))))
        [lag] = store.behind("2", 10)
        again = replace(
            shown(lag, 1), alerts=(alert("both", 1),), rewound_to=day(0), rewound_by="urn:lab e0"
        )
        store.commit_line("2", [again], NOW)
        store.promote(promotion("2"))
        shown_now = {row.alert_id: row.superseded_by for row in store.alerts(superseded=True)}
        assert shown_now == {"both": "", "old": "model 2"}
        # The version before goes on in shadow, and what it raises there is told to nobody either.
        later = snapshot(2, 3, version="2")
        store.commit(
            group(replace(twin(3, journal=(entry("e2", 2),), snapshots=(later,)), model_version="2"), at=LATER)
        )
        [lag] = store.behind("1", 10)
        store.commit_line("1", [replace(shown(lag, 2, "1"), alerts=(alert("late", 2),))], LATER)
        assert {row.alert_id: row.superseded_by for row in store.alerts(superseded=True)} == shown_now
        store.promote(promotion("1"))
        assert {row.alert_id for row in store.alerts()} == {"both", "old", "late"}
        assert {row.alert_id: row.superseded_by for row in store.alerts(superseded=True)} == {
            "both": "", "old": "", "late": "",
        }
