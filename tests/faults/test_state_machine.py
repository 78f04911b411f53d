"""A state machine: whatever comes, in whatever order, whoever dies at whichever step, a list folded by hand agrees.

Hypothesis draws events, doubles, contradictions, corrections of every kind, crashes, pauses, restarts, promotions and
questions about the past; `plain_model` says what must come of them. `ONCOTWIN_STATE_EXAMPLES` sets the number of
examples, `--hypothesis-profile=explore` seeks new ones:

    ONCOTWIN_STATE_EXAMPLES=5000 pytest tests/faults/test_state_machine.py --hypothesis-profile=explore
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from sqlalchemy import Engine, event
from tests.faults.plain_model import Event, PlainModel, key_of
from tests.unit.twin.trend_model import TrendModel

from oncotwin.adapters.embedded_log import EmbeddedEventLog
from oncotwin.adapters.local_host import LocalHost
from oncotwin.adapters.sealing import PlainSealer
from oncotwin.adapters.sql_store import SqlTwinStore, open_twin_store
from oncotwin.adapters.sql_store.commit import COMMIT_STEPS
from oncotwin.adapters.sql_store.database import open_engine
from oncotwin.adapters.sql_store.lines import PROMOTE_STEPS
from oncotwin.bootstrap.wiring import history
from oncotwin.domain.amendment import Accepted, Rejection
from oncotwin.domain.bundle import ModelBundle, ModelPrior
from oncotwin.domain.validation import Policy, admit
from oncotwin.filters.unscented import UnscentedFilter
from oncotwin.models.base import Observable
from oncotwin.ports.event_log import EventLog, NewRecord
from oncotwin.twin.amendments import MOVED
from oncotwin.twin.drift import DriftSettings
from oncotwin.twin.fold import Binding, bind
from oncotwin.twin.machine import Task, perform
from oncotwin.twin.recall import check, recall
from oncotwin.twin.replay import believe
from oncotwin.twin.rows import estimate_row
from oncotwin.twin.shard import TwinShard
from oncotwin.twin.state import TwinState, digest, to_bytes
from oncotwin_flows.groups import Bounds
from oncotwin_flows.outgoing import ESTIMATED
from oncotwin_flows.promote import promote_line
from oncotwin_flows.relay import Relay
from oncotwin_flows.shadow import LineFollower
from oncotwin_flows.steps import RELAY_STEPS, WORKER_STEPS
from oncotwin_flows.worker import Worker, WorkerSettings

LOG = "log"
PATIENTS = ("H1/p0", "H1/p1", "H1/p2", "H2/p0")
N_PARTITIONS = 2
LEASE_S = 60.0
DAY_ZERO = datetime(2020, 1, 1, tzinfo=UTC)
N_EXAMPLES = int(os.environ.get("ONCOTWIN_STATE_EXAMPLES", "60"))
_PLACE = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
_POLICY = Policy(datetime(2026, 1, 1, tzinfo=UTC), clock_skew=timedelta(days=100_000))


class Crash(BaseException):
    """The process is gone."""


class TurningClock:
    """A second later at each look, and on when it is told."""

    def __init__(self) -> None:
        self.time = datetime(2026, 1, 1, tzinfo=UTC)
        self.elapsed = 0.0

    def now(self) -> datetime:
        """A second later at each look: no two commits are of one moment."""
        self.time += timedelta(seconds=1)
        return self.time

    def monotonic(self) -> float:
        """As far as it was moved on."""
        return self.elapsed

    def sleep(self, seconds: float) -> None:
        """Move on."""
        self.time += timedelta(seconds=seconds)
        self.elapsed += seconds


@lru_cache(maxsize=4)
def binding_of(version: str) -> Binding:
    """Two models that fold in no time; versions begin elsewhere."""
    models = [
        TrendModel(observables=(Observable("longest_diameter", "mm", True, 1.0),)),
        TrendModel(name="marker", observables=(Observable("psa", "ng/mL", True, 0.1),)),
    ]
    priors = {}
    for model in models:
        hyper = model.default_hyperparameters()
        hyper["mean"] = [0.001 * int(version), -0.002 * int(version)]
        priors[model.name] = ModelPrior(model.name, hyper)
    return bind(version, ModelBundle(priors), models, UnscentedFilter(), DriftSettings())


@lru_cache(maxsize=4096)
def item_of(line: str) -> Accepted:
    """An event as the gate judges it."""
    _, item = admit(line.encode(), (), _POLICY)
    assert not isinstance(item, Rejection), f"{item.reason} at {item.where}"
    return item


@lru_cache(maxsize=1)
def template() -> Path:
    """An empty store, migrated once."""
    path = Path(tempfile.mkdtemp(prefix="oncotwin-state-", dir=_PLACE)) / "template.sqlite"
    open_twin_store(f"sqlite:///{path}").close()
    return path


def _hasten(connection: Any, _record: object) -> None:
    connection.execute("PRAGMA synchronous=OFF")


def written(day: int) -> str:
    """A moment on a coarse grid, so that times tie."""
    return (DAY_ZERO + timedelta(days=20 * day)).isoformat().replace("+00:00", "Z")


# What is drawn: small numbers that the machine reads as names, so that events meet, contradict and correct each other.
PATIENT = st.integers(0, len(PATIENTS) - 1)
FEED = st.sampled_from(("ris", "ris", "lab"))
NUMBER = st.one_of(st.none(), st.none(), st.integers(0, 4))
DAY = st.integers(0, 8)
VALUE = st.sampled_from((5.0, 8.0, 13.0, 21.0, 34.0, 55.0))
RESULT = st.sampled_from((None, None, "R1", "R2"))
STATUS = st.sampled_from(("preliminary", "final", "corrected", "entered-in-error"))
LATER = st.one_of(st.none(), st.integers(0, 6))
COMMIT = st.integers(1, 8)


@st.composite
def contents(draw: st.DrawFn) -> dict[str, Any]:
    """Type, time and data of something that may be measured, given or planned."""
    day = draw(DAY)
    kind = draw(st.sampled_from(("lesion", "lesion", "lab", "lab", "treatment", "treatment", "plan", "assessment")))
    data: dict[str, Any]
    if kind == "lesion":
        name = "lesion.measured"
        lesion = draw(st.sampled_from(("L1", "L1", "L2")))
        data = {"lesion": lesion, "kind": "longest_diameter", "value": draw(VALUE), "unit": "mm"}
    elif kind == "lab":
        name = "lab.result"
        data = {"code": "2857-1", "value": draw(VALUE), "unit": "ng/mL"}
    elif kind == "treatment":
        name = "treatment.administered"
        data = {"agent": draw(st.sampled_from(("drugA", "drugB"))), "action": draw(st.sampled_from(("on", "off")))}
    elif kind == "plan":
        name = "treatment.planned"
        data = {"items": [{"agent": "drugA", "action": "on", "start": written(day + 1)}]}
    else:
        name, data = "assessment", {"scale": "recist", "value": "PD"}
    if kind in ("lesion", "lab") and (result := draw(RESULT)) is not None:
        data["result"] = result
    found: dict[str, Any] = {"type": f"org.oncotwin.{name}.v1", "time": written(day), "data": data}
    if draw(st.integers(0, 5)) == 0:
        found |= {"time": written(day)[:10], "timeprecision": "day"}
    return found


@st.composite
def measured(draw: st.DrawFn) -> tuple[Any, ...]:
    """An event that is no correction."""
    content = draw(contents())
    status = draw(STATUS) if "result" in content["data"] else "final"
    return "event", draw(PATIENT), draw(FEED), draw(NUMBER), content, status, draw(LATER)


@st.composite
def consents(draw: st.DrawFn) -> tuple[Any, ...]:
    """A change of consent."""
    scope = draw(st.sampled_from(("care", "care", "research")))
    decision = draw(st.sampled_from(("withdrawn", "granted")))
    data = {"scope": scope, "decision": decision, "effective": written(draw(DAY))}
    content = {"type": "org.oncotwin.consent.changed.v1", "time": written(draw(DAY)), "data": data}
    return "event", draw(PATIENT), "ris", draw(NUMBER), content, "final", None


@st.composite
def corrections(draw: st.DrawFn) -> tuple[Any, ...]:
    """A correction: of something that was sent, or of a name that may come."""
    action = draw(st.sampled_from(("replace", "replace", "retract", "retract", "wrong_patient", "wrong_patient")))
    return (
        "correction", draw(st.integers(0, 40)), draw(st.booleans()), draw(NUMBER), action, draw(contents()),
        draw(PATIENT), draw(LATER), draw(st.integers(0, 3)),
    )


AGAIN = st.tuples(st.just("again"), st.integers(0, 60))
DELIVERIES = st.lists(
    st.one_of(measured(), measured(), corrections(), corrections(), consents(), AGAIN), min_size=1, max_size=6
)


class TwinMachine(RuleBasedStateMachine):
    """An installation, whoever works in it, and the list that it is held against."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="oncotwin-state-", dir=_PLACE))
        shutil.copyfile(template(), self.folder / "store.sqlite")
        self.engine: Engine = open_engine(f"sqlite:///{self.folder / 'store.sqlite'}")
        event.listen(self.engine, "connect", _hasten)
        self.store = SqlTwinStore(self.engine, PlainSealer(), self.at)
        self.logs: list[EventLog] = []
        self.log = self.open_topic("events")
        self.clock = TurningClock()
        self.model = PlainModel()
        self.sent: list[Event] = []
        self.n_conflicts = 0
        self.n_named: dict[str, int] = {}
        self.n_workers = 0
        self.workers: dict[str, Worker] = {}
        self.version = "1"
        self.relay = Relay(self.store, self.open_topic, chunk=5, on_step=self.at)
        self.received: dict[str, dict[str, bytes]] = {}
        self.read_to: dict[str, dict[int, int]] = {}
        self.position = 0
        self.past: list[tuple[datetime, str, str]] = []
        self.trap: tuple[str, int] | None = None
        self.sprung: Callable[[], None] = self.die

    def teardown(self) -> None:
        """Drain, hold against the list, and go."""
        try:
            self.drain()
            self.told()
        finally:
            for log in self.logs:
                log.close()
            self.engine.dispose()
            shutil.rmtree(self.folder, ignore_errors=True)

    # What comes.

    @rule(drawn=DELIVERIES)
    def deliver(self, drawn: list[tuple[Any, ...]]) -> None:
        """Events arrive."""
        for one in drawn:
            self.send(self.sent[one[1] % len(self.sent)] if one[0] == "again" and self.sent else self.written(one))

    def send(self, sent: Event | None) -> None:
        """Append one, and tell the list."""
        if sent is None:
            return
        self.sent.append(sent)
        self.n_conflicts += self.model.take(sent) == "conflict"
        self.log.append([NewRecord(sent["subject"], json.dumps(sent).encode())])

    def written(self, one: tuple[Any, ...]) -> Event | None:
        """What was drawn as the event that it means here."""
        if one[0] == "event":
            _, patient, feed, number, content, status, later = one
            subject = PATIENTS[patient]
            found: Event = self.headed(subject, feed, "e", number) | content
            if status != "final":
                found["status"] = status
            if later is not None:
                found["recordedtime"] = written(10 + later)
            return found
        if one[0] == "correction":
            return self.correction(*one[1:])
        return None

    def correction(
        self, target: int, elsewhere: bool, number: int | None, action: str, content: dict[str, Any], right: int,
        later: int | None, early: int,
    ) -> Event | None:
        """A correction under the patient who has the event now, or sent it."""
        if early == 0 or not self.sent:
            # Of one that may come.
            patient = PATIENTS[target % len(PATIENTS)]
            source, event_id = f"urn:oncotwin:{patient[:2]}:ris", f"{'ec'[target % 2]}-{patient[3:]}-{target % 5}"
        else:
            wrong = self.sent[target % len(self.sent)]
            patient, (source, event_id) = wrong["subject"], key_of(wrong)
            if elsewhere:
                way, _ = self.model.journey(wrong)
                patient = way[-1]
        data: dict[str, Any] = {"supersedes": {"source": source, "id": event_id}, "action": action, "reason": "error"}
        if action == "replace":
            data["replacement"] = content
        if action == "wrong_patient":
            data["right_patient"] = PATIENTS[right]
            if PATIENTS[right] == patient or PATIENTS[right][:2] != patient[:2]:
                return None
        found = self.headed(patient, "ris", "c", number)
        if key_of(found) == (source, event_id):
            return None
        found |= {"type": "org.oncotwin.record.corrected.v1", "time": written(5), "data": data}
        if later is not None:
            found["recordedtime"] = written(20 + later)
        return found

    def headed(self, subject: str, feed: str, letter: str, number: int | None) -> Event:
        """Attributes that every event has; without a number the next name that nobody used."""
        name = f"{letter}-{subject[3:]}"
        if number is None:
            number = self.n_named[name] = self.n_named.get(name, 0) + 1
        source = f"urn:oncotwin:{subject[:2]}:{feed}"
        return {"specversion": "1.0", "source": source, "id": f"{name}-{number}", "subject": subject}

    # Who works, and dies.

    @rule(which=st.integers(0, 1), n=st.integers(1, 12), commit=COMMIT)
    def work(self, which: int, n: int, commit: int) -> None:
        """A worker does some of what there is."""
        self.run(self.worker(which), n, commit)

    @rule(
        which=st.integers(0, 1), step=st.sampled_from(WORKER_STEPS + COMMIT_STEPS), passes=st.integers(1, 3),
        commit=COMMIT, comes_back=st.booleans(),
    )
    def crash(self, which: int, step: str, passes: int, commit: int, comes_back: bool) -> None:
        """A worker dies at a named step; its next life has the same name, or its leases must run out."""
        name = self.worker(which)
        self.trap, self.sprung = (step, passes), self.die
        try:
            self.run(name, 1_000, commit)
        except Crash:
            del self.workers[name]
            if comes_back:
                self.workers[name] = self.new_worker(name)
            self.verify()
        finally:
            self.trap = None

    @precondition(lambda self: self.workers)
    @rule(step=st.sampled_from(WORKER_STEPS[1:]), passes=st.integers(1, 3), commit=COMMIT)
    def pause(self, step: str, passes: int, commit: int) -> None:
        """A worker stands still for longer than its lease, and another takes over meanwhile."""
        name = self.worker(0)

        def stand_still() -> None:
            self.clock.sleep(2.0 * LEASE_S)
            other = self.new_worker("other")
            other.run(Bounds(events=1_000, seconds=1e9, commit_events=3, poll_seconds=0.0))
            other.release()

        self.trap, self.sprung = (step, passes), stand_still
        try:
            self.run(name, 1_000, commit)
        finally:
            self.trap = None

    @precondition(lambda self: self.workers)
    @rule(which=st.integers(0, 1))
    def restart(self, which: int) -> None:
        """A worker leaves as it should."""
        name = self.worker(which)
        self.workers.pop(name).release()

    @rule()
    def wait(self) -> None:
        """Leases run out."""
        self.clock.sleep(2.0 * LEASE_S)

    @rule()
    def drain(self) -> None:
        """Everything that was sent is worked off: nothing is missing, nothing is too much."""
        for _ in range(6):
            for name in list(self.workers) or [self.worker(0)]:
                self.run(name, 100_000, 50)
            if self.store.offsets(LOG) == {p: n for p, n in self.log.end_offsets().items() if n}:
                break
            self.clock.sleep(2.0 * LEASE_S)
        assert self.store.offsets(LOG) == {p: n for p, n in self.log.end_offsets().items() if n}
        journal = {row.key for twin_id in self.store.twin_heads() for row in self.rows(twin_id)}
        assert journal == {key_of(one) for one in self.model.events}
        letters = self.store.dead_letters(None)
        assert {letter.reason_code for letter in letters} <= {"conflicting_duplicate"}
        assert len(letters) <= self.n_conflicts and bool(letters) == bool(self.n_conflicts)

    # Upgrades, messages, questions.

    @precondition(lambda self: self.store.champion() is not None)
    @rule(step=st.sampled_from((None, None, *PROMOTE_STEPS)))
    def promote(self, step: str | None) -> None:
        """The other model version is believed from now on, unless the crash comes first."""
        chosen = "2" if self.store.champion() == "1" else "1"
        if step is not None:
            self.trap, self.sprung = (step, 1), self.die
        try:
            promote_line(self.store, binding_of(chosen), self.clock, "test")
        except Crash:
            assert self.store.champion() != chosen
        else:
            assert self.store.champion() == chosen
        finally:
            self.trap = None
        self.verify()

    @precondition(lambda self: self.store.champion() is not None)
    @rule()
    def shadow(self) -> None:
        """A challenger follows some twins."""
        chosen = "2" if self.store.champion() == "1" else "1"
        LineFollower(self.store, binding_of(chosen), self.clock, n_at_once=2).step()

    @rule(step=st.sampled_from((None, *RELAY_STEPS)), passes=st.integers(1, 2))
    def publish(self, step: str | None, passes: int) -> None:
        """The relay sends what commits have put aside, maybe twice where it dies."""
        if step is not None:
            self.trap, self.sprung = (step, passes), self.die
        try:
            self.relay.publish()
        except Crash:
            self.relay = Relay(self.store, self.open_topic, chunk=5, on_step=self.at)
        finally:
            self.trap = None
        self.consume()

    @precondition(lambda self: self.past)
    @rule(which=st.integers(0, 1_000))
    def read_the_past(self, which: int) -> None:
        """What was believed then is found again."""
        known_at, twin_id, believed = self.past[which % len(self.past)]
        found = recall(self.store, binding_of, twin_id, None, known_at)
        assert found.digest == believed
        compared = check(self.store, found)
        assert (compared.what, compared.differences) == ("digest", ())

    # Hands.

    def at(self, step: str) -> None:
        """A named step was reached."""
        if self.trap is None or self.trap[0] != step:
            return
        self.trap = (step, self.trap[1] - 1)
        if self.trap[1] <= 0:
            self.trap = None
            self.sprung()

    def die(self) -> None:
        """As a process does."""
        raise Crash

    def worker(self, which: int) -> str:
        """One of at most two who work here."""
        names = sorted(self.workers)
        if which < len(names):
            return names[which]
        self.n_workers += 1
        name = f"w{self.n_workers}"
        self.workers[name] = self.new_worker(name)
        return name

    def new_worker(self, name: str) -> Worker:
        """A worker with its twins in this process."""

        def make(version: str) -> TwinShard:
            # The store is the machine's to close.
            return TwinShard(binding_of(version), replace(history(self.store, version), close=lambda: None))

        version = self.store.champion() or "1"
        rules = WorkerSettings(name, LOG, version, LEASE_S, timedelta(minutes=5), threaded=False)
        return Worker(self.log, self.store, LocalHost(make(version), make), self.clock, rules, on_step=self.at)

    def run(self, name: str, n: int, commit: int) -> None:
        """Let one work, then look at everything."""
        self.workers[name].run(Bounds(events=n, seconds=1e9, commit_events=commit, poll_seconds=0.0))
        self.verify()

    def open_topic(self, name: str) -> EventLog:
        """A topic in this folder."""
        log = EmbeddedEventLog(self.folder / "log", name, N_PARTITIONS)
        self.logs.append(log)
        return log

    def rows(self, twin_id: str) -> list[Any]:
        """Journal rows of what was sent."""
        return [row for row in self.store.journal(twin_id) if row.kind != MOVED]

    # What must hold after every commit.

    def verify(self) -> None:
        """The store holds a part of what was sent, and of that part it believes what the list makes of it."""
        position = self.store.position_at(self.clock.time)
        if position == self.position:
            return
        self.position = position
        heads = self.store.twin_heads()
        model = self.model.known(row.key for twin_id in heads for row in self.rows(twin_id))
        snapshots = self.store.latest_snapshots(list(heads))
        version = self.store.champion()
        for twin_id in sorted(heads):
            assert version is not None
            sent = {key_of(one): _hash_of(one) for one in model.journal(twin_id)}
            assert {row.key: row.content_hash for row in self.rows(twin_id)} == sent, twin_id
            items = tuple(item_of(json.dumps(one)) for one in model.in_force(twin_id))
            belief = believe(binding_of(version), twin_id, self.store.journal(twin_id))
            assert [_bare(item) for item in belief.items] == [_bare(item) for item in items], twin_id
            empty = TwinState(twin_id, version, guarded=model.must_see_all(twin_id))
            [outcome] = perform(binding_of(version), [Task(empty, items)])  # type: ignore[arg-type]
            state = snapshots[twin_id].digest
            assert state == digest(to_bytes(outcome.states[-1])), twin_id
            assert state == digest(to_bytes(belief.state)), twin_id
            estimates = [estimate_row(twin_id, version, one) for one in outcome.effects.estimates]
            assert sorted((row.time, row.source, row.event_id, row.body) for row in estimates) == sorted(
                (row.time, row.source, row.event_id, row.body) for row in self.store.estimates(twin_id)
            )
            beliefs = self.store.beliefs(twin_id)
            assert [row.version for row in beliefs] == list(range(1, heads[twin_id].version + 1))
            assert beliefs[-1].digest == state
            self.past.append((beliefs[-1].published_at, twin_id, state))

    def consume(self) -> None:
        """Read the topics as a consumer does that drops doubles by their ids."""
        for topic in (ESTIMATED,):
            log = self.open_topic(topic)
            positions = self.read_to.setdefault(topic, dict.fromkeys(range(N_PARTITIONS), 0))
            while records := log.read(positions, 100, 1_000_000, 0.0):
                for record in records:
                    positions[record.partition] = record.offset + 1
                    name = dict(record.headers)["ce_id"].decode()
                    seen = self.received.setdefault(topic, {})
                    assert seen.setdefault(name, record.value) == record.value
            log.close()

    def told(self) -> None:
        """A consumer that has read everything holds what the store believes."""
        self.relay.publish()
        self.consume()
        latest: dict[str, tuple[int, bytes]] = {}
        for name, value in self.received.get(ESTIMATED, {}).items():
            twin_id, _, version = name.rpartition(":")
            latest[twin_id] = max(latest.get(twin_id, (0, b"")), (int(version), value))
        for twin_id in self.store.twin_heads():
            believed = list(self.store.estimates(twin_id))
            bodies = [json.loads(row.body) for row in believed if row.time == believed[-1].time]
            held = json.loads(latest[twin_id][1])["estimate"] if twin_id in latest else None
            assert held in (bodies or [None]), twin_id


def _hash_of(sent: Event) -> str:
    """The content hash of an event."""
    return item_of(json.dumps(sent)).header.content_hash


def _bare(item: Any) -> Any:
    """An item without what says how it was sent."""
    return replace(item, header=replace(item.header, content_hash="", sequence=None, traceparent=None))


TestTwinMachine = pytest.mark.slow(TwinMachine.TestCase)
TwinMachine.TestCase.settings = settings(
    max_examples=N_EXAMPLES, stateful_step_count=25, deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
