"""What was believed once is believed again, to the bit, whatever has become known since."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import delete, update
from tests.integration.line_site import BOUNDS, LineSite, binding_of, journey, open_line_site

from oncotwin.adapters.sql_store import schema
from oncotwin.domain.errors import StoreError
from oncotwin.testing.patients import DAY_ZERO, consent, correction, diameter
from oncotwin.twin.recall import check, recall
from oncotwin_flows.promote import promote_line


@pytest.fixture(params=["sqlite", "postgresql"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LineSite]:
    url = f"sqlite:///{tmp_path}/store.sqlite"
    if request.param == "postgresql":
        url = str(request.getfixturevalue("postgres_database"))
    with open_line_site(tmp_path, url) as opened:
        yield opened


def day(number: float) -> datetime:
    """So many days after the patients' first."""
    return DAY_ZERO + timedelta(days=number)


@pytest.mark.parametrize("seed", range(3))
def test_every_published_belief_is_found_again(site: LineSite, seed: int) -> None:
    """Late events, corrections, moves, consent, promotions and rollbacks come in between."""
    lines, rng = journey(seed), random.Random(seed)
    worker = site.worker()
    published: list[tuple[datetime, dict[str, str], dict[str, set[str]]]] = []
    while lines:
        n = rng.randrange(1, 7)
        site.append(lines[:n])
        lines = lines[n:]
        worker.run(BOUNDS)
        if rng.random() < 0.2:
            other = "2" if site.store.champion() == "1" else "1"
            promote_line(site.store, binding_of(other), site.clock, "test")
        now = site.digests()
        alerts = {twin_id: {row.alert_id for row in site.store.alerts(twin_id)} for twin_id in now}
        published.append((site.clock.now(), now, alerts))
    assert len(published) > 8 and len({row.model_version for row in site.store.champions()}) == 2
    for known_at, digests, alerts in published:
        for twin_id, digest in digests.items():
            found = recall(site.store, binding_of, twin_id, known_at=known_at)
            assert found.digest == digest
            checked = check(site.store, found)
            assert (checked.what, checked.differences) == ("digest", ())
            assert {row.alert_id for row in site.store.alerts(twin_id, known_at=known_at)} == alerts[twin_id]
            assert {alert.alert_id for alert in found.belief.effects.alerts} == alerts[twin_id]
            as_of = day(rng.uniform(0, 330))
            past = recall(site.store, binding_of, twin_id, as_of, known_at)
            assert all(item.header.time <= as_of for item in past.belief.items)
            assert check(site.store, past).differences == ()
    assert recall(site.store, binding_of, "H1/p0").digest == site.digests()["H1/p0"]


def test_nothing_before_the_first_commit(site: LineSite) -> None:
    before = site.clock.now()
    site.append([diameter("m", 10, 20)])
    site.work()
    with pytest.raises(StoreError, match="nothing was known of patient 'H1/p1' at 2026"):
        recall(site.store, binding_of, "H1/p1", known_at=before)
    with pytest.raises(StoreError, match="oncotwin ingest"):
        recall(site.store, binding_of, "H1/other")


def test_a_day_before_the_first_event_is_the_empty_twin(site: LineSite) -> None:
    site.append([diameter("m", 10, 20)])
    site.work()
    found = recall(site.store, binding_of, "H1/p1", day(5))
    assert found.belief.state.last is None and found.belief.items == ()
    assert check(site.store, found).differences == ()


def test_when_each_event_became_known(site: LineSite) -> None:
    moments = []
    for number in range(3):
        moments.append(site.clock.now())
        site.append([diameter(f"m{number}", 30 * number, 20)])
        site.work()
    found = recall(site.store, binding_of, "H1/p1")
    since = [found.known_since(entry) for entry in found.entries]
    assert [entry.event_id for entry in found.entries] == ["m0", "m1", "m2"]
    assert all(moment is not None for moment in since)
    assert all(low < moment for low, moment in zip(moments, since, strict=True) if moment is not None)


def test_a_changed_store_is_told_of(site: LineSite) -> None:
    """The digest of a belief, or an estimate, that somebody changed."""
    site.append([diameter(f"m{number}", 30 * number, 20 + number) for number in range(4)])
    site.work()
    past, present = recall(site.store, binding_of, "H1/p1", day(40)), recall(site.store, binding_of, "H1/p1")
    with site.store._transaction(write=True) as connection:
        connection.execute(update(schema.beliefs).values(digest=b"0" * 64))
        connection.execute(delete(schema.estimates).where(schema.estimates.c.event_id == "m1"))
    again = recall(site.store, binding_of, "H1/p1")
    [difference] = check(site.store, again).differences
    assert present.digest in difference and "0" * 64 in difference
    [missing] = check(site.store, past).differences
    assert "m1" in missing and "was not published" in missing


def test_another_version_is_not_compared(site: LineSite) -> None:
    site.append([diameter("m", 10, 20)])
    site.work()
    found = recall(site.store, binding_of, "H1/p1", under="2")
    assert found.binding.version == "2"
    assert check(site.store, found).what == "nothing"


def test_withdrawn_consent_and_a_waiting_correction_are_found_again(site: LineSite) -> None:
    """States that say what they wait for, after the store has thinned their snapshots out."""
    site.append([correction("c", 900, "m2", "retract")])
    site.append([diameter(f"m{number}", 30 * number, 20 + number) for number in range(40)])
    worker = site.worker()
    published = []
    while worker.run(BOUNDS).n_read:
        published.append((site.clock.now(), site.digests()))
    site.append([consent("w", 200, "withdrawn")])
    worker.run(BOUNDS)
    published.append((site.clock.now(), site.digests()))
    for known_at, digests in published:
        found = recall(site.store, binding_of, "H1/p1", known_at=known_at)
        assert found.digest == digests["H1/p1"]
        assert check(site.store, found).equal
