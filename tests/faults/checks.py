"""What must be true of a store, whatever happened on the way to it."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, Engine, func, select
from tests.faults.population import POISON
from tests.faults.scheduler import BEGIN

from oncotwin.adapters.sql_store import SqlTwinStore, records, schema
from oncotwin.domain.amendment import Rejection
from oncotwin.domain.audit_verify import verify_chain
from oncotwin.domain.ids import EventKey, TwinId
from oncotwin.domain.validation import Policy, admit
from oncotwin.ports.event_log import LogRecord, NewRecord
from oncotwin.ports.twin_rows import JournalEntry
from oncotwin.twin.amendments import MOVED
from oncotwin.twin.fold import Binding
from oncotwin.twin.replay import believe
from oncotwin.twin.state import digest, to_bytes
from oncotwin_flows.outgoing import ALERTED, ESTIMATED, REJECTED


class DifferenceError(Exception):
    """A store is not what it must be."""


@dataclass(frozen=True)
class Picture:
    """What a store believes at last.

    Attributes:
        states: digest of each twin that has any event; estimates: (source, id, body) in order of clinical time.
    """

    states: Mapping[TwinId, str]
    estimates: Mapping[TwinId, list[tuple[str, str, bytes]]]
    alerts: Mapping[TwinId, dict[str, Any]]
    journal: Mapping[TwinId, dict[EventKey, str]]


def picture(store: SqlTwinStore) -> Picture:
    """Look at a store; twins none of whose events were kept are left out."""
    rows: dict[TwinId, list[JournalEntry]] = defaultdict(list)
    for entry in journal_of(store):
        rows[entry.twin_id].append(entry)
    twins = sorted(rows)
    # How often an event went to and fro before it came to rest depends on the order of arrival.
    journal = {twin: {e.key: e.content_hash for e in rows[twin] if not is_move(e)} for twin in twins}
    states = {twin: row.digest for twin, row in store.latest_snapshots(twins).items()}
    estimates: dict[TwinId, list[tuple[str, str, bytes]]] = defaultdict(list)
    for row in store.estimates():
        estimates[row.twin_id].append((row.source, row.event_id, row.body))
    alerts: dict[TwinId, dict[str, Any]] = defaultdict(dict)
    for alert in store.alerts():
        if "/" in alert.twin_id:
            alerts[alert.twin_id][alert.alert_id] = replace(alert, position=0)
    return Picture(states, dict(estimates), dict(alerts), journal)


def compare(found: Picture, expected: Picture) -> None:
    """Hold one store against another.

    Raises:
        DifferenceError: they differ in anything that is believed.
    """
    for name in ("journal", "states", "estimates", "alerts"):
        one, other = getattr(found, name), getattr(expected, name)
        for twin in sorted(set(one) | set(other)):
            if one.get(twin) != other.get(twin):
                raise DifferenceError(f"{name} of {twin}: {_difference(one.get(twin), other.get(twin))}")


def _difference(one: Any, other: Any) -> str:
    """What one of two collections has and the other has not."""
    if not isinstance(one, dict | list) or not isinstance(other, dict | list):
        return f"{one} instead of {other}"
    left = list(one.items()) if isinstance(one, dict) else one
    right = list(other.items()) if isinstance(other, dict) else other
    more = [entry for entry in left if entry not in right]
    less = [entry for entry in right if entry not in left]
    if not more and not less:
        return f"another order: {[entry[:-1] for entry in left]} instead of {[entry[:-1] for entry in right]}"
    return f"{more} is too much, {less} is missing"


def originals(store: SqlTwinStore) -> list[JournalEntry]:
    """What the hospitals sent and the store accepted, in the order of clinical time."""
    entries = [entry for entry in journal_of(store) if not is_move(entry)]
    return sorted(entries, key=lambda entry: (entry.time, entry.source, entry.event_id))


def journal_of(store: SqlTwinStore) -> list[JournalEntry]:
    """All journals."""
    with store._engine.connect() as connection:
        rows = connection.execute(select(schema.journal)).all()
    return [store._rows.open_entry(records.journal_entry(row)) for row in rows]


def is_move(entry: JournalEntry) -> bool:
    """Whether the platform made this row itself."""
    return entry.kind == MOVED


def check_nothing_lost(store: SqlTwinStore, sent: Iterable[NewRecord]) -> None:
    """Everything that was sent is in the journal once, or refused with a reason; and nothing else is.

    Raises:
        DifferenceError: an event was lost, doubled or made up.
    """
    policy = Policy(BEGIN, clock_skew=timedelta(days=1))
    contents: dict[EventKey, set[str]] = defaultdict(set)
    refused: set[tuple[str, bytes]] = set()
    for record in sent:
        _, item = admit(record.value, record.headers, policy)
        if isinstance(item, Rejection):
            refused.add((item.reason_code, item.raw))
        else:
            contents[item.header.key].add(item.header.content_hash)
    kept = {entry.key: entry for entry in originals(store)}
    letters: dict[EventKey | None, set[str]] = defaultdict(set)
    for letter in store.dead_letters(None):
        if (letter.reason_code, letter.raw) in refused:
            refused.discard((letter.reason_code, letter.raw))
        elif letter.reason_code in ("conflicting_duplicate", "fold_failed"):
            _, item = admit(letter.raw, (), policy)
            if isinstance(item, Rejection):
                raise DifferenceError(f"letter {letter.rejection_id} cannot be read any more: {item.reason}")
            if letter.reason_code == "fold_failed" and not item.header.event_id.startswith(POISON):
                raise DifferenceError(f"good event {item.header.key} was refused: {letter.reason}")
            letters[item.header.key].add(item.header.content_hash)
        else:
            raise DifferenceError(f"letter of what nobody sent: {letter}")
    if refused:
        raise DifferenceError(f"{len(refused)} refused events are in no letter")
    for key, hashes in contents.items():
        entry = kept.pop(key, None)
        there = set(letters.pop(key, ())) | ({entry.content_hash} if entry is not None else set())
        if (entry is None) != key[1].startswith(POISON):
            raise DifferenceError(f"event {key} is {'not ' * (entry is None)}in the journal")
        if there != hashes:
            raise DifferenceError(f"event {key} came with {len(hashes)} contents, {len(there)} are kept")
    if kept or letters:
        raise DifferenceError(f"events that nobody sent: {sorted(kept)} {letters}")


def check_versions(store: SqlTwinStore) -> None:
    """Each version of each twin was committed once, the last is what stands.

    Raises:
        DifferenceError: a version is missing or is not what the store shows.
    """
    heads = store.twin_heads()
    present = store.latest_snapshots(list(heads))
    for twin, head in heads.items():
        beliefs = store.beliefs(twin)
        if [row.version for row in beliefs] != list(range(1, head.version + 1)):
            raise DifferenceError(f"versions of {twin}: {[row.version for row in beliefs]}, the head is {head.version}")
        positions = [row.position for row in beliefs]
        if positions != sorted(set(positions)):
            raise DifferenceError(f"versions of {twin} have no positions of their own: {positions}")
        if beliefs[-1].digest != present[twin].digest or beliefs[-1].model_version != present[twin].model_version:
            raise DifferenceError(f"{twin}: {present[twin].digest} stands, {beliefs[-1].digest} was believed last")


def check_beliefs(store: SqlTwinStore, bind: Callable[[str], Binding]) -> None:
    """What every commit published of a twin is the fold of what the journal held by then.

    Raises:
        DifferenceError: a commit published something else.
    """
    rows: dict[TwinId, list[JournalEntry]] = defaultdict(list)
    for entry in journal_of(store):
        rows[entry.twin_id].append(entry)
    for twin in store.twin_heads():
        for belief in store.beliefs(twin):
            known = [entry for entry in rows[twin] if entry.position <= belief.position]
            found = digest(to_bytes(believe(bind(belief.model_version), twin, known).state))
            if found != belief.digest:
                raise DifferenceError(
                    f"version {belief.version} of {twin} was published as {belief.digest}, its journal folds to {found}"
                )


def check_audit(store: SqlTwinStore) -> None:
    """Every chain holds, and tells of each accepted event and each version of a twin once.

    Raises:
        DifferenceError: a chain is broken, or an entry is missing or doubled.
    """
    told: Counter[str] = Counter()
    for institution in store.audit.institutions():
        with closing(store.audit.rows(institution)) as rows:
            verdict = verify_chain(institution, rows, [])
        if verdict.flaws:
            raise DifferenceError(f"audit chain of {institution}: {verdict.flaws}")
        told.update(entry.kind for entry in store.audit.latest(institution, 100_000))
    journal = journal_of(store)
    accepted = sum(told[kind] for kind in ("event.accepted", "record.corrected", "consent.changed"))
    with store._engine.connect() as connection:
        n_versions = connection.scalar(select(func.count()).select_from(schema.beliefs))
        n_champions = connection.scalar(select(func.count()).select_from(schema.champions))
    if (accepted, told["estimate"], told["model.promoted"]) != (len(journal), n_versions, n_champions):
        raise DifferenceError(
            f"the audit trail tells of {dict(told)}; there are {len(journal)} events, {n_versions} versions, "
            f"{n_champions} champions"
        )


def check_outbox(engine: Engine, topics: Mapping[str, Iterable[LogRecord]]) -> None:
    """What a consumer that drops doubles by id has received is what was put aside, and that is what must be told.

    Raises:
        DifferenceError: a message is missing, made up, or differs when it is sent again.
    """
    table, beliefs, letters = schema.outbox, schema.beliefs, schema.dead_letters
    with engine.connect() as connection:
        rows = {r.message_key: r for r in connection.execute(select(table.c.message_key, table.c.published))}
        told = {
            f"{ESTIMATED}:{r.twin_id}:{r.version}": r.rewound_to is not None
            for r in connection.execute(select(beliefs))
        }
        refused = {f"{REJECTED}:{r.rejection_id}" for r in connection.execute(select(letters.c.rejection_id))}
        alerts = set(connection.scalars(select(schema.alerts.c.alert_id)))
        believed = _believed_alerts(connection)
    waiting = [key for key, row in rows.items() if not row.published]
    if waiting:
        raise DifferenceError(f"not published: {waiting}")
    received: dict[str, tuple[bytes, object]] = {}
    for topic, sent in topics.items():
        for record in sent:
            key = f"{topic}:{dict(record.headers)['ce_id'].decode()}"
            content = (record.value, record.headers)
            if received.setdefault(key, content) != content:
                raise DifferenceError(f"message {key} was sent twice with different content")
    # The store keeps refusals under names of its own, by which nobody can guess what was refused.
    known = [{key for key in keys if not key.startswith(REJECTED)} for keys in (received, rows)]
    if known[0] != known[1] or len(received) != len(rows):
        raise DifferenceError(f"messages received and put aside differ: {sorted(set(received) ^ set(rows))}")
    missing = {key for key, must in told.items() if must} - set(rows)
    if missing:
        raise DifferenceError(f"commits that nobody was told of: {sorted(missing)}")
    for key in rows:
        topic = key.partition(":")[0]
        if topic == ESTIMATED and key not in told:
            raise DifferenceError(f"an estimate of no commit was told: {key}")
        if topic == REJECTED and key not in refused:
            raise DifferenceError(f"a refusal that is none was told: {key}")
        if topic == ALERTED and key.split(":")[1] not in alerts:
            raise DifferenceError(f"an alert that is none was told: {key}")
    untold = believed - {key.split(":")[1] for key in rows if key.startswith(ALERTED)}
    if untold:
        raise DifferenceError(f"alerts that nobody was told of: {sorted(untold)}")


def _believed_alerts(connection: Connection) -> set[str]:
    """Alerts of no model, and those that stood while their model was the champion: no other line's are told of."""
    alerts, champions = schema.alerts.c, schema.champions.c
    reigns = connection.execute(select(champions.position, champions.model_version).order_by(champions.position)).all()
    begins = [reign.position for reign in reigns]
    found = set(connection.scalars(select(alerts.alert_id).where(alerts.model_version == "")))
    for row in connection.execute(
        select(alerts.alert_id, alerts.model_version, alerts.position, alerts.superseded_at)
    ):
        ended = math.inf if row.superseded_at is None else row.superseded_at
        for reign, after in zip(reigns, [*begins[1:], math.inf], strict=True):
            if reign.model_version == row.model_version and max(row.position, reign.position) < min(ended, after):
                found.add(row.alert_id)
    return found


def as_sent(entry: JournalEntry) -> NewRecord:
    """A journal row as the record that brought it."""
    return NewRecord(entry.twin_id, entry.payload)
