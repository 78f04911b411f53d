"""Small patients for tests: events as they arrive, and what validation makes of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from oncotwin.domain.amendment import Accepted, Rejection
from oncotwin.domain.validation import Policy, admit

DAY_ZERO = datetime(2020, 1, 1, tzinfo=UTC)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def event_line(
    kind: str, event_id: str, day: float, data: dict[str, Any], *, patient: str = "H1/p1", source: str = "", **more: Any
) -> bytes:
    """One JSON line; ``day`` counts from 2020-01-01."""
    institution = patient.partition("/")[0]
    content = {
        "specversion": "1.0", "id": event_id, "source": source or f"urn:oncotwin:{institution}:ris",
        "type": f"org.oncotwin.{kind}.v1", "subject": patient,
        "time": (DAY_ZERO + timedelta(days=day)).isoformat().replace("+00:00", "Z"), "data": data, **more,
    }
    return json.dumps(content).encode()


def diameter(
    event_id: str, day: float, mm: float, *, lesion: str = "L1", result: str | None = None, **more: Any
) -> bytes:
    """A measured lesion; ``result`` names the reading, so that a later status can replace it."""
    data: dict[str, Any] = {"lesion": lesion, "kind": "longest_diameter", "value": mm, "unit": "mm"}
    if result is not None:
        data["result"] = result
    return event_line("lesion.measured", event_id, day, data, **more)


def treatment(event_id: str, day: float, agent: str, action: str, **more: Any) -> bytes:
    """A treatment switched on or off."""
    start = (DAY_ZERO + timedelta(days=day)).isoformat().replace("+00:00", "Z")
    data = {"agent": agent, "action": action, "start": start}
    return event_line("treatment.administered", event_id, day, data, **more)


def correction(event_id: str, day: float, supersedes: str, action: str, **data: Any) -> bytes:
    """A correction of an earlier event of the same source."""
    source = data.pop("source", "urn:oncotwin:H1:ris")
    patient = data.pop("patient", "H1/p1")
    recorded = (DAY_ZERO + timedelta(days=day)).isoformat().replace("+00:00", "Z")
    body = {"supersedes": {"source": source, "id": supersedes}, "action": action, "reason": "typing error", **data}
    return event_line("record.corrected", event_id, day, body, patient=patient, source=source, recordedtime=recorded)


def consent(event_id: str, day: float, decision: str, *, scope: str = "care", **more: Any) -> bytes:
    """Consent ``granted`` or ``withdrawn`` from a day on."""
    effective = (DAY_ZERO + timedelta(days=day)).isoformat().replace("+00:00", "Z")
    data = {"scope": scope, "decision": decision, "effective": effective}
    return event_line("consent.changed", event_id, day, data, **more)


def erasure(event_id: str, day: float, **more: Any) -> bytes:
    """The order to erase a patient."""
    data = {"scope": "patient", "reason": "request of the patient"}
    return event_line("patient.erased", event_id, day, data, **more)


def accepted(lines: Sequence[bytes]) -> list[Accepted]:
    """Validated items of good lines.

    Raises:
        AssertionError: a line is refused.
    """
    found: list[Accepted] = []
    for line in lines:
        _, item = admit(line, (), Policy(NOW))
        assert not isinstance(item, Rejection), f"{item.reason} at {item.where}"
        found.append(item)
    return found
