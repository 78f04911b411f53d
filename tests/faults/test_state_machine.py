"""A state machine: whatever comes, in whatever order, whoever dies at whichever step, a list folded by hand agrees.

Hypothesis draws events, doubles, contradictions, corrections of every kind, crashes, pauses, restarts, promotions,
erasures and questions about the past; `plain_model` says what must come of them. `ONCOTWIN_STATE_EXAMPLES` sets the
number of examples, `--hypothesis-profile=explore` seeks new ones:

    ONCOTWIN_STATE_EXAMPLES=5000 pytest tests/faults/test_state_machine.py --hypothesis-profile=explore
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from tests.faults.drawn_events import AMENDMENTS, COURSE, MIXED, PATIENT, PATIENTS, Drawn, Scribe, measured
from tests.faults.installation import LEASE_S, LOG, N_PARTITIONS, Crash, Installation, binding_of, make_empty_store
from tests.faults.plain_model import Event, PlainModel, key_of

from oncotwin.adapters.sql_store.commit import COMMIT_STEPS
from oncotwin.adapters.sql_store.lines import PROMOTE_STEPS
from oncotwin.domain.amendment import Accepted, Rejection
from oncotwin.domain.validation import Policy, admit
from oncotwin.ports.event_log import NewRecord
from oncotwin.ports.twin_rows import JournalEntry, TwinHead
from oncotwin.twin.amendments import MOVED
from oncotwin.twin.machine import Task, perform
from oncotwin.twin.recall import check, recall
from oncotwin.twin.replay import believe
from oncotwin.twin.rows import estimate_row
from oncotwin.twin.state import TwinState, digest, to_bytes
from oncotwin_flows.erase import ERASE_STEPS
from oncotwin_flows.groups import Bounds
from oncotwin_flows.outgoing import ESTIMATED
from oncotwin_flows.promote import promote_line
from oncotwin_flows.shadow import LineFollower
from oncotwin_flows.steps import RELAY_STEPS, WORKER_STEPS

N_EXAMPLES = int(os.environ.get("ONCOTWIN_STATE_EXAMPLES", "60"))
COMMIT = st.integers(1, 8)
"""Records of one commit group."""
WORKED = st.one_of(st.none(), COMMIT)
"""The same, where events are worked off as soon as they arrive."""
_POLICY = Policy(datetime(2026, 1, 1, tzinfo=UTC), clock_skew=timedelta(days=100_000))


@lru_cache(maxsize=4096)
def item_of(line: str) -> Accepted:
    """An event as the gate judges it."""
    _, item = admit(line.encode(), (), _POLICY)
    assert not isinstance(item, Rejection), f"{item.reason} at {item.where}"
    return item


class TwinMachine(RuleBasedStateMachine):
    """An installation, whoever works in it, and the list that it is held against."""

    empty_store: Path

    def __init__(self) -> None:
        super().__init__()
        self.site = Installation(self.empty_store)
        self.store = self.site.store
        self.model = PlainModel()
        self.scribe = Scribe()
        self.sent: list[Event] = []
        self.contradicted: set[str] = set()
        self.received: dict[str, bytes] = {}
        self.read_to = dict.fromkeys(range(N_PARTITIONS), 0)
        self.position = 0
        self.seen: dict[str, Any] = {}
        self.past: list[tuple[datetime, str, str]] = []

    def teardown(self) -> None:
        """Drain, hold against the list, and go."""
        try:
            self.drain()
            self.told()
        finally:
            self.site.close()

    # What comes.

    @initialize(drawn=st.lists(measured(), min_size=2, max_size=6))
    def begin(self, drawn: list[Drawn]) -> None:
        """There is something to correct."""
        self.arrive(drawn, None)

    @rule(drawn=COURSE, worked=WORKED)
    def course(self, drawn: list[Drawn], worked: int | None) -> None:
        """Events arrive."""
        self.arrive(drawn, worked)

    @rule(drawn=AMENDMENTS, worked=WORKED)
    def amend(self, drawn: list[Drawn], worked: int | None) -> None:
        """Corrections arrive."""
        self.arrive(drawn, worked)

    @rule(drawn=MIXED, worked=WORKED)
    def mixed(self, drawn: list[Drawn], worked: int | None) -> None:
        """All kinds arrive, some of them once more."""
        self.arrive(drawn, worked)

    def arrive(self, drawn: list[Drawn], worked: int | None) -> None:
        """Send what was drawn; maybe somebody works it off at once."""
        for one in drawn:
            if (event := self.scribe.write(one, self.sent, self.model)) is not None:
                self.send(event)
        if worked is not None:
            self.run(self.site.worker(0), 1_000, worked)

    def send(self, event: Event) -> None:
        """Append an event, and tell the list."""
        self.sent.append(event)
        if self.model.take(event) == "conflict":
            self.contradicted.add(event["subject"])
        self.site.log.append([NewRecord(event["subject"], json.dumps(event).encode())])

    def can_erase(self, patient: str) -> bool:
        """The list says what becomes of those alone whose events went to nobody else."""
        moves = [one for one in self.model.journal(patient) if one["data"].get("action") == "wrong_patient"]
        return patient not in self.model.erased and not moves

    @rule(which=PATIENT, step=st.sampled_from((None, None, *ERASE_STEPS)))
    def erase(self, which: int, step: str | None) -> None:
        """A patient is erased by command; a crash at any step is taken up by whoever starts next."""
        patient = PATIENTS[which]
        if not self.can_erase(patient):
            return
        self.model.erase(patient)
        try:
            with self.site.trap(step):
                self.site.eraser.erase(patient, "asked for")
        except Crash:
            self.site.eraser.resume()

    @rule(which=PATIENT, worked=WORKED)
    def order_erasure(self, which: int, worked: int | None) -> None:
        """An event orders it."""
        patient = PATIENTS[which]
        if self.can_erase(patient):
            self.send(self.scribe.erasure(patient))
            self.model.erase(patient)
            if worked is not None:
                self.run(self.site.worker(0), 1_000, worked)

    # Who works, and dies.

    @rule(which=st.integers(0, 1), n=st.integers(1, 12), commit=COMMIT)
    def work(self, which: int, n: int, commit: int) -> None:
        """A worker does some of what there is."""
        self.run(self.site.worker(which), n, commit)

    @rule(
        which=st.integers(0, 1), step=st.sampled_from(WORKER_STEPS + COMMIT_STEPS + ERASE_STEPS),
        passes=st.integers(1, 3), commit=COMMIT, comes_back=st.booleans(),
    )
    def crash(self, which: int, step: str, passes: int, commit: int, comes_back: bool) -> None:
        """A worker dies at a named step; its next life has the same name, or its leases must run out."""
        name = self.site.worker(which)
        try:
            with self.site.trap(step, passes):
                self.run(name, 1_000, commit)
        except Crash:
            self.site.died(name, comes_back=comes_back)
            self.verify()

    @precondition(lambda self: self.site.workers)
    @rule(
        step=st.sampled_from(WORKER_STEPS[1:]), passes=st.integers(1, 3), commit=COMMIT,
        meanwhile=st.sampled_from(("takeover", "takeover", "promotion", "erasure")), which=PATIENT,
    )
    def pause(self, step: str, passes: int, commit: int, meanwhile: str, which: int) -> None:
        """A worker stands still for longer than its lease, and the world goes on meanwhile."""
        patient = PATIENTS[which]

        def stand_still() -> None:
            self.site.clock.sleep(2.0 * LEASE_S)
            if meanwhile == "promotion" and self.store.champion() is not None:
                promote_line(self.store, binding_of(self.challenger()), self.site.clock, "test")
            elif meanwhile == "erasure" and self.can_erase(patient):
                self.model.erase(patient)
                self.site.eraser.erase(patient, "asked for")
            else:
                other = self.site.new_worker("other")
                other.run(Bounds(events=1_000, seconds=1e9, commit_events=3, poll_seconds=0.0))
                other.release()

        with self.site.trap(step, passes, stand_still):
            self.run(self.site.worker(0), 1_000, commit)

    @precondition(lambda self: self.site.workers)
    @rule(which=st.integers(0, 1))
    def restart(self, which: int) -> None:
        """A worker leaves as it should."""
        self.site.workers.pop(self.site.worker(which)).release()

    @rule()
    def wait(self) -> None:
        """Leases run out."""
        self.site.clock.sleep(2.0 * LEASE_S)

    @rule()
    def drain(self) -> None:
        """Everything that was sent is worked off: nothing is missing, nothing is too much."""
        end = {partition: n for partition, n in self.site.log.end_offsets().items() if n}
        for _ in range(6):
            for name in list(self.site.workers) or [self.site.worker(0)]:
                self.run(name, 100_000, 50)
            if self.store.offsets(LOG) == end:
                break
            self.site.clock.sleep(2.0 * LEASE_S)
        assert self.store.offsets(LOG) == end
        self.site.eraser.resume()
        assert self.store.erased(PATIENTS) == self.model.erased
        rows = [row for twin_id in self.store.twin_heads() for row in self.store.journal(twin_id)]
        assert {row.key for row in rows if row.kind != MOVED} == {key_of(one) for one in self.model.events}
        letters = self.store.dead_letters(None)
        assert {letter.reason_code for letter in letters} <= {"conflicting_duplicate", "patient_erased"}
        refused = {letter.twin_id for letter in letters if letter.reason_code == "conflicting_duplicate"}
        assert refused - self.model.erased == self.contradicted - self.model.erased

    # Upgrades, messages, questions.

    @precondition(lambda self: self.store.champion() is not None)
    @rule(step=st.sampled_from((None, None, *PROMOTE_STEPS)))
    def promote(self, step: str | None) -> None:
        """The other model version is believed from now on, unless the crash comes first."""
        chosen = self.challenger()
        try:
            with self.site.trap(step):
                promote_line(self.store, binding_of(chosen), self.site.clock, "test")
        except Crash:
            assert self.store.champion() != chosen
        else:
            assert self.store.champion() == chosen
        self.verify()

    @precondition(lambda self: self.store.champion() is not None)
    @rule()
    def shadow(self) -> None:
        """A challenger follows some twins."""
        LineFollower(self.store, binding_of(self.challenger()), self.site.clock, n_at_once=2).step()

    def challenger(self) -> str:
        """The version that is not believed."""
        return "2" if self.store.champion() == "1" else "1"

    @rule(step=st.sampled_from((None, *RELAY_STEPS)), passes=st.integers(1, 2))
    def publish(self, step: str | None, passes: int) -> None:
        """The relay sends what commits have put aside, some of it twice where it dies."""
        try:
            with self.site.trap(step, passes):
                self.site.relay.publish()
        except Crash:
            self.site.relay_died()
        self.consume()

    @precondition(lambda self: self.past)
    @rule(which=st.integers(0, 1_000))
    def read_the_past(self, which: int) -> None:
        """What was believed then is found again."""
        known_at, twin_id, believed = self.past[which % len(self.past)]
        if twin_id not in self.model.erased:
            found = recall(self.store, binding_of, twin_id, None, known_at)
            assert found.digest == believed
            compared = check(self.store, found)
            assert (compared.what, compared.differences) == ("digest", ())

    # What must hold after every commit.

    def run(self, name: str, n: int, commit: int) -> None:
        """Let a worker work, then look at everything."""
        self.site.workers[name].run(Bounds(events=n, seconds=1e9, commit_events=commit, poll_seconds=0.0))
        self.verify()

    def verify(self) -> None:
        """The store holds a part of what was sent, and of that part it believes what the list makes of it."""
        position = self.store.position_at(self.site.clock.time)
        if position == self.position:
            return
        self.position = position
        heads = self.store.twin_heads()
        rows = {twin_id: self.store.journal(twin_id) for twin_id in heads}
        # Of who is to be erased and is there still, the list knows nothing any more.
        model = self.model.known(row.key for entries in rows.values() for row in entries)
        for twin_id in sorted(heads.keys() - self.model.erased):
            wanted = (model.journal(twin_id), model.in_force(twin_id), model.must_see_all(twin_id))
            if self.seen.get(twin_id) == (heads[twin_id], wanted):
                continue
            self.seen[twin_id] = (heads[twin_id], wanted)
            sent, in_force, must_see_all = wanted
            hashes = {row.key: row.content_hash for row in rows[twin_id] if row.kind != MOVED}
            assert hashes == {key_of(one): item_of(json.dumps(one)).header.content_hash for one in sent}
            self.verify_twin(heads[twin_id], rows[twin_id], in_force, must_see_all)

    def verify_twin(
        self, head: TwinHead, rows: list[JournalEntry], in_force: list[Event], must_see_all: bool
    ) -> None:
        """A twin is, to the bit, what a fold of the list is, and a fold of its journal."""
        twin_id, version = head.twin_id, head.model_version
        assert version == self.store.champion()
        items: Any = tuple(item_of(json.dumps(one)) for one in in_force)
        belief = believe(binding_of(version), twin_id, rows)
        assert [bare(item) for item in belief.items] == [bare(item) for item in items]
        [outcome] = perform(binding_of(version), [Task(TwinState(twin_id, version, guarded=must_see_all), items)])
        beliefs = self.store.beliefs(twin_id)
        assert [row.version for row in beliefs] == list(range(1, head.version + 1))
        published = beliefs[-1].digest
        [snapshot] = self.store.latest_snapshots([twin_id]).values()
        assert published == snapshot.digest == digest(snapshot.state)
        assert published == digest(to_bytes(outcome.states[-1]))
        assert published == digest(to_bytes(belief.state))
        estimates = [estimate_row(twin_id, version, one) for one in outcome.effects.estimates]
        assert sorted((row.time, row.source, row.event_id, row.body) for row in estimates) == sorted(
            (row.time, row.source, row.event_id, row.body) for row in self.store.estimates(twin_id)
        )
        self.past.append((beliefs[-1].published_at, twin_id, published))

    def consume(self) -> None:
        """Read the topic as a consumer does that drops doubles by their ids."""
        log = self.site.open_topic(ESTIMATED)
        while records := log.read(self.read_to, 100, 1_000_000, 0.0):
            for record in records:
                self.read_to[record.partition] = record.offset + 1
                name = dict(record.headers)["ce_id"].decode()
                assert self.received.setdefault(name, record.value) == record.value

    def told(self) -> None:
        """A consumer that has read everything holds what the store believes."""
        self.site.relay.publish()
        self.consume()
        latest: dict[str, tuple[int, bytes]] = {}
        for name, value in self.received.items():
            twin_id, _, version = name.rpartition(":")
            latest[twin_id] = max(latest.get(twin_id, (0, b"")), (int(version), value))
        for twin_id in self.store.twin_heads():
            believed = list(self.store.estimates(twin_id))
            # Two models may tell of one event, and two events be of one time.
            bodies = [json.loads(row.body) for row in believed if row.time == believed[-1].time]
            held = json.loads(latest[twin_id][1])["estimate"] if twin_id in latest else None
            assert held in (bodies or [None]), twin_id


def bare(item: Any) -> Any:
    """An item without what says how it was sent."""
    return replace(item, header=replace(item.header, content_hash="", sequence=None, traceparent=None))


@pytest.mark.slow
@pytest.mark.timeout(120 + 20 * N_EXAMPLES)
def test_the_platform_agrees_with_a_list(tmp_path: Path) -> None:
    TwinMachine.empty_store = make_empty_store(tmp_path)
    run_state_machine_as_test(
        TwinMachine,
        settings=settings(
            max_examples=N_EXAMPLES, stateful_step_count=25,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
        ),
    )
