"""Worker processes to be killed: forked from one process that has imported and compiled everything.

    python -m tests.faults.worker_process

reads one JSON line a worker from its input (`WorkerOrder`), forks, and tells on its output who was born and who ended.
A worker is the program's own, wired by its settings; what differs is the hook at its named steps, which kills or stops
the process where the order says so, and its clock, which steps where the order says so. Prefect is left out: it takes
twenty seconds to start and wraps the same calls.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

from oncotwin.bootstrap import wiring
from oncotwin.bootstrap.settings import Settings
from oncotwin.domain.errors import FencedError, HostLostError, LogError, OncotwinError, StaleVersionError, StoreError
from oncotwin.ports.twin_rows import CommitGroup
from oncotwin_flows.assimilate import bounds_of, open_worker
from oncotwin_flows.checkpoints import checkpoints_of

STORED = "in the store"
"""The transaction is committed, the worker does not know yet: no step of the code, a place all the same."""

_PASSING = (StoreError, LogError, HostLostError, StaleVersionError, FencedError)
_LONGEST_PAUSE_S = 2.0
_POLL_S = 0.02
_DIE_WITH_PARENT = 1
_ALLOCATOR = "jemalloc_bg_thd"


@dataclass(frozen=True)
class WorkerOrder:
    """What a worker is to be.

    Attributes:
        settings: as `Settings` takes them. report: file that it appends a line to for each step and each error.
        at: named step and number of its pass (from 1) at which it sends itself `signal`; "" for never.
        clock: (step, pass, seconds that its clock is off from then on).
        file_bytes: no file of it may grow beyond that; 0 for no bound.
    """

    settings: dict[str, Any]
    report: str
    at: tuple[str, int] = ("", 0)
    signal: int = signal.SIGKILL
    clock: tuple[tuple[str, int, float], ...] = ()
    file_bytes: int = 0

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))


class _SteppedClock(wiring.SystemClock):
    """The machine's clock, off by some seconds; time that passes is not touched, as on a machine."""

    off_s = 0.0

    def now(self) -> datetime:
        """What the clock says."""
        return super().now() + timedelta(seconds=self.off_s)


class _Reporter:
    """Writes what happens, line by line, so that every line stands when the process is killed."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def say(self, kind: str, text: object = "") -> None:
        """Kind, moment (the machine's monotonic clock, the same for all processes), and words."""
        line = f"{kind}\t{time.monotonic():.4f}\t{os.getpid()}\t{text}".replace("\n", " | ")
        os.write(self._file, line.encode() + b"\n")


class _Hook:
    """Told of each step; see `WorkerOrder`."""

    def __init__(self, order: WorkerOrder, report: _Reporter) -> None:
        self._order = order
        self._report = report
        self._passes: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __call__(self, step: str) -> None:
        with self._lock:
            self._passes[step] += 1
            n = self._passes[step]
        self._report.say("step", step)
        for name, number, off_s in self._order.clock:
            if (name, number) == (step, n):
                _SteppedClock.off_s = off_s
                self._report.say("clock", off_s)
        if tuple(self._order.at) == (step, n):
            self._report.say("hit", step)
            os.kill(os.getpid(), self._order.signal)


def work(order: WorkerOrder) -> None:
    """Work until told to end (SIGTERM), or until the order's moment has come."""
    report = _Reporter(order.report)
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: ended.set())
    wiring.SystemClock = _SteppedClock  # type: ignore[misc]
    if order.file_bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (order.file_bytes, resource.RLIM_INFINITY))
    settings = Settings(**order.settings)
    hook = _Hook(order, report)
    with open_worker(settings, announce=lambda text: report.say("told", text), on_step=hook) as (worker, watch, relay):
        checkpoints = _checkpoints(settings, report)
        _tell_when_stored(worker._store, hook)
        report.say("ready")
        n_failures = 0
        while not ended.is_set():
            try:
                tally = worker.run(bounds_of(settings))
                if watch.is_due(tally.n_accepted):
                    watch.look()
                relay.publish()
                checkpoints(tally.n_accepted)
                n_failures = 0
            except _PASSING as error:
                n_failures += 1
                report.say("error", f"{type(error).__name__}: {error}")
                ended.wait(min(0.1 * 2.0**n_failures, _LONGEST_PAUSE_S))
    report.say("left")


