"""Events that a source numbered and that did not come: one alert of its institution, while the numbers are missing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import groupby

import orjson

from oncotwin.ports.clock import Clock
from oncotwin.ports.twin_rows import AlertRow, SequenceGap
from oncotwin.ports.twin_store import TwinStore
from oncotwin.twin.drift import alert_id
from oncotwin_flows.outgoing import institution_alert

KIND, OBSERVABLE = "sequence_gap", "sequence"

_RECOMMENDED = (
    "Ask the sending system to send these numbers again; `oncotwin rejected` lists events that came and were refused."
)
_LOOK_AGAIN = timedelta(minutes=1)
# A message is read by a person, the body by a machine whose event holds 64 KiB; the store has every number.
_RANGES_SHOWN, _RANGES_SENT = 20, 1_000


class GapWatch:
    """Looks for gaps after the worker has drained the log; any number of workers may.

    Args:
        patience: how long a gap may stay open before it raises an alert. Events of one source lie in many partitions
            and are read out of step, so most gaps are open for a moment and mean nothing.
    """

    def __init__(self, store: TwinStore, clock: Clock, patience: timedelta) -> None:
        self._store = store
        self._clock = clock
        self._patience = patience
        self._looked_at: datetime | None = None

    def is_due(self, n_accepted: int) -> bool:
        """Whether to look: where events came, and now and then where none did, as a gap opens by time alone."""
        if n_accepted > 0 or self._looked_at is None:
            return True
        return self._clock.now() - self._looked_at >= min(_LOOK_AGAIN, self._patience)

    def look(self) -> int:
        """Note what opened and closed, and raise one alert for each source with numbers missing for too long.

        Returns:
            Alerts raised here.
        Raises:
            StoreError: the store does not answer.
        """
        now = self._clock.now()
        overdue = [gap for gap in self._store.look_for_gaps(now) if self._is_overdue(gap, now)]
        n = 0
        for _, group in groupby(overdue, key=lambda gap: gap.source):
            missing = list(group)
            alert = gap_alert(missing, now, self._patience)
            n += self._store.raise_gap_alert(alert, missing, institution_alert(alert, now), now)
        self._looked_at = now
        return n

    def _is_overdue(self, gap: SequenceGap, now: datetime) -> bool:
        """Open for long enough; and a source that goes on losing events is told of once in that while, all together."""
        known_since = max(gap.opened_at, gap.alerted_at or gap.opened_at)
        return now - known_since >= self._patience


def gap_alert(missing: Sequence[SequenceGap], now: datetime, patience: timedelta) -> AlertRow:
    """What is missing of one source, since when, and what to do; its id follows from the numbers."""
    source, institution = missing[0].source, missing[0].institution
    since = min(gap.opened_at for gap in missing)
    n_missing = sum(gap.last - gap.first + 1 for gap in missing)
    ranges = [(gap.first, gap.last) for gap in missing]
    name = alert_id(institution, (source, str(ranges)), KIND, OBSERVABLE, "")
    shown = ", ".join(str(first) if first == last else f"{first} to {last}" for first, last in ranges[:_RANGES_SHOWN])
    if len(ranges) > _RANGES_SHOWN:
        shown += f" and {len(ranges) - _RANGES_SHOWN} more gaps"
    count = "1 event" if n_missing == 1 else f"{n_missing} events"
    message = (
        f"{count} of source {source} (institution {institution}) missing since {since:%Y-%m-%d %H:%M} UTC: "
        f"sequence {shown}."
    )
    body = {
        "alert_id": name, "kind": KIND, "severity": "warning", "observable": OBSERVABLE, "target": "",
        "time": now.isoformat(), "since": since.isoformat(), "message": message, "recommended": _RECOMMENDED,
        "statistic": (now - since).total_seconds(), "threshold": patience.total_seconds(), "institution": institution,
        "source": source, "n_missing": n_missing, "missing": ranges[:_RANGES_SENT],
    }
    return AlertRow(
        institution, name, now, OBSERVABLE, KIND, "warning", message, _RECOMMENDED, since, orjson.dumps(body)
    )
