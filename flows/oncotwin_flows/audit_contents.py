"""Whether the journal and the published beliefs are those that the audit trail tells of.

A chain says by commitments what was accepted and believed. Whoever holds the patients' keys can make the commitments
again from what lies in the store: an event that was changed, taken away or slipped in, and a belief that is another, do
not fit. Chains are to be verified first; here they are taken for true.

Memory grows with the patients, not with the events: each patient's entries are summed up (count, and sum of hashes) in
one pass, and only those whose sums differ are looked at one by one in a second.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import sha256

from oncotwin.domain import audit_drafts
from oncotwin.domain.audit import from_us
from oncotwin.domain.audit_verify import Flaw, Problem
from oncotwin.domain.errors import EventError
from oncotwin.domain.events import content_hash_of_line
from oncotwin.domain.ids import TwinId
from oncotwin.ports.audit_trail import AuditTrail
from oncotwin.ports.twin_rows import JournalEntry
from oncotwin.ports.twin_store import TwinStore
from oncotwin.twin.amendments import MOVED

# An erasure has two entries: one of the event that orders it, if one does, and one of its being carried out.
_OF_EVENTS = frozenset(
    {
        audit_drafts.EVENT_ACCEPTED, audit_drafts.RECORD_CORRECTED, audit_drafts.CONSENT_CHANGED,
        audit_drafts.PATIENT_ERASED,
    }
)
_SPACE = 1 << 256
_PROBLEM: Problem = "contents"

Statement = tuple[str, str, str]
"""(what: an event or a belief, which one, commitment): what an entry tells, and what the store should hold."""


@dataclass(slots=True)
class Contents:
    """What the comparison found.

    Attributes:
        n_events, n_beliefs: of the store that the trail tells of in the same way.
        n_older: events and beliefs of before the trail began, which a release without one has left.
        n_erased: entries that tell of erased patients.
        flaws: what differs, by chain and entry.
    """

    n_events: int = 0
    n_beliefs: int = 0
    n_older: int = 0
    n_erased: int = 0
    flaws: list[Flaw] = field(default_factory=list)


@dataclass(slots=True)
class _Sum:
    """Statements of one twin, summed up in any order."""

    n: int = 0
    total: int = 0

    def add(self, statement: Statement) -> None:
        self.n += 1
        digest = sha256("\x00".join(statement).encode()).digest()
        self.total = (self.total + int.from_bytes(digest, "big")) % _SPACE


def verify_contents(store: TwinStore, on_progress: Callable[[int], None] = lambda n: None) -> Contents:
    """Compare every patient's journal and beliefs with what the chains tell of them.

    Args:
        on_progress: told how many patients were compared.
    Raises:
        StoreError: the store does not answer, or what it holds does not open under its patient's key.
    """
    trail, found = store.audit, Contents()
    told: dict[str, _Sum] = defaultdict(_Sum)
    erased: set[str] = set()
    since: dict[str, int] = {}
    for institution in trail.institutions():
        for tag, statement, _, at_us in _told(trail, institution, erased):
            told[tag].add(statement)
            since.setdefault(institution, at_us)
    suspects: dict[str, TwinId] = {}
    for twin_id in sorted(store.twin_heads()):
        tag = audit_drafts.twin_tag(trail.commitment, twin_id)
        if not tag:
            continue  # erased since we looked
        begun = since.get(audit_drafts.institution_of(twin_id))
        held, counted = _Sum(), Counter[str]()
        for statement, is_older in _held(store, trail, twin_id, begun):
            if is_older:
                found.n_older += 1
            else:
                held.add(statement)
                counted[statement[0]] += 1
        if held == told.pop(tag, _Sum()):
            found.n_events += counted["event"]
            found.n_beliefs += counted["belief"]
        else:
            suspects[tag] = twin_id
        on_progress(1)
    # An erasure that came after the key was destroyed could not say whose entries are left behind.
    strangers = set() if "" in erased else set(told) - erased
    found.n_erased = sum(one.n for tag, one in told.items() if tag not in strangers)
    if suspects or strangers:
        _look_closely(store, trail, suspects, strangers, since, found)
    return found


def _told(
    trail: AuditTrail, institution: str, erased: set[str] | None = None
) -> Iterator[tuple[str, Statement, int, int]]:
    """(twin's tag, what is told of it, seq, microseconds) of each entry of an event or a belief."""
    with closing(trail.rows(institution)) as rows:
        for _, seq, kind, ref, at_us, content, _, _ in rows:
            if kind == audit_drafts.ESTIMATE:
                tag, _, version = ref.partition(" ")
                yield tag, ("belief", version, json.loads(content)["commitment"]), seq, at_us
            elif kind in _OF_EVENTS:
                read = json.loads(content)
                if "commitment" in read:
                    yield read["twin"], ("event", ref, read["commitment"]), seq, at_us
                elif erased is not None:
                    erased.add(read["twin"])


def _held(
    store: TwinStore, trail: AuditTrail, twin_id: TwinId, begun_us: int | None
) -> Iterator[tuple[Statement, bool]]:
    """(what the trail should tell of a twin, whether it is older than the trail), from what the store holds."""
    begun = None if begun_us is None else from_us(begun_us)
    beliefs = store.beliefs(twin_id)
    committed_at = {belief.position: belief.published_at for belief in beliefs}
    for entry in store.journal(twin_id):
        bound = trail.commitment(twin_id, _content_hash(entry).encode()).hex()
        moment = committed_at.get(entry.position, entry.received_at)
        ref = audit_drafts.event_ref(entry.source, entry.event_id, entry.kind)
        yield ("event", ref, bound), begun is None or moment < begun
    for belief in beliefs:
        bound = trail.commitment(twin_id, belief.digest.encode()).hex()
        yield ("belief", str(belief.version), bound), begun is None or belief.published_at < begun


def _content_hash(entry: JournalEntry) -> str:
    """Of the payload as it lies there, not the one that is filed beside it."""
    try:
        return sha256(entry.payload).hexdigest() if entry.kind == MOVED else content_hash_of_line(entry.payload)
    except (EventError, ValueError):
        return ""


def _look_closely(
    store: TwinStore, trail: AuditTrail, suspects: dict[str, TwinId], strangers: set[str], since: dict[str, int],
    found: Contents,
) -> None:
    """Name what differs, of the twins whose sums do."""
    entries: dict[str, dict[Statement, tuple[str, int]]] = {tag: {} for tag in (*suspects, *strangers)}
    for institution in trail.institutions():
        for tag, statement, seq, _ in _told(trail, institution):
            if tag in entries:
                entries[tag][statement] = (institution, seq)
    for tag, twin_id in suspects.items():
        begun = since.get(audit_drafts.institution_of(twin_id))
        held = {statement for statement, is_older in _held(store, trail, twin_id, begun) if not is_older}
        there = {statement[:2] for statement in held}
        for statement, (institution, seq) in entries[tag].items():
            if statement not in held:
                what = f"{statement[0]} {statement[1]!r}"
                how = "holds with another content" if statement[:2] in there else "does not hold any more"
                found.flaws.append(_flaw(institution, seq, f"entry {seq} tells of {what}, which the store {how}"))
        names = {statement[:2] for statement in entries[tag]}
        for what, name, _ in sorted(held):
            if (what, name) not in names:
                institution = audit_drafts.institution_of(twin_id)
                found.flaws.append(
                    _flaw(institution, 0, f"the store holds {what} {name!r} of {twin_id}, of which no entry tells")
                )
    for tag in sorted(strangers):
        institution, seq = min(entries[tag].values())
        found.flaws.append(
            _flaw(institution, seq, f"entry {seq} tells of a twin that the store does not hold, and nobody erased")
        )
    found.flaws.sort(key=lambda flaw: (flaw.institution, flaw.first))


def _flaw(institution: str, seq: int, message: str) -> Flaw:
    return Flaw(institution, seq, seq, _PROBLEM, f"{institution}: {message}")
