"""One seed's world: producers, workers and their relays over one real store and one log, under faults.

Everything that acts is the program's own code; what it reaches the world through (clock, log, store, hosts, steps) is
real too, or fails as the weather says.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import cast

from sqlalchemy import select
from sqlalchemy.exc import OperationalError
from tests.faults.actors import Cluster
from tests.faults.databases import Database
from tests.faults.faulty import FaultyLog, FaultyStore
from tests.faults.keys import MemoryKeys
from tests.faults.population import Population
from tests.faults.scheduler import BEGIN, Died, LockTimeoutError, Process, Scheduler, SimulatedClock
from tests.faults.weather import AFTER, IN_TRANSACTION, LEASE_S, LINE, LOCK_PATIENCE_S, PROMOTE, STORED, Weather

from oncotwin.adapters.sealing import PlainSealer, Sealer
from oncotwin.adapters.sql_store import SqlTwinStore, schema
from oncotwin.bootstrap.wiring import history
from oncotwin.domain.errors import (
    FencedError,
    HostLostError,
    LogError,
    OncotwinError,
    StaleVersionError,
    StoreError,
)
from oncotwin.domain.events import as_structured
from oncotwin.ports.line_store import LineStore
from oncotwin.ports.twin_rows import CommitGroup
from oncotwin.ports.twin_store import TwinStore
from oncotwin.testing.memory_log import MemoryEventLog, MemoryTopic
from oncotwin.twin.fold import Binding
from oncotwin.twin.shard import TwinShard
from oncotwin_flows.careful import CarefulHost
from oncotwin_flows.gaps import GapWatch
from oncotwin_flows.groups import Bounds
from oncotwin_flows.intake import Intake, IntakeRules
from oncotwin_flows.promote import promote_line
from oncotwin_flows.relay import Relay
from oncotwin_flows.shadow import LineFollower
from oncotwin_flows.worker import Worker, WorkerSettings

LOG_NAME = "log"
VERSION = "1"
SKEW = timedelta(minutes=5)
_MOST_TURNS = 5_000
_PASSING = (StoreError, LogError, FencedError, StaleVersionError, HostLostError)
_MOST_LOST = 4
_TRIES = 3
"""The flow's task is tried so often before its process ends with the error."""


class BrokenPromiseError(Exception):
    """Something that must never happen has happened."""


