"""Events for the state machine: small numbers drawn by Hypothesis, read as events that meet and correct each other."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st
from tests.faults.plain_model import Event, PlainModel, key_of

PATIENTS = ("H1/p0", "H1/p1", "H1/p2", "H2/p0")
DAY_ZERO = datetime(2020, 1, 1, tzinfo=UTC)

Drawn = tuple[Any, ...]


def written(day: int) -> str:
    """A moment on a coarse grid, so that times tie."""
    return (DAY_ZERO + timedelta(days=20 * day)).isoformat().replace("+00:00", "Z")


PATIENT = st.integers(0, len(PATIENTS) - 1)
FEED = st.sampled_from(("ris", "ris", "lab"))
NUMBER = st.one_of(st.none(), st.none(), st.integers(0, 4))
"""Of a name: the next that nobody used, or one of a few, so that names come twice or are corrected before they come."""
DAY = st.integers(0, 8)
VALUE = st.sampled_from((5.0, 8.0, 13.0, 21.0, 34.0, 55.0))
RESULT = st.sampled_from((None, None, "R1", "R2"))
STATUS = st.sampled_from(("preliminary", "final", "corrected", "entered-in-error"))
LATER = st.one_of(st.none(), st.integers(0, 6))


@st.composite
def contents(draw: st.DrawFn) -> dict[str, Any]:
    """Type, time and data of something that may be measured, given or planned."""
    day = draw(DAY)
    kind = draw(st.sampled_from(("lesion", "lesion", "lab", "lab", "treatment", "treatment", "plan", "assessment")))
    data: dict[str, Any]
    if kind == "lesion":
        name = "lesion.measured"
        lesion = draw(st.sampled_from(("L1", "L1", "L2")))
        data = {"lesion": lesion, "kind": "longest_diameter", "value": draw(VALUE), "unit": "mm"}
    elif kind == "lab":
        name = "lab.result"
        data = {"code": "2857-1", "value": draw(VALUE), "unit": "ng/mL"}
    elif kind == "treatment":
        name = "treatment.administered"
        data = {"agent": draw(st.sampled_from(("drugA", "drugB"))), "action": draw(st.sampled_from(("on", "off")))}
    elif kind == "plan":
        name = "treatment.planned"
        data = {"items": [{"agent": "drugA", "action": "on", "start": written(day + 1)}]}
    else:
        name, data = "assessment", {"scale": "recist", "value": "PD"}
    if kind in ("lesion", "lab") and (result := draw(RESULT)) is not None:
        data["result"] = result
    found: dict[str, Any] = {"type": f"org.oncotwin.{name}.v1", "time": written(day), "data": data}
    if draw(st.integers(0, 5)) == 0:
        found |= {"time": written(day)[:10], "timeprecision": "day"}
    return found


@st.composite
def measured(draw: st.DrawFn) -> Drawn:
    """An event that is no correction."""
    content = draw(contents())
    status = draw(STATUS) if "result" in content["data"] else "final"
    return "event", draw(PATIENT), draw(FEED), draw(NUMBER), content, status, draw(LATER)


@st.composite
def consents(draw: st.DrawFn) -> Drawn:
    """A change of consent."""
    scope = draw(st.sampled_from(("care", "care", "research")))
    decision = draw(st.sampled_from(("withdrawn", "granted")))
    data = {"scope": scope, "decision": decision, "effective": written(draw(DAY))}
    content = {"type": "org.oncotwin.consent.changed.v1", "time": written(draw(DAY)), "data": data}
    return "event", draw(PATIENT), "ris", draw(NUMBER), content, "final", None


NAMES = st.tuples(PATIENT, st.sampled_from("ec"), st.integers(0, 4))
"""Of something that may come."""


@st.composite
def corrections(draw: st.DrawFn) -> Drawn:
    """A correction: of something that was sent, or of a name that may come."""
    action = draw(st.sampled_from(("replace", "replace", "retract", "retract", "wrong_patient", "wrong_patient")))
    return (
        "correction", draw(st.integers(0, 40)), draw(st.booleans()), draw(NUMBER), action, draw(contents()),
        draw(PATIENT), draw(LATER), draw(st.none() | st.none() | NAMES),
    )


AGAIN = st.tuples(st.just("again"), st.integers(0, 60))
COURSE = st.lists(st.one_of(measured(), measured(), measured(), consents()), min_size=1, max_size=6)
AMENDMENTS = st.lists(corrections(), min_size=1, max_size=3)
MIXED = st.lists(st.one_of(measured(), corrections(), corrections(), consents(), AGAIN), min_size=1, max_size=5)


class Scribe:
    """Reads what was drawn as the events that it means, given what was sent before."""

    def __init__(self) -> None:
        self._n_named: dict[str, int] = {}

    def write(self, one: Drawn, sent: list[Event], model: PlainModel) -> Event | None:
        """The event; None where what was drawn means nothing here."""
        if one[0] == "again":
            return sent[one[1] % len(sent)] if sent else None
        if one[0] == "correction":
            return self._correction(one[1:], sent, model)
        _, patient, feed, number, content, status, later = one
        found: Event = self.headed(PATIENTS[patient], feed, "e", number) | content
        if status != "final":
            found["status"] = status
        if later is not None:
            found["recordedtime"] = written(10 + later)
        return found

    def _correction(self, drawn: Drawn, sent: list[Event], model: PlainModel) -> Event | None:
        """A correction under the patient who has the event now, or under whom it was sent."""
        target, by_holder, number, action, content, right, later, early = drawn
        if early is not None or not sent:
            which, letter, of = early or (right, "e", 0)
            patient = PATIENTS[which]
            source, event_id = f"urn:oncotwin:{patient[:2]}:ris", f"{letter}-{patient[3:]}-{of}"
        else:
            wrong = sent[target % len(sent)]
            source, event_id = key_of(wrong)
            patient = model.journey(wrong)[0][-1] if by_holder else wrong["subject"]
        data: dict[str, Any] = {"supersedes": {"source": source, "id": event_id}, "action": action, "reason": "error"}
        if action == "replace":
            data["replacement"] = content
        if action == "wrong_patient":
            data["right_patient"] = PATIENTS[right]
            if PATIENTS[right] == patient or PATIENTS[right][:2] != patient[:2]:
                return None
        found = self.headed(patient, "ris", "c", number)
        if key_of(found) == (source, event_id):
            return None
        found |= {"type": "org.oncotwin.record.corrected.v1", "time": written(5), "data": data}
        if later is not None:
            found["recordedtime"] = written(20 + later)
        return found

    def erasure(self, patient: str) -> Event:
        """The order to erase a patient."""
        data = {"scope": "patient", "reason": "request of the patient"}
        return self.headed(patient, "ris", "x", None) | {
            "type": "org.oncotwin.patient.erased.v1", "time": written(7), "data": data,
        }

    def headed(self, subject: str, feed: str, letter: str, number: int | None) -> Event:
        """Attributes that every event has."""
        name = f"{letter}-{subject[3:]}"
        if number is None:
            number = self._n_named[name] = self._n_named.get(name, 0) + 1
        source = f"urn:oncotwin:{subject[:2]}:{feed}"
        return {"specversion": "1.0", "source": source, "id": f"{name}-{number}", "subject": subject}
