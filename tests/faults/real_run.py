"""One seed against real parts: a producer, workers that are started again when they end, and the wait for the end."""

from __future__ import annotations

import queue
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.population import Population
from tests.faults.real_services import Services, stop
from tests.faults.worker_process import WorkerOrder

from oncotwin.bootstrap import wiring
from oncotwin.bootstrap.settings import Settings
from oncotwin.domain.errors import OncotwinError
from oncotwin.ports.event_log import EventLog, LogRecord, NewRecord
from oncotwin.ports.line_store import LineStore
from oncotwin.testing.patients import diameter
from oncotwin_flows.outgoing import ALERTED, ESTIMATED, REJECTED

TICK_S = 0.02
Wait = Iterator[None]
"""A kind of fault is a generator: at each `yield` the run goes on for one tick."""


class StuckError(Exception):
    """A seed did not come to its end in time; the message has what its processes said last."""


@dataclass
class Worker:
    """One process of ours.

    Attributes:
        steps: passes of each step so far; errors: what it outlasted; hit: the step at which the order's moment came.
    """

    pid: int
    order: WorkerOrder
    steps: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    hit: str = ""
    ready: bool = False
    alive: bool = True
    status: int | None = None
    replaced: bool = False
    read_to: int = 0

    def look(self) -> None:
        """Read what it has reported since."""
        path = Path(self.order.report)
        if not path.exists():
            return
        with path.open("rb") as file:
            file.seek(self.read_to)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self.read_to += len(whole)
        for line in whole.decode(errors="replace").splitlines():
            kind, _, _, text = line.split("\t", 3)
            if kind == "step":
                self.steps[text] += 1
            elif kind == "hit":
                self.hit = text
            elif kind == "ready":
                self.ready = True
            elif kind == "error" or (kind == "told" and text.startswith("begun again")):
                self.errors.append(text)


