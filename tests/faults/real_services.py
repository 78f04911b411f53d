"""What the fault programme with real parts runs against: started once, for many seeds."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg
import pytest
from tests.faults.tcp_proxy import TcpProxy
from tests.faults.worker_process import WorkerOrder

from oncotwin.adapters.sql_store import open_twin_store
from oncotwin.bootstrap import wiring
from oncotwin.bootstrap.settings import Settings
from oncotwin.testing.postgres_server import PostgresServer
from oncotwin.testing.servers import KafkaBroker

RAY_ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_raylet_start_wait_time_s": "60",
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "240", "RAY_metric_cardinality_level": "low", "RAY_worker_niceness": "0",
    # Without this Ray takes the loopback address that it was given for one that others cannot reach, replaces it by
    # another one of the machine, and then finds nobody there.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # As docs/operations.md advises: a node that is dead is noticed after five seconds, not fifteen.
    "RAY_health_check_period_ms": "1000",
}
_RAY_ATTEMPTS = 6
"""A node gives up where the agent beside it is not up within fifteen seconds; a busy machine may need longer."""
_TEMPLATE = "migrated"
_WAIT_S = 240.0


class Nursery:
    """Forks workers, and knows who ended; use it as a context manager."""

    def __init__(self) -> None:
        self.ended: dict[int, int] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._buffer = b""

    def __enter__(self) -> Self:
        environment = {**os.environ, **RAY_ENVIRONMENT, "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.worker_process"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env=environment,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process, self._process = self._process, None
        assert process is not None and process.stdin is not None and process.stdout is not None
        process.stdin.close()
        try:
            process.wait(10.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()

    def wait_until_ready(self) -> None:
        """Return when it can fork.

        Raises:
            RuntimeError: it does not come up.
        """
        self._next("ready", _WAIT_S)

    def born(self, order: WorkerOrder) -> int:
        """Process id of a new worker."""
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(order.to_json().encode() + b"\n")
        self._process.stdin.flush()
        return int(self._next("born", 30.0)["born"])

    def look(self) -> None:
        """Learn who ended."""
        while self._message(0.0) is not None:
            pass

    def _next(self, name: str, patience_s: float) -> dict[str, int]:
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            found = self._message(0.1)
            if found is not None and name in found:
                return found
        raise RuntimeError(f"the process that forks workers said no {name!r} in {patience_s:.0f} s")

    def _message(self, patience_s: float) -> dict[str, int] | None:
        assert self._process is not None and self._process.stdout is not None
        if b"\n" not in self._buffer and select.select([self._process.stdout], [], [], patience_s)[0]:
            more = os.read(self._process.stdout.fileno(), 65_536)
            if not more:
                raise RuntimeError("the process that forks workers has ended")
            self._buffer += more
        line, found, rest = self._buffer.partition(b"\n")
        if not found:
            return None
        self._buffer = rest
        message: dict[str, int] = json.loads(line)
        if "ended" in message:
            self.ended[message["ended"]] = message["status"]
        return message


class RayCluster:
    """A head that hosts nothing and two nodes that host twins, one of which can be killed."""

    def __init__(self) -> None:
        private = pytest.MonkeyPatch()
        for name, value in RAY_ENVIRONMENT.items():
            private.setenv(name, value)
        import ray
        from ray.cluster_utils import Cluster

        self._ray = ray
        logging.getLogger("ray").setLevel(logging.CRITICAL)
        self._private = private
        # With this each agent loads its least: a node is up sooner.
        private.setattr(ray._private.utils, "get_dashboard_dependency_error", lambda: ImportError("left out"))
        # What RAY_ENVIRONMENT says for processes to come; this one may have imported Ray before.
        private.setattr(ray._private.ray_constants, "ENABLE_RAY_CLUSTER", False)
        self._cluster: Any = Cluster()
        try:
            self._add(num_cpus=0, include_dashboard=False)
            for _ in range(2):
                self.add_node()
            ray.init(
                address=self.address, namespace="oncotwin", log_to_driver=False, logging_level=logging.CRITICAL,
            )
        except BaseException:
            self.close()
            raise

    @property
    def address(self) -> str:
        """As the setting `ray` takes it."""
        return str(self._cluster.address)

    def add_node(self) -> None:
        """Have one more node for twins."""
        self._add(num_cpus=2)

    def _add(self, **options: Any) -> None:
        for attempt in range(1, _RAY_ATTEMPTS + 1):
            try:
                self._cluster.add_node(node_ip_address="127.0.0.1", **options)
                return
            except Exception:  # Ray says by bare Exception that its processes were not up in time
                if attempt == _RAY_ATTEMPTS:
                    raise
                if self._cluster.head_node is not None and not self._cluster.worker_nodes:
                    self._cluster.remove_node(self._cluster.head_node, allow_graceful=False)

    def names(self) -> list[str]:
        """Names of the actors there are."""
        return [one["name"] for one in self._ray.util.list_named_actors(all_namespaces=True)]

    def pids(self) -> dict[str, int]:
        """Process ids of the actors that answer."""
        found = {}
        for name in self.names():
            with contextlib.suppress(Exception):  # one that is restarting is passed over
                actor: Any = self._ray.get_actor(name, namespace="oncotwin")
                answer: Any = self._ray.get(actor.pid.remote(), timeout=5.0)
                found[name] = int(answer)
        return found

    def kill_node_of(self, pid: int) -> bool:
        """Kill the node whose actor has this process id; False where no node has."""
        parents = set(_ancestors(pid))
        for node in list(self._cluster.worker_nodes):
            processes = [info.process.pid for infos in node.all_processes.values() for info in infos]
            if parents & set(processes):
                self._cluster.remove_node(node, allow_graceful=False)
                return True
        return False

    def is_empty(self) -> bool:
        """Whether no actor is left of an earlier seed."""
        return not self.names()

    def close(self) -> None:
        """End all of it."""
        self._ray.shutdown()
        self._cluster.shutdown()
        self._private.undo()


def _ancestors(pid: int) -> Iterator[int]:
    while pid > 1:
        yield pid
        status = Path(f"/proc/{pid}/status")
        if not status.exists():
            return
        [parent] = [line for line in status.read_text().splitlines() if line.startswith("PPid:")]
        pid = int(parent.split()[1])


class Services:
    """Broker behind a proxy, PostgreSQL, the nursery, and a Ray cluster from its first use on."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._ray: RayCluster | None = None
        # Short: PostgreSQL's socket and Ray's lie below the temporary folder.
        self.folder = Path(tempfile.mkdtemp(prefix="ff"))

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def _start(self) -> None:
        enter = self._stack.enter_context
        self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        # What is cut and killed here fills a log with what is meant to happen.
        logging.getLogger("kafka").setLevel(logging.CRITICAL)
        self.nursery = enter(Nursery())
        self.proxy = TcpProxy(0)
        self.broker = KafkaBroker(self.folder / "kafka", advertised_port=self.proxy.port)
        self.proxy.target = self.broker.port
        enter(self.proxy)
        enter(self.broker)
        self.postgres = enter(PostgresServer())
        self.mlflow = f"sqlite:///{self.folder / 'mlflow.sqlite'}"
        # Made once: MLflow takes seconds to make its tables.
        wiring.open_registry(Settings(home=self.folder, mlflow=self.mlflow)).alias("champion")
        self._make_template()
        self.nursery.wait_until_ready()

    def _make_template(self) -> None:
        plain = self.postgres.url().replace("+psycopg", "")
        with psycopg.connect(plain, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {_TEMPLATE}".encode())
        open_twin_store(self.postgres.url(_TEMPLATE)).close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ray is not None:
            self._ray.close()
        self._stack.close()

    @property
    def ray(self) -> RayCluster:
        """The cluster, started at its first use."""
        if self._ray is None:
            self._ray = RayCluster()
        return self._ray

    @contextmanager
    def deployed(self, seed: int, **more: Any) -> Iterator[Settings]:
        """Settings of an installation on Kafka and PostgreSQL with a topic and a database of its own."""
        with self._home(seed) as home, self.postgres.database(_TEMPLATE) as store:
            yield self._settings(home, log=f"kafka://127.0.0.1:{self.proxy.port}", store=store, **more)

    @contextmanager
    def embedded(self, seed: int, *, tmpfs_bytes: int = 0, **more: Any) -> Iterator[Settings]:
        """Settings of an installation on SQLite, on a small file system of its own where it can be mounted."""
        with self._home(seed) as home:
            mounted = bool(tmpfs_bytes) and _mount(home, tmpfs_bytes)
            try:
                yield self._settings(home, **more)
            finally:
                if mounted:
                    _unmount(home)

    @contextmanager
    def _home(self, seed: int) -> Iterator[Path]:
        home = self.folder / f"seed{seed}.{time.monotonic_ns()}"
        home.mkdir()
        try:
            yield home
        finally:
            shutil.rmtree(home, ignore_errors=True)

    def _settings(self, home: Path, **more: Any) -> Settings:
        chosen = {
            "ray": "in-process", "poll_seconds": 0.05, "batch_seconds": 5.0, "checkpoint_entries": 30, **more
        }
        return Settings(home=home, topic=home.name, mlflow=self.mlflow, **chosen)


def _mount(folder: Path, n_bytes: int) -> bool:
    """A small file system in memory; False where this user may not mount."""
    words = ["mount", "-t", "tmpfs", "-o", f"size={n_bytes},mode=700", "tmpfs", str(folder)]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


def _unmount(folder: Path) -> None:
    for words in (["umount", str(folder)], ["umount", "-l", str(folder)]):
        if subprocess.run(words, capture_output=True, check=False).returncode == 0:
            return


def stop(pid: int, number: int) -> None:
    """Send a signal to a process that may have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.Signals(number))
