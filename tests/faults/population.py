"""What hospitals might send, drawn from a seed: late, doubled, contradictory, corrected, misposted, broken."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from oncotwin.domain.errors import EventError
from oncotwin.domain.events import encode_record, parse_event
from oncotwin.ports.event_log import NewRecord
from oncotwin.testing.patients import DAY_ZERO, consent, correction, diameter, event_line, treatment

POISON, KILLER = "poison", "poison-killer"
"""Events whose id begins with these break the fold (`world.poisoned_kernel`), or end the process that folds them."""


@dataclass(frozen=True)
class Population:
    """Patients and what is sent of them.

    Attributes:
        events: each distinct line once, in the order in which a careful hospital would send it.
        deliveries: batches as they really arrive.
    """

    patients: tuple[str, ...]
    events: tuple[bytes, ...]
    deliveries: tuple[tuple[NewRecord, ...], ...]


@dataclass
class _Sent:
    """One event drawn: its key, patient and day, for later events that refer to it."""

    key: tuple[str, str]
    patient: str
    day: float
    line: bytes
    is_correction: bool = False
    moves_to: str = ""


@dataclass
class _Drawing:
    rng: random.Random
    sent: list[_Sent] = field(default_factory=list)
    n: int = 0

    def name(self, prefix: str) -> str:
        self.n += 1
        return f"{prefix}{self.n}"

    def add(self, line: bytes, day: float, *, is_correction: bool = False, moves_to: str = "") -> _Sent:
        content = json.loads(line)
        one = _Sent((content["source"], content["id"]), content["subject"], day, line, is_correction, moves_to)
        self.sent.append(one)
        return one


def draw_population(rng: random.Random, *, small: bool = False) -> Population:
    """Patients of one or two institutions, their events, and the order and batching of the arrival."""
    n_patients = rng.randint(2, 3) if small else rng.choice((2, 3, 3, 4, 5))
    institutions = ("H1", "H2") if rng.random() < 0.6 else ("H1",)
    patients = tuple(f"{institutions[i % len(institutions)]}/p{i}" for i in range(n_patients))
    drawing = _Drawing(rng)
    for patient in patients:
        _draw_course(drawing, patient)
    for patient in patients:
        _draw_amendments(drawing, patient, patients)
    lines = [one.line for one in drawing.sent]
    bad = _draw_bad(drawing, patients)
    return Population(patients, tuple(lines), _draw_deliveries(rng, [*lines, *bad]))


def _source(rng: random.Random, patient: str) -> str:
    institution = patient.partition("/")[0]
    feed = rng.choice(("ris", "ris", "lab"))
    return f"urn:oncotwin:{institution}:{feed}" if rng.random() < 0.85 else f"urn:x-old-{feed}-of-{institution}"


def _draw_course(drawing: _Drawing, patient: str) -> None:
    """Measurements, laboratory values and treatment; some days are drawn twice, so that times tie."""
    rng = drawing.rng
    days = [rng.randrange(0, 600) for _ in range(rng.randint(2, 7))]
    for day in days:
        more: dict[str, Any] = {"patient": patient, "source": _source(rng, patient)}
        kind = rng.random()
        if kind < 0.5:
            lesion = rng.choice(("L1", "L1", "L2"))
            drawing.add(diameter(drawing.name("d"), day, rng.randint(3, 90), lesion=lesion, **more), day)
        elif kind < 0.7:
            data = {"code": "2857-1", "value": round(rng.uniform(0.1, 90), 1), "unit": "ng/mL"}
            if rng.random() < 0.3:
                data["result"] = rng.choice(("R1", "R2"))
                more["status"] = rng.choice(("preliminary", "final", "corrected", "entered-in-error"))
            drawing.add(event_line("lab.result", drawing.name("l"), day, data, **more), day)
        elif kind < 0.9:
            agent, action = rng.choice(("drugA", "drugB")), rng.choice(("on", "on", "off"))
            drawing.add(treatment(drawing.name("t"), day, agent, action, **more), day)
        elif kind < 0.95:
            start = (DAY_ZERO + timedelta(days=day + 7)).isoformat().replace("+00:00", "Z")
            data = {"items": [{"agent": "drugA", "action": "on", "start": start}]}
            drawing.add(event_line("treatment.planned", drawing.name("p"), day, data, **more), day)
        else:
            data = {"scale": "recist", "value": "PD"}
            drawing.add(event_line("assessment", drawing.name("a"), day, data, **more), day)
    # Whether poison that is not in force is noticed depends on the order; here it always is in force.
    if rng.random() < 0.25:
        name = drawing.name(f"{KILLER if rng.random() < 0.2 else POISON}-")
        day = rng.randrange(0, 600)
        drawing.add(diameter(name, day, 20, patient=patient, source=_source(rng, patient)), day)
    elif rng.random() < 0.25:
        for decision in ("withdrawn", "granted")[: rng.randint(1, 2)]:
            day = rng.randrange(0, 600)
            scope = rng.choice(("care", "care", "research"))
            drawing.add(consent(drawing.name("c"), day, decision, scope=scope, patient=patient), day)


def _draw_amendments(drawing: _Drawing, patient: str, patients: Sequence[str]) -> None:
    """Corrections of events, of corrections, of what was moved away, and of what never came."""
    rng = drawing.rng
    others = [p for p in patients if p != patient and p.partition("/")[0] == patient.partition("/")[0]]
    poisoned = {one.patient for one in drawing.sent if one.key[1].startswith(POISON)}
    for _ in range(rng.choice((0, 0, 1, 1, 2, 3))):
        own = [
            one
            for one in drawing.sent
            if patient in (one.patient, one.moves_to) and not one.key[1].startswith(POISON)
        ]
        if not own:
            return
        target = rng.choice(own)
        day = 700 + rng.randrange(0, 40)
        source, event_id = target.key
        if rng.random() < 0.05:
            event_id = drawing.name("never-came-")
        # Consent that is moved to a patient with poison would hide it, as consent of that patient's own would.
        rights = [p for p in others if not (b"consent.changed" in target.line and p in poisoned)]
        action = rng.choice(("replace", "retract", *(("wrong_patient",) * 2 if rights else ())))
        more: dict[str, Any] = {"patient": patient}
        moves_to = ""
        if action == "replace":
            time = (DAY_ZERO + timedelta(days=rng.randrange(0, 600))).isoformat().replace("+00:00", "Z")
            data = {"lesion": "L1", "kind": "longest_diameter", "value": rng.randint(3, 90), "unit": "mm"}
            more["replacement"] = {"type": "org.oncotwin.lesion.measured.v1", "time": time, "data": data}
        elif action == "wrong_patient":
            moves_to = more["right_patient"] = rng.choice(rights)
        line = correction(drawing.name("x"), day, event_id, action, source=source, **more)
        drawing.add(line, day, is_correction=True, moves_to=moves_to)


def _draw_bad(drawing: _Drawing, patients: Sequence[str]) -> list[bytes]:
    """Lines that must be refused, and second versions of what was sent under the same id."""
    rng = drawing.rng
    patient = rng.choice(patients)
    makers = (
        lambda: diameter(drawing.name("b"), 9_000, 20, patient=patient),
        lambda: diameter(drawing.name("b"), 3, -4, patient=patient),
        lambda: diameter(drawing.name("b"), 3, 20, patient=patient).replace(b'"mm"', b'"kg"'),
        lambda: event_line("tea.served", drawing.name("b"), 4, {"cups": 1}, patient=patient),
        lambda: diameter(drawing.name("b"), 6, 20, patient="H3/p9", source="urn:oncotwin:H1:ris"),
        lambda: b"{ this is no event " + str(rng.randrange(10)).encode(),
    )
    bad = [rng.choice(makers)() for _ in range(rng.choice((0, 0, 1, 2)))]
    for _ in range(rng.choice((0, 0, 1, 2))):
        content = json.loads(rng.choice(drawing.sent).line)
        if "value" in content["data"] and not isinstance(content["data"]["value"], str):
            content["data"]["value"] += 1
        else:
            content["recordedtime"] = "2023-05-05T00:00:00Z"
        bad.append(json.dumps(content).encode())
    return bad


def _draw_deliveries(rng: random.Random, lines: list[bytes]) -> tuple[tuple[NewRecord, ...], ...]:
    """The order of arrival, with doubles, cut into batches."""
    order = list(lines)
    manner = rng.choice(("shuffled", "in order", "backwards", "some late"))
    if manner == "shuffled":
        rng.shuffle(order)
    elif manner == "backwards":
        order.reverse()
    elif manner == "some late":
        late = [order.pop(rng.randrange(len(order))) for _ in range(len(order) // 5)]
        order += late
    for _ in range(rng.randrange(0, max(1, len(order) // 3))):
        first = rng.randrange(len(order))
        order.insert(rng.randint(first + 1, len(order)), order[first])
    records = [_record(rng, line) for line in order]
    batches = []
    while records:
        n = rng.randint(1, 12)
        batches.append(tuple(records[:n]))
        records = records[n:]
    return tuple(batches)


def _record(rng: random.Random, line: bytes) -> NewRecord:
    """A line in structured or in binary mode, under its patient's key."""
    try:
        event = parse_event(line)
    except EventError:
        return NewRecord("H1/p0", line)
    if rng.random() < 0.5:
        return NewRecord(event.subject, line)
    value, headers = encode_record(event)
    return NewRecord(event.subject, value, headers)
