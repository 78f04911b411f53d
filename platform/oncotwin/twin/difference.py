"""What changed between two beliefs of one twin, and which events did it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from oncotwin.domain.amendment import Accepted, Arrival, Consent, Correction, Erasure
from oncotwin.domain.ids import EventKey
from oncotwin.domain.observation import ArrayReference, Assessment, Observation
from oncotwin.domain.treatment import Treatment
from oncotwin.ports.twin_rows import AlertRow, JournalEntry
from oncotwin.twin.drift import Alert
from oncotwin.twin.expectation import Expectation, live_forecasts
from oncotwin.twin.fold import Binding
from oncotwin.twin.journal import NOT_FOLDED, decode, report_name
from oncotwin.twin.recall import Recollection
from oncotwin.twin.replay import Belief, believe_each, components
from oncotwin.twin.state import TwinState
from oncotwin.twin.timeline import days, moment

MOST_ATTRIBUTED = 20
"""Events that are each folded alone; of more nobody would read it, and each costs a fold of the whole journal."""
AHEAD = timedelta(days=90)
"""How far both beliefs are asked to forecast."""

_IN_TIME = frozenset({"new", "late", "status", "kept"})
"""Causes that act at their own clinical time."""

Marginal = Mapping[str, float]
"""mean, sd, q05, q50, q95 of one component."""


@dataclass(frozen=True, slots=True)
class ComponentChange:
    """One component of one model before and after; None where the belief does not have it.

    Attributes:
        shift: of the mean, in standard deviations of the belief before; None where one of the two is missing.
    """

    model: str
    component: str
    before: Marginal | None
    after: Marginal | None
    shift: float | None


@dataclass(frozen=True, slots=True)
class Cause:
    """One journal row that became known in between.

    Attributes:
        what: ``new``, ``late``, ``correction``, ``moved here``, ``moved away``, ``taken back`` (an event that had been
            moved here and is so no more), ``status`` (another state of a result reported before), ``consent``, or
            ``kept`` (moves no twin).
        says: in words.
        known_since: moment of its commit.
        late_by: clinical time that the twin had gone beyond it when it came; None where it only followed.
        corrects: the event that it corrects, moves or reports again.
        shift: how far the event alone moves the mean of ``component`` that it moves most, in standard deviations of
            the belief before; None where that was not asked.
    """

    entry: JournalEntry
    what: str
    says: str
    known_since: datetime | None
    late_by: timedelta | None = None
    corrects: EventKey | None = None
    shift: float | None = None
    component: str = ""


@dataclass(frozen=True, slots=True)
class ForecastChange:
    """What is expected of one series `AHEAD` of the later of both beliefs; None where a belief does not know it."""

    observable: str
    target: str
    unit: str
    time: datetime
    before: Mapping[str, float] | None
    after: Mapping[str, float] | None


@dataclass(frozen=True, slots=True)
class Difference:
    """What changed from one belief to another of the same twin.

    Attributes:
        explained: alerts that stood before and do not any more, with the event that explained each ("" where none is
            named).
        promoted: how far the model version alone moves the mean that it moves most, where the version changed.
    """

    before: Recollection
    after: Recollection
    components: tuple[ComponentChange, ...]
    causes: tuple[Cause, ...]
    raised: tuple[Alert, ...]
    explained: tuple[tuple[Alert, str], ...]
    forecasts: tuple[ForecastChange, ...]
    promoted: tuple[float, str] | None = None

    @property
    def is_empty(self) -> bool:
        """Nothing became known and the same model version answers."""
        return not self.causes and self.promoted is None

    @property
    def largest(self) -> ComponentChange | None:
        """The component whose mean moved most."""
        moved = [one for one in self.components if one.shift is not None]
        return max(moved, key=lambda one: abs(one.shift or 0.0), default=None)


def difference(
    before: Recollection, after: Recollection, told: Sequence[AlertRow] = (), *, alone: bool = True, ahead: bool = True
) -> Difference:
    """Compare two beliefs of one twin about the same clinical time.

    Events beyond that time are in no view and cause nothing; a correction counts whatever its own time.

    Args:
        before: the one that knew less. told: alerts of the twin, those explained away too, for their reasons.
        alone: fold each event alone, unless there are more than `MOST_ATTRIBUTED`; ahead: compare forecasts.
    """
    fresh = [entry for entry in after.entries if entry.position > before.position]
    causes = [
        cause
        for cause in _classified(after, fresh)
        if after.as_of is None or cause.what not in _IN_TIME or cause.entry.time <= after.as_of
    ]
    base, promoted = before.belief, None
    if before.binding.version != after.binding.version:
        [base] = believe_each(after.binding, after.twin_id, [_accepted(before.entries)], after.as_of)
        promoted = _largest(
            components(before.binding, before.belief.state), components(after.binding, base.state)
        )
    if alone and 0 < len(causes) <= MOST_ATTRIBUTED:
        causes = _attributed(after, base.state, before.entries, causes)
    reasons = {row.alert_id: row.superseded_by for row in told}
    standing = {alert.alert_id for alert in after.belief.effects.alerts}
    stood = {alert.alert_id for alert in before.belief.effects.alerts}
    return Difference(
        before, after,
        tuple(
            _changes(components(before.binding, before.belief.state), components(after.binding, after.belief.state))
        ),
        tuple(causes),
        tuple(alert for alert in after.belief.effects.alerts if alert.alert_id not in stood),
        tuple(
            (alert, reasons.get(alert.alert_id, ""))
            for alert in before.belief.effects.alerts
            if alert.alert_id not in standing
        ),
        tuple(_forecasts(before, after)) if ahead else (), promoted,
    )


def nothing_known(after: Recollection, known_at: datetime) -> Recollection:
    """The belief before anything was known of the patient."""
    [empty] = believe_each(after.binding, after.twin_id, [[]], after.as_of)
    return Recollection(after.twin_id, after.as_of, known_at, after.binding, empty, (), (), "")


def in_words(found: Difference) -> str:
    """The difference in a line."""
    said = []
    counted: dict[str, int] = {}
    for cause in found.causes:
        if cause.what != "kept":
            counted[cause.what] = counted.get(cause.what, 0) + 1
    for what, n in counted.items():
        said.append(f"{n} {what}" if what != "correction" or n == 1 else f"{n} corrections")
    if found.before.binding.version != found.after.binding.version:
        said.append(f"model version {found.after.binding.version}")
    largest = found.largest
    if largest is not None and largest.shift:
        said.append(f"{largest.component} moved by {largest.shift:+.2f} sd")
    if found.raised:
        said.append(f"{len(found.raised)} alerts raised" if len(found.raised) > 1 else "1 alert raised")
    if found.explained:
        n = len(found.explained)
        said.append(f"{n} alerts explained away" if n > 1 else "1 alert explained away")
    return ", ".join(said) or "nothing"


Components = Mapping[str, Mapping[str, Marginal]]


def _changes(before: Components, after: Components) -> list[ComponentChange]:
    found = []
    for model in sorted({*before, *after}):
        one, other = before.get(model, {}), after.get(model, {})
        for name in dict.fromkeys((*one, *other)):
            shift = _shift(one[name], other[name]) if name in one and name in other else None
            found.append(ComponentChange(model, name, one.get(name), other.get(name), shift))
    return found


def _shift(before: Marginal, after: Marginal) -> float:
    """Of the mean, in standard deviations of the belief before."""
    moved = after["mean"] - before["mean"]
    return moved / before["sd"] if before["sd"] > 0.0 else 0.0


def _largest(before: Components, after: Components) -> tuple[float, str]:
    """(shift, component) of the mean that moved most; (0, "") where none moved."""
    moved = [(one.shift, one.component) for one in _changes(before, after) if one.shift is not None]
    return max(moved, key=lambda pair: abs(pair[0]), default=(0.0, ""))


def _accepted(entries: Sequence[JournalEntry]) -> list[Accepted]:
    return [decode(entry) for entry in entries if entry.kind not in NOT_FOLDED]


def _attributed(
    after: Recollection, base: TwinState, known: Sequence[JournalEntry], causes: Sequence[Cause]
) -> list[Cause]:
    """Each cause with what it alone does to the belief before."""
    accepted = _accepted(known)
    journals = [[*accepted, *_accepted([cause.entry])] for cause in causes]
    start = components(after.binding, base)
    alone = believe_each(after.binding, after.twin_id, journals, after.as_of)
    found = []
    for cause, belief in zip(causes, alone, strict=True):
        shift, component = _largest(start, components(after.binding, belief.state))
        found.append(replace(cause, shift=shift, component=component))
    return found


def _classified(after: Recollection, fresh: Sequence[JournalEntry]) -> list[Cause]:
    """What each row is, in the order in which they became known."""
    by_key = {entry.key: entry for entry in after.entries}
    reports: dict[int, list[tuple[int, JournalEntry]]] = {}
    items = {entry.key: decode(entry) for entry in after.entries if entry.kind not in NOT_FOLDED}
    for entry in after.entries:
        item = items.get(entry.key)
        name = None if item is None or isinstance(item, Arrival) else report_name(item.header)
        if name is not None:
            reports.setdefault(name, []).append((entry.position, entry))
    found = []
    for entry in sorted(fresh, key=lambda row: (row.position, row.partition, row.offset, row.time)):
        item = items.get(entry.key)
        since = after.known_since(entry)
        through = [row.time for row in after.beliefs if row.position < entry.position and row.n_folded > 0]
        late_by = through[-1] - entry.time if through and through[-1] > entry.time else None
        if item is None or isinstance(item, Assessment | ArrayReference | Erasure):
            found.append(Cause(entry, "kept", f"{entry.kind}, {entry.time:%Y-%m-%d}, which moves no twin", since))
        elif isinstance(item, Correction):
            found.append(_correction(entry, item, by_key, since))
        elif isinstance(item, Arrival):
            found.append(_arrival(entry, item, since))
        elif isinstance(item, Consent):
            word = "granted" if item.granted else "withdrawn"
            says = f"consent to {item.scope} {word} from {item.effective:%Y-%m-%d} on"
            found.append(Cause(entry, "consent", says, since))
        else:
            name = report_name(item.header)
            earlier = [row for at, row in reports.get(name, []) if at < entry.position] if name is not None else []
            if earlier:
                says = f"{_named(item)}: {earlier[-1].status} before, {entry.status} now"
                found.append(Cause(entry, "status", says, since, late_by, earlier[-1].key))
            else:
                found.append(Cause(entry, "new" if late_by is None else "late", _named(item), since, late_by))
    return found


def _correction(
    entry: JournalEntry, item: Correction, by_key: Mapping[EventKey, JournalEntry], since: datetime | None
) -> Cause:
    target = by_key.get(item.supersedes)
    of = " ".join(item.supersedes) + (
        ", which has not come" if target is None else f" ({target.kind} of {target.time:%Y-%m-%d})"
    )
    if item.action == "wrong_patient":
        return Cause(entry, "moved away", f"{of} belongs to {item.right_patient}", since, None, item.supersedes)
    says = f"{item.action} {of}"
    if item.replacement is not None:
        says += f" by {_named(item.replacement)}"
    return Cause(entry, "correction", says, since, None, item.supersedes)


def _arrival(entry: JournalEntry, item: Arrival, since: datetime | None) -> Cause:
    if item.item is None:
        says = f"{' '.join(item.key)} does not come from {item.origin} after all"
        return Cause(entry, "taken back", says, since, None, item.key)
    return Cause(entry, "moved here", f"{_named(item.item)}, posted to {item.origin}", since, None, item.key)


def _named(item: Accepted) -> str:
    """An event in a few words."""
    when = f"{item.header.time:%Y-%m-%d}"
    if isinstance(item, Observation):
        of = f"{item.observable} {item.target}".strip()
        if item.censoring == "not_evaluable":
            return f"{of} not evaluable, {when}"
        sign = {"left": "< ", "right": "> "}.get(item.censoring, "")
        value = item.limit if item.censoring in ("left", "right") else item.value
        return f"{of} {sign}{value:.4g} {item.unit}, {when}"
    if isinstance(item, Treatment):
        return f"{item.agent} {item.action}, {when}"
    return f"{item.header.kind}, {when}"


def _forecasts(before: Recollection, after: Recollection) -> list[ForecastChange]:
    """Both beliefs' forecasts of each series at one time."""
    ends = [part.time for one in (before, after) for part in one.belief.state.parts.values()]
    if not ends:
        return []
    asked = max([*ends, *([] if after.as_of is None else [days(after.as_of)])]) + AHEAD / timedelta(days=1)
    sides = [_expected(one.binding, one.belief, asked) for one in (before, after)]
    return [
        ForecastChange(
            *key, (sides[0].get(key) or sides[1][key]).unit, moment(asked),
            *(side[key].quantiles if key in side else None for side in sides),
        )
        for key in sorted({*sides[0], *sides[1]})
    ]


def _expected(binding: Binding, belief: Belief, asked: float) -> dict[tuple[str, str], Expectation]:
    return {(one.observable, one.target): one for one in live_forecasts(binding, belief, [asked])}
