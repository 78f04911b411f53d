"""What corrections make of a patient's events: which are in effect, and which belong to somebody else.

All of it is a function of the set of events alone, never of their order of arrival.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from oncotwin.domain.amendment import Accepted, Arrival, Correction, Standing
from oncotwin.domain.ids import EventKey, TwinId, split_twin_id

MOVED = "record.moved"
"""Kind of the journal rows that tell of an event of another patient's journal; no sender's."""

MOST_ROUNDS = 100
"""An event that is moved on takes one round for each patient on its way; no event has been on so many."""


@dataclass(frozen=True, slots=True)
class Move:
    """An event of one patient's journal that belongs to another patient.

    Attributes:
        right: where it belongs. by: standing of the correction that says so.
        instance: the event as it stands in this journal. replacement: the correction that had replaced its content.
    """

    right: TwinId
    by: Standing
    instance: Accepted
    replacement: Correction | None

    @property
    def item(self) -> Accepted:
        """What is moved, still as the wrong patient's."""
        if self.replacement is not None and self.replacement.replacement is not None:
            return self.replacement.replacement
        if isinstance(self.instance, Arrival):
            assert self.instance.item is not None
            return self.instance.item
        return self.instance


def standing_of(correction: Correction) -> Standing:
    """When a correction was recorded, its source and id."""
    header = correction.header
    return (header.recorded_at or header.time, header.source, header.event_id)


def standing_corrections(accepted: Iterable[Accepted]) -> dict[EventKey, list[Correction]]:
    """Corrections that stand, by the event that they correct, the latest first.

    A correction stands unless one that stands corrects it. Of corrections that correct each other in a circle the one
    recorded last stands.
    """
    corrections = {event.header.key: event for event in accepted if isinstance(event, Correction)}
    latest_first = sorted(corrections.values(), key=standing_of, reverse=True)
    objections: dict[EventKey, list[EventKey]] = defaultdict(list)
    for correction in latest_first:
        if correction.supersedes in corrections:
            objections[correction.supersedes].append(correction.header.key)
    stands: dict[EventKey, bool] = {}
    undecided = [correction.header.key for correction in latest_first]
    while undecided:
        ready = [
            key
            for key in undecided
            if any(stands.get(one) for one in objections[key]) or all(one in stands for one in objections[key])
        ]
        # None is ready where all that is left is in circles or follows from one.
        for key in ready or undecided[:1]:
            stands[key] = not any(stands.get(one) for one in objections[key])
        undecided = [key for key in undecided if key not in stands]
    found: dict[EventKey, list[Correction]] = defaultdict(list)
    for correction in latest_first:
        if stands[correction.header.key]:
            found[correction.supersedes].append(correction)
    return dict(found)


def arrivals(accepted: Iterable[Accepted]) -> list[Arrival]:
    """The last word on each event that came from another patient, where it was not taken back."""
    last: dict[tuple[EventKey, TwinId], Arrival] = {}
    for event in accepted:
        if isinstance(event, Arrival):
            before = last.get((event.key, event.origin))
            if before is None or event.number > before.number:
                last[event.key, event.origin] = event
    return [event for event in last.values() if event.item is not None]


def settle(accepted: Iterable[Accepted], *, whole: bool = True) -> tuple[list[Accepted], dict[EventKey, Move]]:
    """Apply a journal's corrections.

    Of several corrections of one event the one recorded last counts. What arrived from another patient obeys only
    corrections recorded after the one that moved it. A correction of an event that has not come waits for it.

    Args:
        whole: whether the whole journal is given; else its later part and every correction, none of which waits.
    Returns:
        (events in effect, in no order: neither corrections nor arrivals among them; events that belong to others).
    """
    accepted = list(accepted)
    standing = standing_corrections(accepted)
    effective: dict[EventKey, Accepted] = {}
    moves: dict[EventKey, Move] = {}
    own = {event.header.key: event for event in accepted if not isinstance(event, Correction | Arrival)}
    instances: list[tuple[EventKey, Accepted, list[Correction]]] = [
        (key, event, standing.get(key, [])) for key, event in own.items()
    ]
    for arrival in sorted(arrivals(accepted), key=lambda one: (one.moved_by, one.origin)):
        later = [one for one in standing.get(arrival.key, []) if standing_of(one) > arrival.moved_by]
        instances.append((arrival.key, arrival, later))
    for key, instance, corrections in instances:
        item = instance.item if isinstance(instance, Arrival) else instance
        assert item is not None
        if not corrections:
            effective.setdefault(key, item)
            continue
        last = corrections[0]
        if last.action == "replace" and last.replacement is not None:
            effective.setdefault(key, last.replacement)
        elif last.action == "wrong_patient" and last.right_patient is not None:
            move = Move(last.right_patient, standing_of(last), instance, _replaced(corrections[1:]))
            if key not in moves or moves[key].by < move.by:
                moves[key] = move
    amendments = {event.header.key for event in accepted if isinstance(event, Correction | Arrival)}
    for key, corrections in standing.items() if not whole else ():
        if key not in own and key not in amendments and (replacement := corrections[0].replacement) is not None:
            effective.setdefault(key, replacement)
    return list(effective.values()), moves


