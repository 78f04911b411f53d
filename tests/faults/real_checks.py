"""What must be true when a seed with real parts is over, asked of the store's own port and of its topics.

The simulation's checks look into the tables of stores without a seal; these know nothing of tables, so that both have
to be wrong to miss the same.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.faults.real_run import Run

from oncotwin.adapters.event_log import open_event_log
from oncotwin.adapters.local_host import LocalHost
from oncotwin.adapters.signing import SigningKeys
from oncotwin.adapters.sql_store import SqlTwinStore, open_twin_store
from oncotwin.bootstrap import wiring
from oncotwin.bootstrap.settings import Settings
from oncotwin.domain.amendment import Rejection
from oncotwin.domain.audit_drafts import CONSENT_CHANGED, ESTIMATE, EVENT_ACCEPTED, RECORD_CORRECTED, event_ref
from oncotwin.domain.ids import EventKey
from oncotwin.domain.validation import Policy, admit
from oncotwin.ports.event_log import LogRecord, NewRecord
from oncotwin.ports.twin_rows import JournalEntry
from oncotwin.twin.amendments import MOVED
from oncotwin.twin.shard import TwinShard
from oncotwin_flows.audit import verify
from oncotwin_flows.groups import Bounds
from oncotwin_flows.outgoing import ALERTED, ESTIMATED, REJECTED
from oncotwin_flows.worker import Worker, WorkerSettings

_OF_EVENTS = {EVENT_ACCEPTED, RECORD_CORRECTED, CONSENT_CHANGED}


class LostError(Exception):
    """Something was lost, doubled, or is different."""


@dataclass(frozen=True)
class Belief:
    """What a store believes of one twin.

    Attributes:
        estimates: (source, id, body) in the order of clinical time. alerts: by id, without their wording: an alert that
            stands is not raised again when its event is folded once more, though its size may have changed.
    """

    digest: str
    estimates: tuple[tuple[str, str, bytes], ...]
    alerts: dict[str, tuple[Any, ...]]


def check(run: Run) -> None:
    """Hold a run's store against what was sent, against its topics, and against an undisturbed run.

    Raises:
        LostError: they differ.
    """
    store: SqlTwinStore = run.store
    events = _events(store)
    _check_offsets(run)
    _check_journal(store, events, run.sent)
    _check_versions(store)
    _check_topics(store, {topic: run.received(topic) for topic in (ESTIMATED, ALERTED, REJECTED)})
    _check_audit(run, store)
    found, expected = believed(store), undisturbed(run.settings, events)
    for twin_id in sorted(found.keys() | expected.keys()):
        one, other = found.get(twin_id), expected.get(twin_id)
        if one != other:
            raise LostError(f"{twin_id} is not what an undisturbed run believes: {_difference(one, other)}")


def believed(store: SqlTwinStore) -> dict[str, Belief]:
    """Of every twin that has an event in its journal."""
    twins = [twin_id for twin_id in store.twin_heads() if store.journal(twin_id)]
    snapshots = store.latest_snapshots(twins)
    return {
        twin_id: Belief(
            snapshots[twin_id].digest, tuple((e.source, e.event_id, e.body) for e in store.estimates(twin_id)),
            {a.alert_id: (a.kind, a.observable, a.time, a.since, a.severity) for a in store.alerts([twin_id])},
        )
        for twin_id in twins
    }


def undisturbed(settings: Settings, events: Sequence[JournalEntry]) -> dict[str, Belief]:
    """What one worker believes that gets the same events in the order of clinical time, in this process, on SQLite."""
    with tempfile.TemporaryDirectory() as folder:
        store = open_twin_store(f"sqlite:///{Path(folder) / 'store.sqlite'}")
        log = open_event_log(f"embedded:{Path(folder) / 'log'}", "events", 1)
        bound = wiring.binding(settings, wiring.LITERATURE)
        host = LocalHost(TwinShard(bound, wiring.history(store, wiring.LITERATURE)))
        worker = Worker(
            log, store, host, wiring.SystemClock(),
            WorkerSettings("quiet", "log", wiring.LITERATURE, 1e6, timedelta(minutes=5), threaded=False),
        )
        try:
            log.append([NewRecord(entry.twin_id, entry.payload) for entry in events])
            tally = worker.run(Bounds(events=10**6, seconds=1e6, commit_events=10**6))
            if tally.n_accepted != len(events):
                raise LostError(f"of {len(events)} events in the journal a quiet worker makes {tally}")
            return believed(store)
        finally:
            host.close()
            log.close()
            store.close()


def _events(store: SqlTwinStore) -> list[JournalEntry]:
    """What hospitals sent and the store accepted, in the order of clinical time; its own rows of moves left out."""
    rows = [entry for twin_id in store.twin_heads() for entry in store.journal(twin_id) if entry.kind != MOVED]
    return sorted(rows, key=lambda entry: (entry.time, entry.source, entry.event_id))


def _check_offsets(run: Run) -> None:
    stored, ends = run.store.offsets(wiring.log_name(run.settings)), run.ends()
    if any(stored.get(partition, 0) != end for partition, end in ends.items()):
        raise LostError(f"offsets {stored} are not the log's end {ends}")


def _check_journal(store: SqlTwinStore, events: Sequence[JournalEntry], sent: Sequence[NewRecord]) -> None:
    """Every good event is in the journal once, every other one a dead letter, and nothing else is in either."""
    policy = Policy(datetime.now(UTC))
    contents: dict[EventKey, set[str]] = defaultdict(set)
    refused: set[tuple[str, bytes]] = set()
    for record in sent:
        _, item = admit(record.value, record.headers, policy)
        if isinstance(item, Rejection):
            refused.add((item.reason_code, item.raw))
        else:
            contents[item.header.key].add(item.header.content_hash)
    kept: dict[EventKey, set[str]] = defaultdict(set)
    for entry in events:
        if entry.key in kept:
            raise LostError(f"event {entry.key} is in two journals")
        kept[entry.key].add(entry.content_hash)
    if contents.keys() != kept.keys():
        lost, more = contents.keys() - kept.keys(), kept.keys() - contents.keys()
        raise LostError(f"not in the journal: {sorted(lost)}; nobody sent {sorted(more)}")
    letters: set[tuple[str, bytes]] = set()
    for letter in store.dead_letters(None):
        if letter.reason_code == "conflicting_duplicate":
            _, item = admit(letter.raw, (), policy)
            if isinstance(item, Rejection) or item.header.content_hash in kept[item.header.key]:
                raise LostError(f"letter of what is kept already, or cannot be read: {letter}")
            kept[item.header.key].add(item.header.content_hash)
        elif (letter.reason_code, letter.raw) in letters:
            raise LostError(f"two letters of one event: {letter}")
        else:
            letters.add((letter.reason_code, letter.raw))
    if letters != refused:
        raise LostError(f"refused and not kept: {refused - letters}; kept and not sent: {letters - refused}")
    if contents != kept:
        raise LostError(f"contents sent are not those kept: {[key for key in kept if kept[key] != contents[key]]}")


def _check_versions(store: SqlTwinStore) -> None:
    """Each version of each twin was committed once, and the last is what stands."""
    heads = store.twin_heads()
    snapshots = store.latest_snapshots(list(heads))
    for twin_id, head in heads.items():
        beliefs = store.beliefs(twin_id)
        if [one.version for one in beliefs] != list(range(1, head.version + 1)):
            raise LostError(f"versions of {twin_id}: {[b.version for b in beliefs]}, the head is {head.version}")
        if len({one.position for one in beliefs}) != len(beliefs):
            raise LostError(f"two versions of {twin_id} have one position")
        if snapshots[twin_id].digest != beliefs[-1].digest:
            raise LostError(f"the snapshot of {twin_id} is not what was believed last")


def _check_topics(store: SqlTwinStore, topics: dict[str, list[LogRecord]]) -> None:
    """A consumer that drops doubles by id has each message once, each is true, and none is missing."""
    received: dict[str, dict[str, LogRecord]] = {}
    for topic, records in topics.items():
        received[topic] = {}
        for record in records:
            name = dict(record.headers)["ce_id"].decode()
            first = received[topic].setdefault(name, record)
            if (first.value, first.headers) != (record.value, record.headers):
                raise LostError(f"message {name} of {topic} was sent twice with different content")
    counts = store.counts()
    n_received = sum(map(len, received.values()))
    if counts["outbox_pending"] or counts["outbox"] != n_received:
        raise LostError(f"of {counts['outbox']} messages put aside {n_received} were received")
    digests = {f"{b.twin_id}:{b.version}": b for twin_id in store.twin_heads() for b in store.beliefs(twin_id)}
    for name, record in received[ESTIMATED].items():
        if name not in digests or json.loads(record.value)["state_digest"] != digests[name].digest:
            raise LostError(f"an estimate was told that nobody believed: {name}")
    silent = {name for name, one in digests.items() if one.rewound_to is not None} - received[ESTIMATED].keys()
    if silent:
        raise LostError(f"commits of which nobody was told: {sorted(silent)}")
    if len(received[REJECTED]) != len(store.dead_letters(None)):
        raise LostError(f"{len(received[REJECTED])} refusals were told of {len(store.dead_letters(None))}")
    raised = {alert.alert_id for alert in store.alerts(superseded=True)}
    told = {name.partition(":")[0] for name in received[ALERTED]}
    if told != raised:
        raise LostError(f"alerts raised and told differ: {sorted(told ^ raised)}")


def _check_audit(run: Run, store: SqlTwinStore) -> None:
    """The chains verify, and tell of each row of a journal and each belief once."""
    report = verify(store.audit, SigningKeys(run.settings.signing_folder))
    if report.all_flaws:
        raise LostError(f"the audit trail does not verify: {report.all_flaws[0].message}")
    told: Counter[str] = Counter()
    n_beliefs = 0
    for institution in store.audit.institutions():
        for _, _, kind, ref, *_ in store.audit.rows(institution):
            if kind in _OF_EVENTS:
                told[ref] += 1
            n_beliefs += kind == ESTIMATE
    expected = Counter(
        event_ref(entry.source, entry.event_id, entry.kind)
        for twin_id in store.twin_heads()
        for entry in store.journal(twin_id)
    )
    if told != expected:
        raise LostError(f"the audit trail tells too much: {told - expected}, too little: {expected - told}")
    n_committed = sum(len(store.beliefs(twin_id)) for twin_id in store.twin_heads())
    if n_beliefs != n_committed:
        raise LostError(f"the audit trail tells of {n_beliefs} beliefs, {n_committed} were committed")


def _difference(one: Belief | None, other: Belief | None) -> str:
    if one is None or other is None:
        return f"{one} instead of {other}"
    if one.estimates != other.estimates:
        more, less = set(one.estimates) - set(other.estimates), set(other.estimates) - set(one.estimates)
        return f"estimates {more} instead of {less}, {len(one.estimates)} instead of {len(other.estimates)}"
    if one.alerts != other.alerts:
        return f"alerts {one.alerts} instead of {other.alerts}"
    return f"digest {one.digest} instead of {other.digest}, the estimates are the same"
