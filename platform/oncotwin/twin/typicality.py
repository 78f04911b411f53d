"""Warn of a section that is unlike those of its reference cohort, and say what becomes of its observations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from oncotwin.domain.observation import Observation
from oncotwin.models.base import TumourModel
from oncotwin.models.spatial_observation import follows, inflation
from oncotwin.twin.alert_text import subject
from oncotwin.twin.drift import Alert, alert_id
from oncotwin.twin.timeline import days

KIND: Final = "unlike"


def unlike_alert(twin_id: str, item: Observation, models: Sequence[TumourModel]) -> Alert:
    """The alert of an observation that comes from a section out of distribution, used or not.

    Args:
        item: with evidence that is out of distribution.
        models: that follow the twin.
    """
    found = item.evidence
    assert found is not None and found.distance is not None and found.limit is not None
    followed = [model.name for model in models if follows(model, item.observable)]
    use = "No model follows it: it is kept and shown"
    if followed:
        times = inflation(item) ** 0.5
        use = f"Where {' and '.join(followed)} takes it, it counts with {times:.1f} times its usual error"
    odd = f"; most unlike: {', '.join(found.unlike)}" if found.unlike else ""
    chance = "" if found.p is None else f", as far as {found.p:.2g} of the cohort's own sections lie from the others"
    what, time = subject(item.observable, item.target), days(item.header.time)
    return Alert(
        alert_id=alert_id(twin_id, item.header.key, KIND, item.observable, item.target), kind=KIND, severity="warning",
        observable=item.observable, target=item.target, event=item.header.key, time=time, since=time,
        message=(
            f"{what[0].upper()}{what[1:]} of {item.header.time:%Y-%m-%d} comes from a section unlike those of the "
            f"cohort {found.cohort}: distance {found.distance:.2f}, limit {found.limit:.2f}{chance}{odd}. {use}."
        ),
        recommended=(
            "Look at the section's report and its quality first; compare platform, panel and stain with the cohort's; "
            "repeat the section, or add sections of this kind to the cohort."
        ),
        statistic=found.distance, threshold=found.limit,
    )
