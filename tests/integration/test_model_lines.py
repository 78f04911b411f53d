"""Upgrades are replays: whatever comes in between, a promoted version believes what a fold under it believes."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path

import pytest
from sqlalchemy import select
from tests.integration.line_site import BOUNDS, LineSite, SteadyClock, binding_of, journey, open_line_site

from oncotwin.adapters.sql_store import SqlTwinStore, open_twin_store, schema
from oncotwin.adapters.sql_store.database import open_engine
from oncotwin.adapters.sql_store.lines import LINE_STEPS, PROMOTE_STEPS
from oncotwin.domain.audit import INSTALLATION
from oncotwin.domain.bundle import ModelBundle
from oncotwin.domain.errors import ChampionChangedError, ModelError, StaleVersionError
from oncotwin.models.base import Hyperparameters, TumourModel
from oncotwin.ports.line_store import Promotion
from oncotwin.ports.model_registry import CalibrationRun
from oncotwin.ports.steps import OnStep
from oncotwin.testing.memory_registry import MemoryRegistry
from oncotwin.twin import fold
from oncotwin.twin.replay import believe
from oncotwin.twin.state import digest, to_bytes
from oncotwin.twin.timeline import Cursor, Item, Step, plan_steps
from oncotwin_flows.groups import Bounds
from oncotwin_flows.line_scores import log_scores, score_lines
from oncotwin_flows.promote import promote_line
from oncotwin_flows.shadow import LineFollower
from oncotwin_flows.worker import Worker


@pytest.fixture(params=["sqlite", "postgresql"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LineSite]:
    url = f"sqlite:///{tmp_path}/store.sqlite"
    if request.param == "postgresql":
        url = str(request.getfixturevalue("postgres_database"))
    with open_line_site(tmp_path, url) as opened:
        yield opened


@pytest.mark.parametrize("seed", range(4))
def test_an_upgrade_amid_the_stream_ends_in_the_bits_of_a_fold(site: LineSite, seed: int) -> None:
    lines = journey(seed)
    rng = random.Random(seed)
    worker, version = site.worker(), "1"
    follower = LineFollower(site.store, binding_of("2"), site.clock, n_at_once=2)
    other = LineFollower(site.store, binding_of("9"), site.clock, n_at_once=3)
    while lines:
        n = rng.randrange(1, 9)
        site.append(lines[:n])
        lines = lines[n:]
        what = rng.choice(("work", "work", "shadow", "other", "promote"))
        if what == "work":
            worker.run(BOUNDS)
        elif what == "other":
            other.catch_up()
        elif what == "shadow" and version != "2":
            follower.step()
        elif what == "promote":
            version = "2" if version == "1" else "1"
            promote_line(site.store, binding_of(version), site.clock, "test")
            assert site.digests() == site.digests(version) == site.folded(version)
    worker.run(BOUNDS)
    if version != "2":
        promote_line(site.store, binding_of("2"), site.clock, "test")
    assert site.digests() == site.folded("2")
    for old in ("1", "9"):
        LineFollower(site.store, binding_of(old), site.clock).catch_up()
        assert site.digests(old) == site.folded(old)
    assert len({digest for version in ("1", "2", "9") for digest in site.digests(version).values()}) == 12


def test_estimates_of_a_line_are_those_of_a_fold(site: LineSite) -> None:
    lines = journey(11)
    for begin in range(0, len(lines), 9):
        site.append(lines[begin : begin + 9])
        site.work()
        LineFollower(site.store, binding_of("2"), site.clock).catch_up()
    bound = binding_of("2")
    found = site.store.line_estimates("2", ["H1/p1"])
    effects = believe(bound, "H1/p1", site.store.journal("H1/p1")).effects
    assert [(row.source, row.event_id) for row in found] == [one.event for one in effects.estimates]
    assert site.store.n_behind("2") == 0 and site.store.lines() == {"2": 0}
    # Nothing of it is seen by those who ask what is believed.
    assert {row.model_version for row in site.store.estimates()} == {"1"}
    assert site.digests() == site.digests("1") != site.digests("2")


def test_rolling_back_is_the_same_operation(site: LineSite) -> None:
    lines = journey(5)
    site.append(lines[:30])
    site.work()
    before = site.digests()
    known_at = site.clock.now()
    first = site.store.twin_heads()
    promote_line(site.store, binding_of("2"), site.clock, "anna")
    assert {head.model_version for head in site.store.twin_heads().values()} == {"2"}
    assert all(head.version == first[twin_id].version + 1 for twin_id, head in site.store.twin_heads().items())
    after = site.digests()
    assert not before.items() & after.items()
    promote_line(site.store, binding_of("1"), site.clock, "bert")
    assert site.digests() == before
    promote_line(site.store, binding_of("2"), site.clock, "anna")
    site.append(lines[30:])
    site.work("2")
    promote_line(site.store, binding_of("1"), site.clock, "bert")
    assert site.digests() == site.folded("1")
    assert [(row.model_version, row.chosen_by) for row in site.store.champions()] == [
        ("1", "first commit"), ("2", "anna"), ("1", "bert"), ("2", "anna"), ("1", "bert"),
    ]
    # What was believed before the first of these promotions is still what was published then, by the version of then.
    for twin_id, published in before.items():
        assert site.store.beliefs(twin_id, known_at=known_at)[-1].digest == published
        assert site.store.beliefs(twin_id)[-1].digest == site.digests()[twin_id]
        state = believe(binding_of("1"), twin_id, site.store.journal(twin_id, known_at=known_at)).state
        assert digest(to_bytes(state)) == published
    assert site.store.champion(known_at) == "1"
    assert {row.model_version for row in site.store.estimates(known_at=known_at)} == {"1"}


def test_a_worker_follows_without_a_restart(site: LineSite) -> None:
    lines = journey(7)
    worker = site.worker()
    site.append(lines[:25])
    worker.run(Bounds(events=20, commit_events=5, poll_seconds=0.0))
    promote_line(site.store, binding_of("2"), site.clock, "test")
    site.append(lines[25:])
    tally = worker.run(BOUNDS)
    assert tally.n_retries == 1
    assert site.digests() == site.folded("2")
    assert {row.model_version for row in site.store.estimates()} == {"2"}


def test_every_twin_is_told_of_once(site: LineSite) -> None:
    site.append(journey(3))
    site.work()
    told = {row.message_key for _, row in site.store.pending_outbox(10_000)}
    stood = {row.alert_id for row in site.store.alerts()}
    promote_line(site.store, binding_of("3"), site.clock, "test")
    rows = [row for _, row in site.store.pending_outbox(10_000) if row.message_key not in told]
    heads = site.store.twin_heads()
    estimated = [row for row in rows if row.topic == "twin.estimated"]
    assert {row.message_key for row in estimated} == {
        f"twin.estimated:{twin_id}:{head.version}" for twin_id, head in heads.items()
    }
    assert len(estimated) == len(heads)
    for row in estimated:
        assert site.digests()[row.key].encode() in row.value and b'"model_version":"3"' in row.value
        assert b'"estimate":{"model":' in row.value
    # Alerts that stand under both versions are not told of again.
    now = {row.alert_id for row in site.store.alerts()}
    keys = [row.message_key.removeprefix("twin.alerted:").split(":") for row in rows if row.topic == "twin.alerted"]
    assert {key[0] for key in keys if key[-1] != "superseded"} == now - stood
    assert {key[0] for key in keys if key[-1] == "superseded"} == stood - now
    assert len(keys) == len(now ^ stood) > 0
    kinds = [entry.kind for entry in site.store.audit.latest(INSTALLATION, 99)]
    assert kinds.count("model.promoted") == 2
    estimates = [entry for entry in site.store.audit.latest("H1", 999) if entry.kind == "estimate"]
    assert len(estimates) == sum(len(site.store.beliefs(twin_id)) for twin_id in heads)


class CrashedError(Exception):
    """A process died."""


def dying_after(step: str) -> OnStep:
    """A hook that dies after a step."""

    def on_step(name: str) -> None:
        if name == step:
            raise CrashedError(step)

    return on_step


def tables(site: LineSite) -> dict[str, list[str]]:
    """Every row of the store."""
    engine = open_engine(site.store_url)
    with engine.connect() as connection:
        found = {
            table.name: sorted(str(row) for row in connection.execute(select(table)))
            for table in schema.metadata.sorted_tables
        }
    engine.dispose()
    return found


@pytest.mark.parametrize("step", PROMOTE_STEPS)
def test_a_crash_while_promoting_leaves_one_champion_whole(site: LineSite, step: str) -> None:
    lines = journey(2, n_patients=2, n_visits=4)
    site.append(lines[:8])
    site.work()
    LineFollower(site.store, binding_of("2"), site.clock).catch_up()
    site.append(lines[8:])
    site.work()
    before = tables(site)
    with closing(open_twin_store(site.store_url, on_step=dying_after(step))) as mortal:
        # All that came since is folded within the transaction.
        follower = LineFollower(mortal, binding_of("2"), site.clock)
        promotion = Promotion("2", "test", site.clock.now(), follower.fold, lambda twins, gone: (), 10)
        with pytest.raises(CrashedError, match=step):
            mortal.promote(promotion)
    assert tables(site) == before
    promote_line(site.store, binding_of("2"), site.clock, "test")
    assert site.digests() == site.folded("2")
    promote_line(site.store, binding_of("1"), site.clock, "test")
    assert site.digests() == site.folded("1")


@pytest.mark.parametrize("step", LINE_STEPS)
def test_a_crash_while_a_line_moves_leaves_it_where_it_was(site: LineSite, step: str) -> None:
    lines = journey(4, n_patients=2, n_visits=4)
    for part in (lines[:9], lines[9:]):
        site.append(part)
        site.work()
        before = tables(site)
        with (
            closing(open_twin_store(site.store_url, on_step=dying_after(step))) as mortal,
            pytest.raises(CrashedError, match=step),
        ):
            LineFollower(mortal, binding_of("2"), site.clock).step()
        assert tables(site) == before
        LineFollower(site.store, binding_of("2"), site.clock, n_at_once=1).catch_up()
        assert site.digests("2") == site.folded("2")


@pytest.mark.slow
def test_nobody_sees_half_a_promotion(site: LineSite) -> None:
    """Workers commit and readers read, each over a connection of its own, while versions are promoted to and fro."""
    lines = journey(9, n_patients=6)
    site.append(lines[:20])
    site.work()
    site.append(lines[20:])
    failed: list[BaseException] = []
    over = threading.Event()
    seen: set[str] = set()

    def guarded(what: Callable[[SqlTwinStore], None]) -> threading.Thread:
        def run() -> None:
            try:
                with closing(open_twin_store(site.store_url)) as store:
                    what(store)
            except BaseException as error:
                failed.append(error)
                over.set()

        return threading.Thread(target=run)

    def read(store: SqlTwinStore) -> None:
        while not over.is_set():
            for versions in (
                {row.model_version for row in store.estimates()},
                {row.model_version for row in store.latest_snapshots([f"H1/p{p}" for p in range(6)]).values()},
                {head.model_version for head in store.twin_heads().values()},
            ):
                assert len(versions) == 1
                seen.update(versions)

    def work(store: SqlTwinStore) -> None:
        with closing(site.open_log()) as log:
            drain(site.worker(store=store, log=log))

    def drain(worker: Worker) -> None:
        while worker.run(Bounds(events=4, commit_events=2, poll_seconds=0.0)).n_read and not over.is_set():
            pass

    def shadow(store: SqlTwinStore) -> None:
        while not over.is_set():
            with suppress(ChampionChangedError):
                LineFollower(store, binding_of("9"), site.clock, n_at_once=2).catch_up()
            over.wait(0.01)

    working = guarded(work)
    others = [guarded(read), guarded(shadow)]
    for thread in (working, *others):
        thread.start()
    n_promoted = n_known = 0
    while working.is_alive() or n_promoted < 4:
        # A worker whose every fold is outdated before it is committed gets nowhere.
        n_now = site.store.counts()["journal"]
        if n_now > n_known or not working.is_alive():
            n_known = n_now
            version = "2" if n_promoted % 2 == 0 else "1"
            promote_line(site.store, binding_of(version), site.clock, "test", most_behind=3)
            n_promoted += 1
        over.wait(0.05)
    working.join()
    over.set()
    for thread in others:
        thread.join()
    assert not failed, failed
    assert seen == {"1", "2"}
    champion = site.store.champion()
    assert champion is not None
    assert site.digests() == site.folded(champion)
    for version in ("1", "2", "9"):
        if version != champion:
            LineFollower(site.store, binding_of(version), site.clock).catch_up()
        assert site.digests(version) == site.folded(version)


def test_the_share_is_kept(site: LineSite) -> None:
    site.append(journey(6))
    site.work()
    clock = SteadyClock()
    follower = LineFollower(site.store, binding_of("2"), clock, share=0.25, n_at_once=1)
    assert follower.catch_up() == 4
    tally = follower.tally
    assert tally.n_commits == 4
    assert clock.slept == tally.rested_s == pytest.approx(3.0 * tally.worked_s)
    assert tally.worked_s > 0.0


def test_two_followers_of_one_line_and_a_promotion_amid_them(site: LineSite) -> None:
    site.append(journey(8))
    site.work()
    first, second = (LineFollower(site.store, binding_of("2"), site.clock, n_at_once=2) for _ in range(2))
    lags = site.store.behind("2", 2)
    commits = first.fold(lags)
    second.step()
    with pytest.raises(StaleVersionError, match="fold again"):
        site.store.commit_line("2", commits, site.clock.now())
    promote_line(site.store, binding_of("2"), site.clock, "test")
    with pytest.raises(ChampionChangedError):
        site.store.commit_line("2", commits, site.clock.now())
    with pytest.raises(ChampionChangedError, match="already"):
        promote_line(site.store, binding_of("2"), site.clock, "test")
    assert site.digests() == site.folded("2")


def test_a_version_that_cannot_fold_the_journal_is_not_promoted(
    site: LineSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.append(journey(1, n_patients=2))
    site.work()
    real = plan_steps

    def explode(
        model: TumourModel, hyper: Hyperparameters, cursor: Cursor, items: Sequence[Item], keys: Sequence[int]
    ) -> tuple[list[Step], Cursor]:
        if hyper["growth_rate"]["spread"] == 0.5 and any(item.header.event_id == "1-3" for item in items):
            raise ZeroDivisionError("kernel failed")
        return real(model, hyper, cursor, items, keys)

    monkeypatch.setattr(fold, "plan_steps", explode)
    with pytest.raises(ModelError, match=r"(?s)cannot fold event urn:oncotwin:H1:ris 1-3.*kernel failed"):
        promote_line(site.store, binding_of("2"), site.clock, "test")
    assert site.store.champion() == "1" and site.digests() == site.digests("1")


def test_scores_compare_the_same_events(site: LineSite) -> None:
    site.append(journey(12))
    site.work()
    LineFollower(site.store, binding_of("2"), site.clock).catch_up()
    scores = score_lines(site.store, "1", "2")
    mine: list[float] = []
    theirs: list[float] = []
    for twin_id in site.store.twin_heads():
        for version, found in (("1", mine), ("2", theirs)):
            effects = believe(binding_of(version), twin_id, site.store.journal(twin_id)).effects
            found += [one.innovation.log_likelihood for one in effects.estimates if one.innovation is not None]
    assert scores.n_events == len(mine) == len(theirs) > 20
    assert scores.champion.log_likelihood == pytest.approx(sum(mine) / len(mine))
    assert scores.challenger.log_likelihood == pytest.approx(sum(theirs) / len(theirs))
    assert scores.advantage == pytest.approx(scores.challenger.log_likelihood - scores.champion.log_likelihood)
    assert scores.error > 0.0 and 0.0 < scores.champion.coverage_90 <= 1.0
    registry = MemoryRegistry()
    for n in range(2):
        registry.register(ModelBundle({}), CalibrationRun(f"run {n}"))
    log_scores(registry, "2", scores)
    assert registry.metrics["2"]["shadow_log_likelihood_over_champion"] == scores.advantage