class World:
    """See the module.

    Attributes:
        coverage: crashes injected between two consecutive steps, by the pair; kinds: faults of every kind.
    """

    def __init__(
        self, rng: random.Random, weather: Weather, population: Population, database: Database,
        bind: Callable[[str], Binding], version: str = VERSION,
    ) -> None:
        self.rng = rng
        self.weather = weather
        self.population = population
        self.bind = bind
        self.version = version
        self._keys = MemoryKeys()
        self._n_lost = 0
        self.engine = database.emptied().engine
        self.scheduler = Scheduler(rng, self._ended)
        self.topic = MemoryTopic(weather.n_partitions, lambda: BEGIN)
        self.out: dict[str, MemoryTopic] = {}
        self.coverage: Counter[tuple[str, str]] = Counter()
        self.kinds: Counter[str] = Counter()
        self._passes: Counter[str] = Counter()
        self._cluster = self._new_cluster()
        self._own: dict[Process, Cluster] = {}
        self._offsets: dict[int, int] = {}
        self._n_lives = 0
        self._produced = False
        self._quiet_from = 0.0
        self.calm = False
        database.lock, database.unlock = self._lock, self.scheduler.unlock

    def run(self) -> None:
        """Bring everything in under faults, then let the sky clear and the workers finish.

        Raises:
            StuckError: they do not. BrokenPromiseError: a commit wrote what it must not.
        """
        try:
            self.scheduler.spawn("producer", self._produce)
            if self.weather.promotions:
                self.scheduler.spawn("promoter", self._promote, self.rng.uniform(0.0, 20.0))
                if self.rng.random() < 0.5:
                    self.scheduler.spawn("shadow", self._shadow, self.rng.uniform(0.0, 10.0))
            for number in range(self.weather.n_workers):
                self._start(number, self.rng.uniform(0.0, 3.0))
            self.scheduler.run(self._is_done, _MOST_TURNS)
        finally:
            self.scheduler.stop()

    def store(self) -> SqlTwinStore:
        """The store as it is, for whoever looks from outside."""
        return SqlTwinStore(self.engine, self._sealer())

    def _sealer(self) -> Sealer:
        return Sealer(self._keys) if self.weather.sealed else PlainSealer()

    # Faults.

    def store_fails(self, process: Process | None) -> bool:
        """See `Fate`."""
        return self._happens("store error", self.weather.store_error)

    def acknowledgement_lost(self, process: Process | None) -> str:
        """See `Fate`."""
        if process is None or not self._happens("acknowledgement lost", self.weather.lost_acknowledgement):
            return ""
        return self.rng.choice(("error", "died"))

    def log_fails(self) -> bool:
        """See `Fate`."""
        return self._happens("log error", self.weather.log_error)

    def torn(self, n: int) -> int | None:
        """See `Fate`."""
        return self.rng.randint(0, n) if n and self._happens("torn batch", self.weather.torn_batch) else None

    def note(self, what: str) -> None:
        """See `Fate`."""
        self.scheduler.note(what)

    def committed(self, process: Process, group: CommitGroup) -> None:
        """Look, before anybody else writes, whether the commit was its to make."""
        self._check_commit(group)
        self.note(f"committed {dict(group.offsets)} {[(t.twin_id, t.new_version) for t in group.twins]}")
        self.at(process, STORED)

    def at(self, process: Process, step: str) -> None:
        """A process has reached a named step."""
        if process.dead:
            raise Died
        self._passes[step] += 1
        scheduler, weather = self.scheduler, self.weather
        scheduler.time += self.rng.random() * 0.02
        if (step, self._passes[step]) in weather.planned or self._happens("crash", weather.crash):
            self.coverage[step, AFTER[step]] += 1
            self.note(f"dies after {step!r}")
            raise Died
        if self._happens("clock step", weather.clock_step):
            process.skew_s = self.rng.choice((-90.0, -5.0, 0.0, 5.0, 90.0))
            self.note(f"its clock is off by {process.skew_s} s")
        if self._happens("pause", weather.pause):
            self.kinds["pause in transaction"] += step in IN_TRANSACTION
            # Some wake up just when others have taken over what they held.
            pause_s = self.rng.choice((self.rng.uniform(0.0, 4.0), 1.0 + 0.3 * self.rng.random())) * LEASE_S
            self.note(f"pauses for {pause_s:.1f} s after {step!r}")
            scheduler.turn(pause_s)
        elif weather.switch and self.rng.random() < weather.switch:
            scheduler.turn()
        if process.dead:
            raise Died

    def _happens(self, kind: str, rate: float) -> bool:
        if rate == 0.0 or self.calm or self.rng.random() >= rate:
            return False
        self.kinds[kind] += 1
        return True

    def _lock(self) -> None:
        try:
            self.scheduler.lock(LOCK_PATIENCE_S)
        except LockTimeoutError as error:
            self.kinds["lock timeout"] += 1
            raise OperationalError("BEGIN", None, error) from error

    def _check_commit(self, group: CommitGroup) -> None:
        leases = schema.leases
        with self.engine.connect() as connection:
            epochs = {
                row.log_partition: row.epoch
                for row in connection.execute(select(leases).where(leases.c.log_name == group.log_name))
            }
        stale = {p: e for p, e in group.lease_epochs.items() if epochs.get(p) != e}
        if stale:
            raise BrokenPromiseError(f"a fenced worker wrote: it held {stale}, the leases are at {epochs}")
        back = {p: o for p, o in group.offsets.items() if o < self._offsets.get(p, 0)}
        if back:
            raise BrokenPromiseError(f"offsets went back to {back} from {self._offsets}")
        if set(group.offsets) - set(group.lease_epochs):
            raise BrokenPromiseError(f"offsets {dict(group.offsets)} without leases {dict(group.lease_epochs)}")
        self._offsets.update(group.offsets)

    # Processes.

    def _new_cluster(self) -> Cluster:
        return Cluster(
            self.weather.twins_per_actor, self._make_shard,
            self._host_lost,
            lambda: self.rng.random() < 0.5,
        )

    def _host_lost(self, process: Process) -> bool:
        """Four times in all: what is lost again and again with its host is taken for poison."""
        del process
        if self._n_lost >= _MOST_LOST or not self._happens("host lost", self.weather.host_lost):
            return False
        self._n_lost += 1
        return True

    def _make_shard(self, version: str) -> TwinShard:
        store = cast("TwinStore", FaultyStore(self.store(), self, None))
        return TwinShard(self.bind(version), history(store, version))

    def _start(self, number: int, after_s: float) -> None:
        """A worker's next life: under its old name, as where names are fixed, or under a new one."""
        self._n_lives += 1
        name = f"w{number}" if self.rng.random() < 0.3 else f"w{number}.{self._n_lives}"
        process = self.scheduler.spawn(name, self._work, after_s)
        process.skew_s = self.rng.choice((0.0, 0.0, 30.0) if self.weather.skewed else (0.0, 0.0, 0.3, -2.0))

    def _ended(self, process: Process) -> None:
        """Whoever ended is started again a while later, as by an orchestrator; its own actors went with it."""
        self._cluster.died(process)
        self._own.pop(process, None)
        if process.name == "producer":
            if not self._produced:
                self.scheduler.spawn("producer", self._produce, 1.0)
        elif process.name == "promoter":
            if self._promoted < len(self.weather.promotions):
                self.scheduler.spawn("promoter", self._promote, 1.0)
        elif process.name == "shadow":
            if not self.calm:
                self.scheduler.spawn("shadow", self._shadow, self.rng.uniform(0.5, 5.0))
        else:
            number = int(process.name[1:].partition(".")[0])
            self._start(number, self.rng.uniform(0.1, 5.0))

    def _produce(self, process: Process) -> None:
        """Deliver what is left to deliver; a batch that may have been taken is sent again."""
        log = FaultyLog(MemoryEventLog(self.topic), self, process)
        clock = SimulatedClock(self.scheduler, process)
        store = cast("TwinStore", FaultyStore(self.store(), self, process))
        intake = Intake(log, store, clock, IntakeRules())
        through_intake = self.rng.random() < 0.3
        while self._delivered < len(self.population.deliveries):
            batch = self.population.deliveries[self._delivered]
            clock.sleep(self.rng.expovariate(1.0))
            try:
                if through_intake:
                    intake.ingest([as_structured(record.value, record.headers) for record in batch])
                else:
                    log.append(batch)
            except (LogError, StoreError):
                continue
            self._delivered += 1
        self._produced = True
        self._quiet_from = self.scheduler.time + self.rng.uniform(0.0, 20.0)

    _delivered = 0
    _promoted = 0

    def _promote(self, process: Process) -> None:
        """Have one version after the other believed; a promotion whose answer was lost is found to be made."""
        clock = SimulatedClock(self.scheduler, process)
        store = self._line_store(process)
        while self._promoted < len(self.weather.promotions):
            version = self.weather.promotions[self._promoted]
            try:
                if store.champion() is None:
                    clock.sleep(2.0)
                    continue
                if store.champion() != version:
                    promote_line(store, self.bind(version), clock, "somebody", most_behind=self.rng.choice((1, 2_000)))
                    self.kinds["promotion"] += 1
                self._promoted += 1
                self.note(f"promoted {version}")
                clock.sleep(self.rng.uniform(0.0, 20.0))
            except (*_PASSING, OncotwinError) as error:
                self.note(f"failed: {type(error).__name__} {str(error)[:100]}")
                clock.sleep(1.0)

    def _shadow(self, process: Process) -> None:
        """Fold the line of a version that is to be promoted, in the background."""
        clock = SimulatedClock(self.scheduler, process)
        store = self._line_store(process)
        version = self.rng.choice(self.weather.promotions)
        try:
            LineFollower(store, self.bind(version), clock, n_at_once=self.rng.choice((1, 2, 64))).catch_up()
        except OncotwinError as error:
            self.note(f"failed: {type(error).__name__} {str(error)[:100]}")

    def _line_store(self, process: Process) -> LineStore:
        def on_step(step: str) -> None:
            self.at(process, (PROMOTE if store.doing == "promote" else LINE) + step)

        store = FaultyStore(SqlTwinStore(self.engine, self._sealer(), on_step), self, process)
        return cast("LineStore", store)

    def _work(self, process: Process) -> None:
        """A worker's life: what `run_worker` does, without Prefect."""
        weather, clock = self.weather, SimulatedClock(self.scheduler, process)

        def on_step(step: str) -> None:
            self.at(process, step)

        store = cast("TwinStore", FaultyStore(SqlTwinStore(self.engine, self._sealer(), on_step), self, process))
        cluster = self._cluster if weather.shared_host else self._own.setdefault(process, self._new_cluster())
        log = FaultyLog(MemoryEventLog(self.topic), self, process)
        try:
            version = store.champion() or self.version
        except StoreError:
            return
        rules = WorkerSettings(process.name, LOG_NAME, version, LEASE_S, SKEW, threaded=False)
        host = CarefulHost(cluster.host(process, version), clock, self.note)
        worker = Worker(log, store, host, clock, rules, on_step=on_step)
        relay = Relay(
            store, lambda topic: FaultyLog(self._out(topic), self, process), self.rng.choice((1, 3, 2_000)), on_step
        )
        watch = GapWatch(store, clock, timedelta(hours=1))
        bounds = Bounds(weather.run_events, 30.0, weather.commit_events, 0.0)
        n_failed, idle_s = 0, 0.5
        while True:
            n_read = 0
            try:
                n_read = (tally := worker.run(bounds)).n_read
                if watch.is_due(tally.n_accepted):
                    watch.look()
                relay.publish()
                n_failed = 0
                # Looking for work costs more than anything else here.
                idle_s = 0.5 if n_read else min(2.0 * idle_s, LEASE_S / 2.0)
            except _PASSING as error:
                self.note(f"failed: {type(error).__name__} {str(error)[:100]}")
                n_failed += 1
                if n_failed == _TRIES:
                    return
            if self._happens("left", weather.leave):
                self.note("leaves")
                with suppress(*_PASSING):
                    worker.release()
                return
            clock.sleep(idle_s if n_read == 0 else 0.01)

    def _out(self, topic: str) -> MemoryEventLog:
        return MemoryEventLog(self.out.setdefault(topic, MemoryTopic(2, lambda: BEGIN)))

    def _is_done(self) -> bool:
        if not self._produced or self._promoted < len(self.weather.promotions):
            return False
        if not self.calm and self.scheduler.time >= self._quiet_from:
            self.calm = True
            # Whoever was paused wakes up into a calm world, and finds that it was replaced.
            self.note("calm")
        if not self.calm or any(p.wake_at > self.scheduler.time + LEASE_S for p in self.scheduler.processes):
            return False
        return self._is_idle()

    def _is_idle(self) -> bool:
        ends = MemoryEventLog(self.topic).end_offsets()
        if {p: self._offsets.get(p, 0) for p in ends} != ends:
            return False
        with self.engine.connect() as connection:
            pending = select(schema.outbox.c.id).where(schema.outbox.c.published == 0).limit(1)
            return connection.scalar(pending) is None