class Run:
    """See the module.

    Attributes:
        mourned: whether workers that end are followed by new ones. sent: all that was to be appended, doubles included.
        fired: what a kind says of its fault when it has really come, "" before.
    """

    def __init__(
        self, seed: int, rng: random.Random, services: Services, settings: Settings, population: Population,
        patience_s: float,
    ) -> None:
        self.seed = seed
        self.rng = rng
        self.services = services
        self.settings = settings
        self.population = population
        self.workers: list[Worker] = []
        self.sent: list[NewRecord] = []
        self.mourned = True
        self.fired = ""
        self._batches: queue.Queue[tuple[NewRecord, ...]] = queue.Queue()
        self.produced_slowly_s = rng.choice((0.0, 0.02, 0.1))
        self._deadline = time.monotonic() + patience_s
        self._patience_s = patience_s
        self._reports = services.folder / f"reports{seed}.{time.monotonic_ns()}"
        self._reports.mkdir()
        self._stack = ExitStack()
        self._logs: dict[str, EventLog] = {}
        self._began: dict[str, dict[int, int]] = {}
        self._store: LineStore | None = None
        self._producer = threading.Thread(target=self._produce, name="producer", daemon=True)
        self._cancelled = threading.Event()
        self._failure: BaseException | None = None

    def begin(self) -> None:
        """Open everything, and begin to produce."""
        self._store = wiring.open_store(self.settings)
        self._stack.callback(self._store.close)
        for topic in (self.settings.topic, ESTIMATED, ALERTED, REJECTED):
            log = wiring.open_log(self.settings, topic)
            self._stack.callback(log.close)
            self._logs[topic] = log
            self._began[topic] = log.end_offsets()
        for batch in self.population.deliveries:
            self.send(batch)
        self._producer.start()

    @property
    def store(self) -> Any:
        """The store, for whoever looks from outside."""
        assert self._store is not None
        return self._store

    def fire(self, what: str) -> None:
        """Say that the fault comes now; where everything is done already, there is more to do first."""
        if self.is_idle():
            self.send_more(6)
        self.fired = what

    def send(self, batch: Sequence[NewRecord]) -> None:
        """Have the producer append these after all that it was given before."""
        self.sent += batch
        self._batches.put(tuple(batch))

    def send_more(self, n: int) -> None:
        """Some new measurements of every patient."""
        first = len(self.sent)
        for number in range(first, first + n):
            self.send(
                [
                    NewRecord(patient, diameter(f"more{number}", 620 + number, 20 + number % 9, patient=patient))
                    for patient in self.population.patients
                ]
            )

    def start(self, **order: Any) -> Worker:
        """Start a worker; `order` as `WorkerOrder` takes it, and `settings` that differ."""
        changed = {**self.settings.model_dump(mode="json"), **order.pop("settings", {})}
        report = str(self._reports / f"worker{len(self.workers)}")
        found = WorkerOrder(changed, report, **order)
        worker = Worker(self.services.nursery.born(found), found)
        self.workers.append(worker)
        return worker

    @property
    def n_commits(self) -> int:
        """Commits that workers know of."""
        return sum(worker.steps["committed"] for worker in self.workers)

    def tick(self) -> None:
        """Let the world go on for a moment: read reports, start again who ended.

        Raises:
            StuckError: the seed's time is over. Whatever the producer raised.
        """
        time.sleep(TICK_S)
        if self._failure is not None:
            raise self._failure
        if time.monotonic() > self._deadline:
            raise StuckError(f"not done after {self._patience_s:.0f} s: {self.describe()}")
        nursery = self.services.nursery
        nursery.look()
        for worker in self.workers:
            worker.look()
            if worker.alive and worker.pid in nursery.ended:
                worker.alive, worker.status = False, nursery.ended[worker.pid]
        for worker in list(self.workers):
            if self.mourned and not worker.alive and not worker.replaced:
                # As an orchestrator would; without the order that it died of.
                worker.replaced = True
                self.start()

    def wait_for(self, what: Any, patience_s: float = 30.0) -> Wait:
        """Wait until a condition holds, at the longest so long: then the fault comes without."""
        deadline = time.monotonic() + patience_s
        while not what() and time.monotonic() < deadline:
            yield

    def pause(self, seconds: float) -> Wait:
        """Wait."""
        yield from self.wait_for(lambda: False, seconds)

    def is_idle(self) -> bool:
        """Whether all that was sent is committed and told."""
        if self._batches.unfinished_tasks:
            return False
        try:
            ends = self._logs[self.settings.topic].end_offsets()
            stored = self.store.offsets(wiring.log_name(self.settings))
            return {p: stored.get(p, 0) for p in ends} == ends and not self.store.pending_outbox(1)
        except OncotwinError:
            return False

    def go(self, fault: Wait) -> None:
        """Go on until the fault is over and everything is done, then end the workers."""
        for _ in fault:
            self.tick()
        while not self.is_idle() or not any(worker.alive for worker in self.workers):
            self.tick()
        self.mourned = False
        # Who was stopped or has lost its leases may still want to write: it gets the time to try.
        for _ in self.pause(0.3):
            self.tick()
        self._leave()

    def _leave(self) -> None:
        for worker in self.workers:
            if worker.alive:
                stop(worker.pid, signal.SIGTERM)
        for _ in self.wait_for(lambda: not any(worker.alive for worker in self.workers), 15.0):
            self.tick()

    def received(self, topic: str) -> list[LogRecord]:
        """What a consumer of a topic has received since the seed began, in order."""
        log, ends = self._logs[topic], self._logs[topic].end_offsets()
        positions = dict(self._began[topic])
        found: list[LogRecord] = []
        deadline = time.monotonic() + 30.0
        while positions != ends:
            if time.monotonic() > deadline:
                raise StuckError(f"topic {topic} cannot be read to its end: {positions} of {ends}")
            for record in log.read(positions, 1_000, 1 << 23, 1.0):
                positions[record.partition] = record.offset + 1
                found.append(record)
        return found

    def ends(self) -> dict[int, int]:
        """End of the log by partition."""
        return self._logs[self.settings.topic].end_offsets()

    def describe(self) -> str:
        """What the processes said last."""
        lines = [f"batches to send: {self._batches.unfinished_tasks}, idle: {self.is_idle()}"]
        for worker in self.workers:
            said = Path(f"{worker.order.report}.err")
            words = said.read_text(errors="replace")[-600:] if said.exists() else ""
            report = Path(worker.order.report)
            last = report.read_text(errors="replace").splitlines()[-3:] if report.exists() else []
            lines.append(
                f"worker {worker.pid} alive={worker.alive} status={worker.status} hit={worker.hit!r} "
                f"commits={worker.steps['committed']} last={last} {words}"
            )
        return "\n".join(lines)

    def trace(self) -> str:
        """All that the workers reported, in the order of time."""
        lines = []
        for worker in self.workers:
            if Path(worker.order.report).exists():
                lines += [line.split("\t") for line in Path(worker.order.report).read_text().splitlines()]
        return "\n".join("\t".join(line) for line in sorted(lines, key=lambda line: float(line[1])))

    def close(self) -> None:
        """End every process and close everything."""
        self._cancelled.set()
        for worker in self.workers:
            if worker.alive:
                stop(worker.pid, signal.SIGKILL)
        deadline = time.monotonic() + 10.0
        while any(w.pid not in self.services.nursery.ended for w in self.workers) and time.monotonic() < deadline:
            self.services.nursery.look()
            time.sleep(TICK_S)
        if self._producer.is_alive():
            self._producer.join(75.0)
        self._stack.close()

    def _produce(self) -> None:
        try:
            log = wiring.open_log(self.settings)
            try:
                while not self._cancelled.is_set():
                    try:
                        batch = self._batches.get(timeout=0.1)
                    except queue.Empty:
                        continue
                    self._append(log, batch)
                    self._batches.task_done()
                    self._cancelled.wait(self.produced_slowly_s)
            finally:
                log.close()
        except BaseException as error:
            self._failure = error

    def _append(self, log: EventLog, batch: Sequence[NewRecord]) -> None:
        """Until the log has it: what was appended before an error comes twice."""
        while not self._cancelled.is_set():
            try:
                log.append(batch)
                return
            except OncotwinError:
                self._cancelled.wait(0.1)
