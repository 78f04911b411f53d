"""What a hospital's clerk would make of a pile of events: docs/events.md read aloud, over a list, from the beginning.

It is the yardstick of the state machine test and shares no line with the program: events are the JSON objects that were
sent, nothing is kept but those that were accepted, and every answer is worked out anew from all of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

Event = dict[str, Any]
Key = tuple[str, str]
Recorded = tuple[datetime, str, str]

_STATUSES = ("preliminary", "final", "corrected", "entered-in-error")
_FOLDED = ("lesion.measured", "lab.result", "treatment.administered", "treatment.planned")
_NOT_CONTENT = ("traceparent", "sequence", "dataschema")


def key_of(event: Event) -> Key:
    """(source, id)."""
    return event["source"], event["id"]


def kind_of(event: Event) -> str:
    """The short kind."""
    return str(event["type"]).removeprefix("org.oncotwin.").removesuffix(".v1")


def moment_of(text: str) -> datetime:
    """A time or a date as it is compared."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC) if len(text) == 10 else datetime.fromisoformat(text)


def when(event: Event) -> tuple[datetime, str, str]:
    """Where an event stands in its patient's course."""
    time = moment_of(event["time"])
    if event.get("timeprecision") == "day":
        time = time.replace(hour=0, minute=0, second=0)
    return time, event["source"], event["id"]


def recorded(event: Event) -> Recorded:
    """When it was written down; of two on one matter the later counts."""
    return moment_of(event.get("recordedtime") or event["time"]), event["source"], event["id"]


def result_of(event: Event) -> tuple[str, str, str] | None:
    """The result that an event reports, where it says so."""
    name = event["data"].get("result")
    return None if name is None else (event["source"], kind_of(event), name)


class PlainModel:
    """The list, and what follows from it.

    Attributes:
        events: accepted, in the order in which they came.
        erased: patients of whom nothing is kept.
    """

    def __init__(self, events: Iterable[Event] = (), erased: Iterable[str] = ()) -> None:
        self.events = list(events)
        self.erased = set(erased)
        self._standing: dict[str, list[Event]] = {}

    def take(self, event: Event) -> str:
        """Take an event in; returns ``accepted``, ``duplicate``, ``conflict`` or ``erased``."""
        if event["subject"] in self.erased:
            return "erased"
        for other in self.events:
            if key_of(other) == key_of(event):
                return "duplicate" if _content(other) == _content(event) else "conflict"
        self.events.append(event)
        self._standing.clear()
        return "accepted"

    def erase(self, patient: str) -> None:
        """Forget a patient."""
        self.erased.add(patient)
        self._standing.clear()
        self.events = [event for event in self.events if event["subject"] != patient]

    def known(self, keys: Iterable[Key]) -> PlainModel:
        """As it was when only these had come."""
        there = set(keys)
        return PlainModel((event for event in self.events if key_of(event) in there), self.erased)

    def journal(self, patient: str) -> list[Event]:
        """What was sent under a patient."""
        return [event for event in self.events if event["subject"] == patient]

    def patients(self) -> set[str]:
        """Everybody of whom something was sent, or with whom something of another's was put."""
        passed = {patient for event in self._sent() for patient in self.journey(event)[0]}
        return {event["subject"] for event in self.events} | passed

    def standing(self, patient: str) -> list[Event]:
        """Corrections sent under a patient that no standing correction takes back, the latest last."""
        if patient in self._standing:
            return self._standing[patient]
        corrections = [event for event in self.journal(patient) if kind_of(event) == "record.corrected"]
        by_key = {key_of(event): event for event in corrections}
        verdicts: dict[Key, bool] = {}
        for event in corrections:
            if key_of(event) not in verdicts and (circle := _circle(event, by_key)):
                verdicts.update(_judged(circle, by_key))
        found = sorted((event for event in corrections if _stands(event, by_key, verdicts)), key=recorded)
        self._standing[patient] = found
        return found

    def journey(self, event: Event) -> tuple[list[str], Event | None]:
        """The patients an event passes, the first as it was sent, and the event as it stands with the last of them.

        None instead of the event where it was retracted, or belongs to somebody who was erased.
        """
        patients, content = [event["subject"]], event
        moved_at: Recorded | None = None
        while patients[-1] not in self.erased:
            words = [
                word
                for word in self.standing(patients[-1])
                if _target(word) == key_of(event) and (moved_at is None or recorded(word) > moved_at)
            ]
            if not words:
                return patients, {**content, "subject": patients[-1]}
            last = words.pop()
            if last["data"]["action"] == "retract":
                return patients, None
            if last["data"]["action"] == "replace":
                return patients, _replaced(event, last)
            # It goes on with the content that it had here before.
            while words:
                before = words.pop()
                if before["data"]["action"] == "replace":
                    content = _replaced(event, before)
                if before["data"]["action"] in ("replace", "retract"):
                    break
            patients.append(last["data"]["right_patient"])
            moved_at = recorded(last)
        return patients, None

    def in_effect(self, patient: str) -> list[Event]:
        """What belongs to a patient once all corrections are made, whatever its kind."""
        found = (self.journey(event)[1] for event in self._sent())
        return [event for event in found if event is not None and event["subject"] == patient]

    def _sent(self) -> list[Event]:
        return [event for event in self.events if kind_of(event) != "record.corrected"]

    def in_force(self, patient: str) -> list[Event]:
        """What moves the patient's twin, in the order of the clinical times."""
        there = self.in_effect(patient)
        events = [event for event in there if kind_of(event) in _FOLDED]
        reports: dict[tuple[str, str, str], list[Event]] = {}
        for event in events:
            if (name := result_of(event)) is not None:
                reports.setdefault(name, []).append(event)
        for same in reports.values():
            same.sort(key=lambda one: (_STATUSES.index(one.get("status", "final")), recorded(one)[0], one["id"]))
            for superseded in same[:-1]:
                events.remove(superseded)
        events = [event for event in events if event.get("status") != "entered-in-error"]
        changes = [event for event in there if kind_of(event) == "consent.changed" and event["data"]["scope"] == "care"]
        changes.sort(key=lambda one: (moment_of(one["data"]["effective"]), one["source"], one["id"]))
        return sorted((event for event in events if _consented(event, changes)), key=when)

    def must_see_all(self, patient: str) -> bool:
        """Whether the twin's next event cannot be folded without looking at everything.

        Consent was changed, a correction waits, something of another patient is there, or a result was an error.
        """
        own = self.journal(patient)
        keys = {key_of(event) for event in own}
        return (
            any(patient in self.journey(event)[0][1:] for event in self._sent())
            or any(kind_of(event) == "consent.changed" for event in own)
            or any(kind_of(event) == "record.corrected" and _target(event) not in keys for event in own)
            or any(result_of(event) is not None and event.get("status") == "entered-in-error" for event in own)
        )