def _tell_when_stored(store: Any, hook: Callable[[str], None]) -> None:
    real = store.commit

    def commit(group: CommitGroup) -> int:
        position: int = real(group)
        hook(STORED)
        return position

    store.commit = commit


def _checkpoints(settings: Settings, report: _Reporter) -> Callable[[int], None]:
    store = wiring.open_store(settings)
    signing = checkpoints_of(settings, store.audit, publish=False)

    def after_run(n_accepted: int) -> None:
        if signing.is_due(n_accepted):
            try:
                signing.make()
                report.say("signed")
            except OncotwinError as error:
                report.say("told", f"no checkpoint: {error}")

    return after_run


def _live(order: WorkerOrder) -> NoReturn:
    """The child's whole life."""
    status = 1
    try:
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), 0)
        with open(f"{order.report}.err", "ab") as said:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
        work(order)
        status = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)


def warm_up() -> None:
    """Import what a worker needs, and have the kernels ready; no thread may be left, or forking were unsafe."""
    import kafka  # noqa: F401
    import mlflow  # noqa: F401
    import psycopg  # noqa: F401

    from oncotwin.adapters import (  # noqa: F401
        kafka_log,
        local_host,
        mlflow_registry,
        ray_cluster,
        ray_host,
        sealed_log,
        sql_store,
    )
    from oncotwin.adapters.keys import open_key_store  # noqa: F401
    from oncotwin.domain.bundle import ModelBundle
    from oncotwin.ports.twin_host import Delivery
    from oncotwin.testing.memory_history import MemoryHistory
    from oncotwin.testing.patients import accepted, diameter, event_line, treatment
    from oncotwin.twin.shard import TwinShard

    data = {"code": "2857-1", "value": 4.0, "unit": "ng/mL"}
    events = accepted(
        [
            *(diameter(f"d{n}", 30 * n, 20) for n in range(3)), treatment("t", 40, "drugA", "on"),
            *(event_line("lab.result", f"l{n}", 30 * n + 5, data) for n in range(3)),
        ]
    )
    binding = wiring._bound(tuple(Settings().models), wiring.LITERATURE, ModelBundle({}).to_json())
    TwinShard(binding, MemoryHistory().reader()).fold([Delivery("H1/p1", 0, 0, 0, tuple(events))])
    threads = [Path(f"/proc/self/task/{number}/comm").read_text().strip() for number in os.listdir("/proc/self/task")]
    # An allocator's own thread may be there: it knows what to do about a fork.
    others = [name for name in threads if name not in ("python", "python3", _ALLOCATOR)]
    if others or threading.active_count() > 1:
        raise RuntimeError(f"threads {threads} run after the imports: forking from here is not safe")


def main() -> None:
    """Fork on demand until the input ends, then end whoever is left."""
    warm_up()
    living: set[int] = set()
    _tell(ready=os.getpid())
    buffer = b""
    try:
        while True:
            if select.select([0], [], [], _POLL_S)[0]:
                more = os.read(0, 65536)
                if not more:
                    return
                *lines, buffer = (buffer + more).split(b"\n")
                for line in lines:
                    pid = _fork(json.loads(line))
                    living.add(pid)
                    _tell(born=pid)
            for pid in list(living):
                found, status = os.waitpid(pid, os.WNOHANG)
                if found:
                    living.remove(pid)
                    _tell(ended=pid, status=os.waitstatus_to_exitcode(status))
    finally:
        for pid in living:
            os.kill(pid, signal.SIGKILL)


def _fork(content: dict[str, Any]) -> int:
    content["at"] = tuple(content["at"])
    content["clock"] = tuple(tuple(one) for one in content["clock"])
    order = WorkerOrder(**content)
    pid = os.fork()
    if pid == 0:
        _live(order)
    return pid


def _tell(**content: int) -> None:
    os.write(1, json.dumps(content).encode() + b"\n")


if __name__ == "__main__":
    main()
