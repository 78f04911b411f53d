"""What changed between two states of knowledge, and which events did it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from tests.integration.line_site import LineSite, binding_of, open_line_site

from oncotwin.testing.patients import DAY_ZERO, consent, correction, diameter, event_line, treatment
from oncotwin.twin.difference import Difference, difference, in_words, nothing_known
from oncotwin.twin.recall import recall
from oncotwin_flows.promote import promote_line
from oncotwin_services.report.difference_plot import draw_difference

PATIENT = "H1/p1"
FIRST = [diameter(f"m{i}", 30 * i, 20 + i) for i in range(6)]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[LineSite]:
    with open_line_site(tmp_path, f"sqlite:///{tmp_path}/store.sqlite") as opened:
        yield opened


def send(site: LineSite, *lines: bytes) -> datetime:
    """Commit events; returns a moment after it."""
    site.append(lines)
    site.work()
    return site.clock.now()


def between(
    site: LineSite, k1: datetime, k2: datetime | None = None, *, as_of: datetime | None = None, patient: str = PATIENT
) -> Difference:
    after = recall(site.store, binding_of, patient, as_of, k2)
    before = recall(site.store, binding_of, patient, as_of, k1)
    return difference(before, after, site.store.alerts(patient, superseded=True))


def kinds(found: Difference) -> list[tuple[str, str]]:
    return [(cause.what, cause.entry.event_id) for cause in found.causes]


def test_each_event_is_what_it_is(site: LineSite) -> None:
    k1 = send(site, *FIRST, diameter("r1", 100, 25, result="R", status="preliminary"))
    k2 = send(
        site, diameter("next", 200, 33), diameter("late", 80, 24), correction("c", 900, "m1", "retract"),
        correction("waits", 901, "never", "retract"),
        correction("away", 902, "m2", "wrong_patient", right_patient="H1/p2"), consent("w", 400, "withdrawn"),
        diameter("r2", 100, 26, result="R", status="final"),
        event_line("assessment", "a", 60, {"scale": "recist", "value": "PD"}), treatment("t", 210, "drugA", "on"),
    )
    found = between(site, k1, k2)
    assert sorted(kinds(found)) == sorted(
        [
            ("new", "next"), ("late", "late"), ("correction", "c"), ("correction", "waits"), ("moved away", "away"),
            ("consent", "w"), ("status", "r2"), ("kept", "a"), ("new", "t"),
        ]
    )
    causes = {cause.entry.event_id: cause for cause in found.causes}
    assert causes["late"].late_by == timedelta(days=70)
    assert causes["next"].late_by is None
    assert "preliminary before, final now" in causes["r2"].says
    assert "has not come" in causes["waits"].says and "lesion.measured of 2020-01-31" in causes["c"].says
    assert causes["away"].says.endswith("belongs to H1/p2")
    assert causes["c"].corrects == ("urn:oncotwin:H1:ris", "m1")
    assert causes["waits"].shift == 0.0 and causes["a"].shift == 0.0
    assert all(causes[name].shift for name in ("next", "late", "c", "away", "r2"))
    assert all(cause.known_since is not None and k1 < cause.known_since <= k2 for cause in found.causes)
    there = between(site, k2, send(site, diameter("p2", 50, 20, patient="H1/p2")), patient="H1/p2")
    assert kinds(there) == [("late", "p2")]
    first = recall(site.store, binding_of, "H1/p2", known_at=k2)
    [here] = difference(nothing_known(first, k1), first).causes
    assert here.what == "moved here" and here.says.endswith("posted to H1/p1")


def test_shifts_are_those_of_the_beliefs(site: LineSite) -> None:
    k1 = send(site, *FIRST)
    k2 = send(site, diameter("late", 80, 44))
    found = between(site, k1, k2)
    [cause] = found.causes
    # One event alone is all that happened.
    assert found.largest is not None and found.largest.shift is not None
    assert cause.shift == pytest.approx(found.largest.shift) and cause.component == found.largest.component
    for one in found.components:
        assert one.before is not None and one.after is not None and one.shift is not None
        assert one.shift == pytest.approx((one.after["mean"] - one.before["mean"]) / one.before["sd"])
    [expected] = found.forecasts
    assert expected.time == DAY_ZERO + timedelta(days=150 + 90)
    assert expected.before is not None and expected.after is not None and expected.before != expected.after
    assert "1 late" in in_words(found) and found.largest.component in in_words(found)


def test_alerts_raised_and_explained_away(site: LineSite) -> None:
    k1 = send(site, *FIRST)
    k2 = send(site, diameter("wild", 180, 90))
    raised = between(site, k1, k2)
    assert raised.raised and not raised.explained
    k3 = send(site, correction("c", 900, "wild", "retract"))
    gone = between(site, k2, k3)
    assert {alert.alert_id for alert, _ in gone.explained} >= {alert.alert_id for alert in raised.raised}
    assert all(reason.endswith(" c") for _, reason in gone.explained)
    none = between(site, k1, k3)
    assert not none.raised and not none.explained
    assert [one.shift for one in none.components] == [0.0] * len(none.components)


def test_a_promotion_is_a_cause(site: LineSite) -> None:
    k1 = send(site, *FIRST)
    promote_line(site.store, binding_of("2"), site.clock, "test")
    found = between(site, k1, site.clock.now())
    assert found.causes == () and not found.is_empty
    assert found.promoted is not None and found.promoted[0] != 0.0
    assert "model version 2" in in_words(found)
    again = between(site, site.clock.now())
    assert again.is_empty and in_words(again) == "nothing"


def test_events_beyond_the_day_asked_about_cause_nothing(site: LineSite) -> None:
    k1 = send(site, *FIRST)
    k2 = send(site, diameter("next", 200, 33), diameter("late", 80, 24), correction("c", 900, "m1", "retract"))
    found = between(site, k1, k2, as_of=DAY_ZERO + timedelta(days=100))
    assert sorted(kinds(found)) == [("correction", "c"), ("late", "late")]
    early = between(site, k1, k2, as_of=DAY_ZERO + timedelta(days=20))
    assert kinds(early) == [("correction", "c")]
    assert [cause.shift for cause in early.causes] == [0.0]


def test_of_many_events_none_is_folded_alone(site: LineSite) -> None:
    k1 = send(site, *FIRST)
    k2 = send(site, *(diameter(f"n{i}", 200 + i, 30) for i in range(21)))
    found = between(site, k1, k2)
    assert len(found.causes) == 21 and all(cause.shift is None for cause in found.causes)


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_both_beliefs_are_drawn(site: LineSite, tmp_path: Path, suffix: str) -> None:
    k1 = send(site, *FIRST)
    k2 = send(site, diameter("late", 80, 44))
    paths = [tmp_path / f"{name}{suffix}" for name in ("one", "two")]
    for path in paths:
        draw_difference(path, between(site, k1, k2))
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert paths[0].stat().st_size > 5_000