def _content(event: Event) -> Event:
    return {"status": "final"} | {name: value for name, value in event.items() if name not in _NOT_CONTENT}


def _target(correction: Event) -> Key:
    return correction["data"]["supersedes"]["source"], correction["data"]["supersedes"]["id"]


def _replaced(event: Event, correction: Event) -> Event:
    """What a correction puts in an event's place, under the event's own source and id."""
    new = correction["data"]["replacement"]
    found = {
        **{name: event[name] for name in ("specversion", "source", "id")}, "subject": correction["subject"],
        **{name: new[name] for name in ("type", "time", "timeprecision", "data") if name in new}, "status": "corrected",
    }
    if "recordedtime" in correction:
        found["recordedtime"] = correction["recordedtime"]
    return found


def _circle(event: Event, by_key: dict[Key, Event]) -> list[Event]:
    """The corrections that correct each other in a circle through this one, in the order in which they do."""
    members = [event]
    while (following := by_key.get(_target(members[-1]))) is not None and following not in members:
        members.append(following)
    return members if following is event else []


def _objections(event: Event, by_key: dict[Key, Event]) -> list[Event]:
    return [other for other in by_key.values() if _target(other) == key_of(event)]


def _stands(event: Event, by_key: dict[Key, Event], verdicts: dict[Key, bool]) -> bool:
    """Whether nothing that stands takes a correction back; of those in circles it was decided before."""
    if key_of(event) in verdicts:
        return verdicts[key_of(event)]
    return not any(_stands(other, by_key, verdicts) for other in _objections(event, by_key))


def _judged(circle: list[Event], by_key: dict[Key, Event]) -> dict[Key, bool]:
    """Whether each of a circle stands: what a word from outside takes back does not, else the latest does.

    From there along the circle, each stands whose corrector does not.
    """
    keys = {key_of(one) for one in circle}
    fallen = {
        key_of(one)
        for one in circle
        if any(_stands(other, by_key, {}) for other in _objections(one, by_key) if key_of(other) not in keys)
    }
    first = max(range(len(circle)), key=lambda i: (key_of(circle[i]) in fallen, recorded(circle[i])))
    found: dict[Key, bool] = {}
    before = False
    for one in circle[first:] + circle[:first]:
        found[key_of(one)] = before = key_of(one) not in fallen and not before
    return found


def _consented(event: Event, changes: list[Event]) -> bool:
    """Whether the last word on the use in care, at the event's time, was not a withdrawal."""
    decision = "granted"
    for change in changes:
        if moment_of(change["data"]["effective"]) <= when(event)[0]:
            decision = change["data"]["decision"]
    return decision == "granted"
