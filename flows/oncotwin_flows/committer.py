"""The last steps of a commit group: wait for its folds, then one transaction in the store.

A committer of its own thread lets a worker read and prepare the next records while the database writes; one without a
thread does the same work at once, in the order that its caller decides (tests that schedule every step use it).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from oncotwin.domain.ids import TwinId
from oncotwin.ports.clock import Clock
from oncotwin.ports.steps import OnStep, no_step
from oncotwin.ports.twin_host import Delivery, Folded
from oncotwin.ports.twin_rows import AlertRow, CommitGroup, JournalEntry, TwinCommit
from oncotwin.ports.twin_store import TwinStore
from oncotwin_flows.groups import Group, Tally
from oncotwin_flows.outgoing import outbox_rows
from oncotwin_flows.refusals import poisoned


class Committer:
    """Commits groups one after the other, in the order of `begin`.

    Args:
        version: the model version that folded them.
        threaded: commit in a thread of its own; else `begin` returns when the commit is done.
    """

    def __init__(
        self, store: TwinStore, clock: Clock, log_name: str, version: str, *, threaded: bool = True,
        on_step: OnStep = no_step,
    ) -> None:
        self._store = store
        self._clock = clock
        self._log_name = log_name
        self._version = version
        self._on_step = on_step
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="commit") if threaded else None

    def begin(self, group: Group) -> Future[Tally]:
        """Start committing; the future tells what was committed, or raises what stopped it."""
        if self._thread is not None:
            return self._thread.submit(self._commit, group)
        done: Future[Tally] = Future()
        try:
            done.set_result(self._commit(group))
        except Exception as error:  # it belongs to whoever asks for the result, as with a thread
            done.set_exception(error)
        return done

    def follow(self, version: str) -> None:
        """What comes from now on was folded by another model version."""
        self._version = version

    def close(self) -> None:
        """Wait for the thread to end."""
        if self._thread is not None:
            self._thread.shutdown()

    def _commit(self, group: Group) -> Tally:
        """Wait for the folds and write everything in one transaction."""
        begun = self._clock.monotonic()
        assert group.ticket is not None
        folded = group.ticket.result()
        self._on_step("folded")
        waited = self._clock.monotonic()
        now = self._clock.now()
        twins = []
        dead_letters = list(group.dead_letters)
        n_accepted = group.n_accepted
        for delivery, one in zip(group.deliveries, folded, strict=True):
            entries = group.entries[one.twin_id]
            if one.failures:
                failed = {failure.key: failure.trace for failure in one.failures}
                dead_letters.extend(
                    poisoned(e, failed[e.source, e.event_id], now) for e in entries if (e.source, e.event_id) in failed
                )
                entries = [e for e in entries if (e.source, e.event_id) not in failed]
                n_accepted -= len(failed)
            twins.append(self._twin_commit(delivery, one, entries))
        self._store.commit(
            CommitGroup(
                log_name=self._log_name, offsets=group.offsets, lease_epochs=group.epochs, twins=tuple(twins),
                dead_letters=tuple(dead_letters),
                outbox=outbox_rows(twins, dead_letters, now, self._standing(twins), self._left(twins)),
                sources=group.sources, committed_at=now,
            )
        )
        self._on_step("committed")
        return Tally(
            n_accepted=n_accepted, n_duplicates=group.n_duplicates, n_rejected=len(dead_letters),
            n_estimates=sum(len(one.estimates) for one in folded), n_alerts=sum(len(one.alerts) for one in folded),
            n_commits=1, fold_wait_s=waited - begun, commit_s=self._clock.monotonic() - waited,
        )

    def _standing(self, twins: Sequence[TwinCommit]) -> list[AlertRow]:
        """Alerts of the twins that fold again: what these do not raise again is explained away by this commit."""
        rewound = [twin.twin_id for twin in twins if twin.rewound_to is not None]
        return self._store.alerts(rewound) if rewound else []

    def _left(self, twins: Sequence[TwinCommit]) -> dict[TwinId, bytes]:
        """Latest estimates of twins that took back what came later and made no new one."""
        found = {}
        for twin in twins:
            if twin.rewound_to is not None and not twin.estimates:
                rows = [row for row in self._store.estimates(twin.twin_id) if row.time < twin.rewound_to]
                for row in sorted(rows, key=lambda row: (row.time, row.source, row.event_id))[-1:]:
                    found[twin.twin_id] = row.body
        return found

    def _twin_commit(self, delivery: Delivery, one: Folded, entries: Sequence[JournalEntry]) -> TwinCommit:
        return TwinCommit(
            twin_id=one.twin_id, expected_version=delivery.version, new_version=delivery.version + 1,
            model_version=self._version, snapshots=one.snapshots, journal=tuple(entries),
            estimates=one.estimates, alerts=one.alerts, rewound_to=one.rewound_to,
            rewound_by=f"{entries[-1].source} {entries[-1].event_id}" if one.rewound_to and entries else "",
        )
