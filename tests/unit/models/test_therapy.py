"""What a patient is being given, as treatment events change it."""

from __future__ import annotations

from oncotwin.models.therapy import Therapy


def test_doses_of_unknown_duration_end_with_the_course_they_belong_to() -> None:
    therapy = Therapy().changed("on", "androgen_suppression", 10.0)
    therapy = therapy.changed("given", "leuprolide", 10.0).changed("given", "leuprolide", 38.0)
    assert therapy.regimen == "androgen_suppression + leuprolide"
    paused = therapy.changed("off", "androgen_suppression", 60.0)
    assert not paused.on
    assert paused.switched == 60.0
    assert paused.changed("on", "androgen_suppression", 200.0).n_episodes == 2


def test_a_dose_with_a_known_end_outlives_the_course() -> None:
    therapy = Therapy().changed("on", "A", 0.0).changed("given", "B", 5.0, until=50.0).changed("off", "A", 10.0)
    assert therapy.regimen == "B"
    assert not therapy.at(50.0).on


def test_another_course_keeps_treatment_on() -> None:
    therapy = Therapy().changed("on", "A", 0.0).changed("on", "B", 0.0).changed("given", "C", 1.0)
    assert therapy.changed("off", "A", 9.0).regimen == "B + C"


def test_a_dose_alone_stays_until_it_is_ended() -> None:
    therapy = Therapy().changed("given", "A", 0.0)
    assert therapy.at(1e4).on
    assert not therapy.changed("off", "A", 5.0).on
