"""Lines of other model versions than the champion's: folded from the journal in the background, at a bounded share.

A follower takes the twins that a line lags behind, a few at a time, folds what is new in their journals onto the line's
own snapshots, and commits that to the line: the same shard and the same kernels as in the stream, so the line ends in
the same bits as a fold of the whole journal. It may be stopped at any moment and goes on where it stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from oncotwin.bootstrap import wiring
from oncotwin.bootstrap.settings import Settings
from oncotwin.domain.errors import ChampionChangedError, ModelError, StaleVersionError
from oncotwin.domain.ids import TwinId
from oncotwin.ports.clock import Clock
from oncotwin.ports.line_store import LineLag, LineStore
from oncotwin.ports.twin_host import Delivery
from oncotwin.ports.twin_rows import CommitGroup, JournalEntry, TwinCommit
from oncotwin.twin.fold import Binding
from oncotwin.twin.journal import NOT_FOLDED
from oncotwin.twin.shard import EVER, TwinShard
from oncotwin_flows.line_scores import log_scores, score_lines
from oncotwin_flows.outgoing import outbox_rows
from oncotwin_flows.runtime import NO_CACHE, Sealed, flow, quick_flows, task

N_AT_ONCE = 64
"""Twins folded and committed together: others wait for so short a commit, and a small machine has room for them."""

_MOST_RACES = 20
_FLOW_RUN_S = 60.0


@dataclass(slots=True)
class ShadowTally:
    """What a follower did; ``n_races``: batches that somebody else had moved on meanwhile."""

    n_twins: int = 0
    n_events: int = 0
    n_commits: int = 0
    n_races: int = 0
    worked_s: float = 0.0
    rested_s: float = 0.0


class LineFollower:
    """Folds the line of one model version.

    Args:
        share: of its time that it may work, 1 for all of it; the rest it sleeps.
        on_progress: told how many twins were brought up to date.
    """

    def __init__(
        self, store: LineStore, binding: Binding, clock: Clock, *, share: float = 1.0, n_at_once: int = N_AT_ONCE,
        on_progress: Callable[[int], None] | None = None,
    ) -> None:
        self._store = store
        self._binding = binding
        self._clock = clock
        self._share = share
        self._n_at_once = n_at_once
        self._on_progress = on_progress or (lambda n: None)
        self._history = wiring.history(store, binding.version)
        self._after = -1
        self.tally = ShadowTally()

    @property
    def version(self) -> str:
        """The model version that is followed."""
        return self._binding.version

    def fold(self, lags: Sequence[LineLag]) -> list[TwinCommit]:
        """What is new of some twins, folded onto the line.

        Raises:
            ModelError: an event that is in the journal cannot be folded under this version.
        """
        until = {lag.twin_id: lag.until for lag in lags}
        entries = self._store.journal_between(lags)

        def journal(twin_id: TwinId, since: datetime | None) -> list[JournalEntry]:
            """No more than belongs to the version that is folded up to: the stream goes on meanwhile."""
            rows = self._store.journal(twin_id, since=since)
            return [row for row in rows if row.position <= until[twin_id]]

        deliveries = []
        for lag in lags:
            new = [self._history.decode(row) for row in entries[lag.twin_id] if row.kind not in NOT_FOLDED]
            if new or lag.since == 0:
                begun = lag.folded if lag.since else 0
                deliveries.append(Delivery(lag.twin_id, lag.ordinal, begun, begun, tuple(new)))
        shard = TwinShard(self._binding, replace(self._history, journal=journal))
        found = {one.twin_id: one for one in shard.fold(deliveries)} if deliveries else {}
        commits = []
        for lag in lags:
            folded, rows = found.get(lag.twin_id), entries[lag.twin_id]
            commit = TwinCommit(
                lag.twin_id, lag.folded, lag.version, self.version, (), journal=tuple(rows)
            )
            if folded is not None:
                for failure in folded.failures:
                    raise ModelError(
                        f"model version {self.version} cannot fold event {' '.join(failure.key)} of twin "
                        f"{lag.twin_id}, which the champion could; it cannot be followed.\n{failure.trace}"
                    )
                rewound_to = EVER if lag.since == 0 else folded.rewound_to
                last = rows[-1] if rows else None
                commit = replace(
                    commit, snapshots=folded.snapshots, estimates=folded.estimates, alerts=folded.alerts,
                    rewound_to=rewound_to,
                    rewound_by=f"{last.source} {last.event_id}" if rewound_to is not None and last is not None else "",
                )
            commits.append(commit)
        return commits

    def step(self) -> int:
        """Bring the next few twins up to date; returns how many, 0 where a round over all twins is over.

        Raises:
            ChampionChangedError: the line is the champion's now. StaleVersionError: somebody else moved it.
        """
        begun = self._clock.monotonic()
        # In turns, so that twins with much to do do not keep others from theirs.
        lags = self._store.behind(self.version, self._n_at_once, after=self._after)
        if not lags:
            self._after = -1
            return 0
        commits = self.fold(lags)
        self._store.commit_line(self.version, commits, self._clock.now())
        self._after = lags[-1].ordinal
        self.tally.n_twins += len(lags)
        self.tally.n_events += sum(len(commit.journal) for commit in commits)
        self.tally.n_commits += 1
        worked = self._clock.monotonic() - begun
        self.tally.worked_s += worked
        self._on_progress(len(lags))
        if self._share < 1.0:
            rest = worked * (1.0 / self._share - 1.0)
            self.tally.rested_s += rest
            self._clock.sleep(rest)
        return len(lags)

    def round(self, seconds: float = float("inf")) -> int:
        """Step until every twin had its turn, or the time is over; returns how many twins were moved.

        Raises:
            ChampionChangedError: the line is the champion's now. StaleVersionError: others move it all the time.
        """
        deadline = self._clock.monotonic() + seconds
        n_moved = n_races = 0
        begun_amid = self._after >= 0
        while self._clock.monotonic() < deadline:
            try:
                n = self.step()
            except ChampionChangedError:
                raise
            except StaleVersionError:
                # Another follower was there first: what it left is looked up again.
                self.tally.n_races += 1
                n_races += 1
                if n_races > _MOST_RACES:
                    raise
                continue
            n_races = 0
            n_moved += n
            if n == 0 and not begun_amid:
                break
            begun_amid = begun_amid and n > 0
        return n_moved

    def catch_up(self) -> int:
        """Go round until the line lags behind no twin; returns how many twins were moved."""
        n_moved = self.round()
        while n := self.round():
            n_moved += n
        return n_moved

    def complete(self) -> int:
        """Fold twins that an earlier release left under other versions anew, for the champion that is followed."""
        n_done = n_races = 0
        while lags := self._store.behind(self.version, self._n_at_once):
            cause, now = f"model {self.version}", self._clock.now()
            twins = [
                replace(
                    commit, expected_version=commit.new_version, new_version=commit.new_version + 1, journal=(),
                    rewound_by=cause,
                )
                for commit in self.fold(lags)
            ]
            group = CommitGroup(f"line {self.version}", {}, {}, tuple(twins), now, outbox=outbox_rows(twins, (), now))
            try:
                self._store.commit(group)
            except ChampionChangedError:
                raise
            except StaleVersionError:
                n_races += 1
                if n_races > _MOST_RACES:
                    raise
                continue
            n_done += len(lags)
            self._on_progress(len(lags))
        return n_done


@task(name="fold line", retries=2, retry_delay_seconds=2, cache_policy=NO_CACHE)
def fold_line(follower: Sealed[LineFollower], seconds: float) -> int:
    """Fold for a while; plain code inside."""
    return follower.content.round(seconds)


@flow(name="shadow", validate_parameters=False)
def shadow(follower: Sealed[LineFollower], seconds: float) -> int:
    """One bounded run: journal -> line."""
    return fold_line(follower, seconds)


def run_shadow(
    settings: Settings, version: str, *, share: float, until_idle: bool,
    on_progress: Callable[[int], None] | None = None, announce: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Call the flow in a loop, until interrupted, or with ``until_idle`` until the line lags behind nothing.

    At the end the line's forecasts are scored beside the champion's, and the scores are kept with its MLflow run.

    Returns:
        What was done, and the scores.
    """
    store = wiring.open_store(settings)
    binding = wiring.binding(settings, version)
    follower = LineFollower(store, binding, wiring.SystemClock(), share=share, on_progress=on_progress)
    begun = time.monotonic()
    try:
        with quick_flows():
            try:
                while binding.version != store.champion():
                    moved = shadow(Sealed(follower), _FLOW_RUN_S)
                    if moved == 0 and until_idle:
                        break
                    if moved == 0:
                        time.sleep(settings.poll_seconds)
            except ChampionChangedError as error:
                if announce is not None:
                    announce(str(error))
            except KeyboardInterrupt:
                if announce is not None:
                    announce("stopped; the next call goes on from here")
        tally = follower.tally
        champion = store.champion()
        result: dict[str, Any] = {
            "model_version": binding.version, "champion": champion, "behind": store.n_behind(binding.version),
            "twins": tally.n_twins, "events": tally.n_events, "commits": tally.n_commits, "races": tally.n_races,
            "worked_s": round(tally.worked_s, 3), "seconds": round(time.monotonic() - begun, 3),
        }
        if champion is not None and champion != binding.version:
            scores = score_lines(store, champion, binding.version)
            log_scores(wiring.open_registry(settings), binding.version, scores)
            result["scores"] = scores.as_dict()
        return result
    finally:
        store.close()
