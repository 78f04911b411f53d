"""A hospital's stream as it comes: monthly visits; some events are doubled, late by up to a year, or corrected."""

from __future__ import annotations

import json
import math
import random
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from oncotwin.ports.event_log import NewRecord

START = datetime(2016, 1, 1, tzinfo=UTC)
VISIT_DAYS = 30
LATEST_VISITS = 12
"""Visits that a late event may miss, and by which a correction may come afterwards: a year."""

SOURCE = "urn:oncotwin:north:ris"


@dataclass(frozen=True, slots=True)
class Mix:
    """Shares of the events: sent twice, late, corrected."""

    doubled: float = 0.02
    late: float = 0.03
    corrected: float = 0.01


CLEAN = Mix(0.0, 0.0, 0.0)


def patient(number: int) -> str:
    """A patient's pseudonym."""
    return f"north/p{number:06d}"


def visit_time(visit: int) -> datetime:
    """The day of a visit."""
    return START + timedelta(days=VISIT_DAYS * visit)


def measured(who: str, visit: int, rng: random.Random) -> bytes:
    """One measurement as a line: a lesion that grows slowly, with an error of a tenth."""
    mm = round(40.0 * math.exp(0.005 * visit + rng.gauss(0.0, 0.1)), 1)
    return _line(who, f"{who}-{visit}", "lesion.measured", visit_time(visit), _data(mm))


def corrected(who: str, visit: int, now: int, rng: random.Random) -> bytes:
    """A correction of a visit's measurement, made at a later visit: taken back, or another value in its place."""
    data: dict[str, object] = {
        "supersedes": {"source": SOURCE, "id": f"{who}-{visit}"}, "reason": "typing error", "action": "retract",
    }
    if rng.random() < 0.5:
        replacement = {
            "type": "org.oncotwin.lesion.measured.v1", "time": _moment(visit_time(visit)),
            "data": _data(round(40.0 * math.exp(0.005 * visit + rng.gauss(0.0, 0.1)), 1)),
        }
        data |= {"action": "replace", "replacement": replacement}
    # A second correction of one event would need a name of its own.
    return _line(who, f"{who}-{visit}-c{now}", "record.corrected", visit_time(now), data)


def stream(n_patients: int, mix: Mix, seed: int, first_visit: int = 0) -> Iterator[NewRecord]:
    """Visit after visit of all patients, in another order each time, without an end."""
    rng = random.Random(seed)
    order = list(range(n_patients))
    late: dict[int, deque[NewRecord]] = defaultdict(deque)
    doubles: deque[tuple[int, NewRecord]] = deque()
    n_sent = 0
    visit = first_visit
    while True:
        due = late.pop(visit, deque())
        every = max(1, n_patients // max(1, len(due)))
        rng.shuffle(order)
        for place, number in enumerate(order):
            who = patient(number)
            one = NewRecord(who, measured(who, visit, rng))
            if rng.random() < mix.late:
                late[visit + rng.randint(1, LATEST_VISITS)].append(one)
            else:
                yield one
                n_sent += 1
            if rng.random() < mix.doubled:
                doubles.append((n_sent + rng.randint(1, 2 * n_patients), one))
            if visit > first_visit and rng.random() < mix.corrected:
                wrong = rng.randint(max(first_visit, visit - LATEST_VISITS), visit - 1)
                yield NewRecord(who, corrected(who, wrong, visit, rng))
                n_sent += 1
            if due and place % every == 0:
                yield due.popleft()
                n_sent += 1
            if doubles and doubles[0][0] <= n_sent:
                yield doubles.popleft()[1]
                n_sent += 1
        yield from due
        n_sent += len(due)
        visit += 1


def _data(mm: float) -> dict[str, object]:
    return {"lesion": "L1", "kind": "longest_diameter", "value": mm, "unit": "mm"}


def _moment(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def _line(who: str, name: str, kind: str, time: datetime, data: dict[str, object]) -> bytes:
    content = {
        "specversion": "1.0", "id": name, "source": SOURCE, "type": f"org.oncotwin.{kind}.v1", "subject": who,
        "time": _moment(time), "recordedtime": _moment(time), "data": data,
    }
    return json.dumps(content).encode()
