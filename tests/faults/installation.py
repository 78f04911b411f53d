"""An installation in memory and one file, whose every named step may be the last, for the state machine."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event
from tests.unit.twin.trend_model import TrendModel

from oncotwin.adapters.local_host import LocalHost
from oncotwin.adapters.sealing import Sealer
from oncotwin.adapters.sql_store import SqlTwinStore, open_twin_store
from oncotwin.adapters.sql_store.database import open_engine
from oncotwin.bootstrap.wiring import history
from oncotwin.domain.bundle import ModelBundle, ModelPrior
from oncotwin.domain.errors import ErasedError
from oncotwin.filters.unscented import UnscentedFilter
from oncotwin.models.base import Observable
from oncotwin.testing.memory_log import MemoryEventLog, MemoryTopic
from oncotwin.twin.drift import DriftSettings
from oncotwin.twin.fold import Binding, bind
from oncotwin.twin.shard import TwinShard
from oncotwin_flows.erase import Eraser
from oncotwin_flows.relay import Relay
from oncotwin_flows.worker import Worker, WorkerSettings

LOG = "log"
N_PARTITIONS = 2
LEASE_S = 60.0
_PLACE = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
"""A process that dies here is an exception: what reached the file is there, synced or not."""


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


class MemoryKeys:
    """`KeyStore` in memory."""

    def __init__(self) -> None:
        self._keys: dict[str, bytes] = {}
        self._destroyed: dict[str, datetime] = {}

    def key(self, twin_id: str, *, make: bool = True) -> bytes:
        """Of the patient's name: what is sealed is not what is tested here."""
        del make
        if twin_id in self._destroyed:
            raise ErasedError(f"the key of {twin_id} is destroyed")
        return self._keys.setdefault(twin_id, sha256(twin_id.encode()).digest())

    def keys(self, twin_ids: Iterable[str]) -> dict[str, bytes]:
        """Of those who were not erased."""
        return {twin_id: self.key(twin_id) for twin_id in twin_ids if twin_id not in self._destroyed}

    def destroy(self, twin_id: str, at: datetime, reason: str) -> bool:
        """For ever."""
        del reason
        self._keys.pop(twin_id, None)
        return self._destroyed.setdefault(twin_id, at) is at

    def destroyed(self) -> dict[str, datetime]:
        """Who was erased."""
        return self._destroyed

    def close(self) -> None:
        """Nothing is held."""


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


class Installation:
    """Store, log, topics and key store, and those who work with them.

    Attributes:
        workers: at work, by name.
    """

    def __init__(self, empty_store: Path) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="oncotwin-state-", dir=_PLACE))
        shutil.copyfile(empty_store, self._folder / "store.sqlite")
        self._engine: Engine = open_engine(f"sqlite:///{self._folder / 'store.sqlite'}")
        event.listen(self._engine, "connect", _hasten)
        self.clock = TurningClock()
        keys = MemoryKeys()
        self.store = SqlTwinStore(self._engine, Sealer(keys), self._at)
        self._topics: dict[str, MemoryTopic] = {}
        self.log = self.open_topic("events")
        self.eraser = Eraser(self.store, keys, self.clock, lambda twin_id: 0, self._at)
        self.relay = self._new_relay()
        self.workers: dict[str, Worker] = {}
        self._n_workers = 0
        self._trap: tuple[str, int] | None = None
        self._sprung: Callable[[], None] = _die

    def close(self) -> None:
        """Leave nothing behind."""
        self._engine.dispose()
        shutil.rmtree(self._folder, ignore_errors=True)

    def open_topic(self, name: str) -> MemoryEventLog:
        """A topic, which outlives whoever reads and writes it."""
        return MemoryEventLog(self._topics.setdefault(name, MemoryTopic(N_PARTITIONS)))

    @contextmanager
    def trap(self, step: str | None, passes: int = 1, spring: Callable[[], None] | None = None) -> Iterator[None]:
        """While this lasts, something happens once at the given pass of a named step: by default, death."""
        self._trap = None if step is None else (step, passes)
        self._sprung = spring or _die
        try:
            yield
        finally:
            self._trap = None

    def _at(self, step: str) -> None:
        """A named step was reached."""
        if self._trap is None or self._trap[0] != step:
            return
        self._trap = (step, self._trap[1] - 1)
        if self._trap[1] <= 0:
            self._trap = None
            self._sprung()

    def worker(self, which: int) -> str:
        """Name of one of those at work; of a new one where there are not so many."""
        names = sorted(self.workers)
        if which < len(names):
            return names[which]
        self._n_workers += 1
        name = f"w{self._n_workers}"
        self.workers[name] = self.new_worker(name)
        return name

    def new_worker(self, name: str) -> Worker:
        """A worker with its twins in this process."""

        def make(version: str) -> TwinShard:
            # The store is the installation's to close.
            return TwinShard(binding_of(version), replace(history(self.store, version), close=lambda: None))

        version = self.store.champion() or "1"
        rules = WorkerSettings(name, LOG, version, LEASE_S, timedelta(minutes=5), threaded=False)
        return Worker(
            self.log, self.store, LocalHost(make(version), make), self.clock, rules, on_step=self._at,
            erase=lambda: len(self.eraser.carry_out()),
        )

    def died(self, name: str, *, comes_back: bool) -> None:
        """A worker is gone; whoever starts next first finishes what was cut short."""
        del self.workers[name]
        self.eraser.resume()
        if comes_back:
            self.workers[name] = self.new_worker(name)

    def relay_died(self) -> None:
        """The relay is gone, and another begins."""
        self.relay = self._new_relay()

    def _new_relay(self) -> Relay:
        return Relay(self.store, self.open_topic, chunk=5, on_step=self._at)


def make_empty_store(folder: Path) -> Path:
    """A store's file, migrated once: installations begin with copies of it."""
    path = folder / "empty.sqlite"
    open_twin_store(f"sqlite:///{path}").close()
    return path


def _hasten(connection: Any, _record: object) -> None:
    connection.execute("PRAGMA synchronous=OFF")


def _die() -> None:
    raise Crash