def waiting(accepted: Iterable[Accepted]) -> list[Correction]:
    """Corrections that stand in a whole journal and whose event has not come to it, in the order of their recording."""
    accepted = list(accepted)
    there = {event.header.key for event in accepted} | {event.key for event in accepted if isinstance(event, Arrival)}
    standing = standing_corrections(accepted)
    found = [correction for key, corrections in standing.items() if key not in there for correction in corrections[:1]]
    return sorted(found, key=standing_of)


def _replaced(earlier: Iterable[Correction]) -> Correction | None:
    """The correction that had replaced the content of an event before it was moved."""
    for correction in earlier:
        if correction.action == "replace":
            return correction
        if correction.action == "retract":
            return None
    return None


def as_patient(item: Accepted, twin_id: TwinId) -> Accepted:
    """An event as another patient's."""
    institution, patient = split_twin_id(twin_id)
    return replace(item, header=replace(item.header, institution=institution, patient=patient))


def moved(by_twin: Mapping[TwinId, Iterable[Accepted]]) -> dict[TwinId, list[Accepted]]:
    """Give each patient the events that were posted to others, for those who hold all journals at once."""
    journals = {twin_id: list(events) for twin_id, events in by_twin.items()}
    issued: dict[tuple[TwinId, TwinId, EventKey], Arrival] = {}
    concerned = sorted(journals)
    for _ in range(MOST_ROUNDS):
        touched: set[TwinId] = set()
        for twin_id in concerned:
            _, moves = settle(journals[twin_id])
            given = {(right, key): last for (origin, right, key), last in issued.items() if origin == twin_id}
            for new, right, _ in due_arrivals(twin_id, moves, given):
                issued[twin_id, right, new.key] = new
                journals.setdefault(right, []).append(new)
                touched.add(right)
        concerned = sorted(touched)
        if not touched:
            break
    return journals


def due_arrivals(
    origin: TwinId, moves: Mapping[EventKey, Move], given: Mapping[tuple[TwinId, EventKey], Arrival]
) -> list[tuple[Arrival, TwinId, Move | None]]:
    """What other patients' journals must be told of one patient's events.

    Args:
        moves: what the one's journal says now (`settle`).
        given: the last word that each (patient, event) was given on it.
    Returns:
        (the word, whose journal it goes into, the move behind it; None where something is taken back).
    """
    places = sorted({*given, *((move.right, key) for key, move in moves.items())})
    found = []
    for right, key in places:
        move = moves.get(key)
        wanted = move if move is not None and move.right == right else None
        if (new := _next_arrival(origin, right, key, given.get((right, key)), wanted)) is not None:
            found.append((new, right, wanted))
    return found


def _next_arrival(
    origin: TwinId, right: TwinId, key: EventKey, last: Arrival | None, move: Move | None
) -> Arrival | None:
    """The word that a patient's journal must be given on an event of another's; None where the last still holds."""
    number = 1 if last is None else last.number + 1
    source, event_id = key
    name = f"{event_id}#moved-{number}-from-{origin}-to-{right}"
    if move is not None:
        item: Any = as_patient(move.item, right)
        if last is not None and last.item == item and last.moved_by == move.by:
            return None
        header = replace(
            item.header, source=source, event_id=name, kind=MOVED, sequence=None, result_id=None
        )
        return Arrival(header, key, origin, number, move.by, item)
    if last is None or last.item is None:
        return None
    return replace(last, header=replace(last.header, event_id=name), number=number, item=None)
