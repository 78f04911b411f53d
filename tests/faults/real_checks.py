"""What must be true when a seed with real parts is over."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from tests.faults.checks import (
    DifferenceError,
    Picture,
    as_sent,
    check_nothing_lost,
    check_outbox,
    compare,
    originals,
    picture,
)
from tests.faults.real_run import Run

from oncotwin.adapters.event_log import open_event_log
from oncotwin.adapters.local_host import LocalHost
from oncotwin.adapters.signing import SigningKeys
from oncotwin.adapters.sql_store import SqlTwinStore, open_twin_store
from oncotwin.bootstrap import wiring
from oncotwin.bootstrap.settings import Settings
from oncotwin.domain.audit_drafts import CONSENT_CHANGED, ESTIMATE, EVENT_ACCEPTED, RECORD_CORRECTED
from oncotwin.ports.event_log import NewRecord
from oncotwin.twin.shard import TwinShard
from oncotwin_flows.audit import verify
from oncotwin_flows.groups import Bounds
from oncotwin_flows.outgoing import ALERTED, ESTIMATED, REJECTED
from oncotwin_flows.worker import Worker, WorkerSettings

_OF_EVENTS = {EVENT_ACCEPTED, RECORD_CORRECTED, CONSENT_CHANGED}


def check(run: Run) -> None:
    """Hold a run's store against what was sent, against its topics, and against an undisturbed run.

    Raises:
        DifferenceError: something was lost, doubled, or is different.
    """
    store: SqlTwinStore = run.store
    check_nothing_lost(store, run.sent)
    _check_offsets(run)
    _check_versions(store)
    check_outbox(store._engine, {topic: run.received(topic) for topic in (ESTIMATED, ALERTED, REJECTED)})
    _check_audit(run, store)
    compare(picture(store), undisturbed(run.settings, [as_sent(entry) for entry in originals(store)]))


def undisturbed(settings: Settings, records: Sequence[NewRecord]) -> Picture:
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
            log.append(records)
            tally = worker.run(Bounds(events=10**6, seconds=1e6, commit_events=10**6))
            if tally.n_accepted != len(records):
                raise DifferenceError(f"of {len(records)} events in the journal a quiet worker takes {tally}")
            return picture(store)
        finally:
            log.close()
            store.close()


def _check_offsets(run: Run) -> None:
    stored, ends = run.store.offsets(wiring.log_name(run.settings)), run.ends()
    if any(stored.get(partition, 0) != end for partition, end in ends.items()):
        raise DifferenceError(f"offsets {stored} are not the log's end {ends}")


def _check_versions(store: SqlTwinStore) -> None:
    """Each version of each twin was committed once, and the last is what stands."""
    snapshots = store.latest_snapshots(list(store.twin_heads()))
    for twin_id, head in store.twin_heads().items():
        beliefs = store.beliefs(twin_id)
        if [one.version for one in beliefs] != list(range(1, head.version + 1)):
            raise DifferenceError(f"versions of {twin_id}: {[b.version for b in beliefs]}, the head is {head.version}")
        if len({one.position for one in beliefs}) != len(beliefs):
            raise DifferenceError(f"two versions of {twin_id} have one position")
        if snapshots[twin_id].digest != beliefs[-1].digest:
            raise DifferenceError(f"the snapshot of {twin_id} is not what was believed last")


def _check_audit(run: Run, store: SqlTwinStore) -> None:
    """The chains verify, and tell of each event and each belief once."""
    report = verify(store.audit, SigningKeys(run.settings.signing_folder))
    if report.all_flaws:
        raise DifferenceError(f"the audit trail does not verify: {report.all_flaws[0].message}")
    told: Counter[str] = Counter()
    n_beliefs = 0
    for institution in store.audit.institutions():
        for _, _, kind, ref, *_ in store.audit.rows(institution):
            if kind in _OF_EVENTS:
                told[ref] += 1
            n_beliefs += kind == ESTIMATE
    expected = Counter(f"{entry.source} {entry.event_id}" for entry in originals(store))
    if told != expected:
        raise DifferenceError(f"the audit trail tells of other events than the journal: {told - expected} is too much, "
                              f"{expected - told} is missing")
    n_committed = sum(len(store.beliefs(twin_id)) for twin_id in store.twin_heads())
    if n_beliefs != n_committed:
        raise DifferenceError(f"the audit trail tells of {n_beliefs} beliefs, {n_committed} were committed")
