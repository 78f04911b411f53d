"""The faults, each as what is done to a run while it runs."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.faults.real_run import Run, Wait, Worker
from tests.faults.real_services import stop
from tests.faults.weather import AFTER, PAIRS

STEPS = tuple(first for first, _ in PAIRS)
_MB = 1024 * 1024
TMPFS_BYTES = 24 * _MB


@dataclass(frozen=True)
class Kind:
    """A fault.

    Attributes:
        share: seeds of it among `CYCLE`; place: "deployed", "embedded" or "ray". fault: see `Wait`.
    """

    name: str
    share: int
    place: str
    fault: Callable[[Run, int], Wait]
    patience_s: float = 240.0


def _two(run: Run) -> list[Worker]:
    return [run.start(), run.start()]


def worker_killed(run: Run, turn: int) -> Wait:
    """kill -9 of a worker right after a named step: the turn's; another worker may stand by."""
    step = STEPS[turn % len(STEPS)]
    n_pass = run.rng.randint(1, 3) if step in ("leased", *STEPS[-3:]) else run.rng.randint(1, 4)
    victim = run.start(at=(step, n_pass))
    if run.rng.random() < 0.5:
        run.start()
    # A step that is not passed so often (a partition too few, another who did the work) is met at its next pass.
    yield from run.wait_for(lambda: victim.hit or not victim.alive or (run.is_idle() and victim.ready), 40.0)
    if not victim.hit:
        # The next one is to be alone: where others stand by, a lone partition might be theirs.
        for worker in run.workers:
            worker.replaced = True
            stop(worker.pid, signal.SIGTERM)
        second = run.start(at=(step, 1))
        yield from run.wait_for(lambda: second.ready or not second.alive)
        run.send_more(8)
        yield from run.wait_for(lambda: second.hit or not second.alive, 30.0)


def worker_stopped(run: Run, turn: int) -> Wait:
    """SIGSTOP at a named step, for longer than a lease, while another takes over; then SIGCONT."""
    step = STEPS[(turn * 7 + 3) % len(STEPS)]
    victim = run.start(at=(step, run.rng.randint(1, 3)), signal=signal.SIGSTOP)
    yield from run.wait_for(lambda: victim.ready)
    run.start()
    yield from run.wait_for(lambda: victim.hit or run.is_idle(), 20.0)
    if not victim.hit:
        run.send_more(8)
        yield from run.wait_for(lambda: victim.hit, 5.0)
    if not victim.hit:
        stop(victim.pid, signal.SIGSTOP)
    run.fire("stopped")
    yield from run.pause(run.settings.lease_seconds * run.rng.uniform(1.2, 2.5))
    stop(victim.pid, signal.SIGCONT)
    yield from run.pause(1.5)


def broker_killed(run: Run, turn: int) -> Wait:
    """kill -9 of the broker, and its return."""
    _two(run) if turn % 2 else run.start()
    yield from _some_commits(run)
    run.fire("broker")
    run.services.broker.kill()
    yield from run.pause(run.rng.uniform(0.0, 2.0))
    run.services.broker.start()


def postgres_killed(run: Run, turn: int) -> Wait:
    """kill -9 of PostgreSQL, and its return."""
    _two(run) if turn % 2 else run.start()
    yield from _some_commits(run)
    run.fire("postgres")
    run.services.postgres.kill()
    yield from run.pause(run.rng.uniform(0.0, 2.0))
    run.services.postgres.start()


def database_cut(run: Run, turn: int) -> Wait:
    """Every connection to the database is cut, several times."""
    _two(run) if turn % 2 else run.start()
    yield from _some_commits(run)
    for _ in range(run.rng.randint(2, 6)):
        run.fire("cut")
        run.services.postgres.terminate_connections(run.settings.store)
        yield from run.pause(run.rng.uniform(0.0, 0.3))


def log_cut(run: Run, turn: int) -> Wait:
    """Every connection to the broker is cut, in the middle of what is sent, several times."""
    _two(run) if turn % 2 else run.start()
    yield from _some_commits(run)
    for _ in range(run.rng.randint(2, 6)):
        run.fire("cut")
        if run.rng.random() < 0.5:
            run.services.proxy.cut(refuse_s=run.rng.uniform(0.0, 1.0))
        else:
            run.services.proxy.cut_after(run.rng.randint(1, 4_000))
        yield from run.pause(run.rng.uniform(0.0, 0.5))


def disk_full(run: Run, turn: int) -> Wait:
    """The file system of the embedded log and the SQLite store is full for a while."""
    place = run.settings.home
    if not os.path.ismount(place):
        yield from _files_bounded(run)
        return
    _two(run) if turn % 2 else run.start()
    yield from _some_commits(run)
    for _ in range(run.rng.randint(1, 3)):
        filler = place / "filler"
        n = _n_errors(run)
        run.send_more(3)
        _fill(filler, run.rng.choice((0, 0, 4096, 16_384, 65_536)))
        yield from run.wait_for(lambda n=n: _n_errors(run) > n, 10.0)
        run.fired = run.fired or "full" * (_n_errors(run) > n)
        filler.unlink()
        yield from run.pause(run.rng.uniform(0.0, 0.5))


def _files_bounded(run: Run) -> Wait:
    """Where nothing can be mounted: no file of the worker may grow any more."""
    grown = max((p.stat().st_size for p in Path(run.settings.home).rglob("*") if p.is_file()), default=4096)
    victim = run.start(file_bytes=grown + run.rng.randrange(1, 200_000))
    run.send_more(12)
    yield from run.wait_for(lambda: victim.errors or not victim.alive, 20.0)
    run.fired = "bounded" * bool(victim.errors or not victim.alive)
    if victim.alive:
        resource.prlimit(victim.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def _fill(path: Path, left: int) -> None:
    """Leave so many bytes of a file system."""
    with path.open("wb", buffering=0) as file:
        for size in (_MB, 65_536, 4096):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                pass
        file.truncate(max(0, file.tell() - left))


def _n_errors(run: Run) -> int:
    return sum(len(worker.errors) for worker in run.workers)


def clock_steps(run: Run, turn: int) -> Wait:
    """Clocks of workers step to and fro, by more than a lease."""
    for _ in range(2):
        steps = []
        for _ in range(run.rng.randint(1, 3)):
            off_s = run.rng.choice((-86_400.0, -90.0, -3.0, 3.0, 90.0, 86_400.0, 0.0))
            steps.append((run.rng.choice(STEPS), run.rng.randint(1, 4), off_s))
        run.start(clock=tuple(steps))
    run.fire("clock")
    yield from run.pause(1.0)


def rebalance(run: Run, turn: int) -> Wait:
    """A second worker comes while the first commits, a third; they leave again."""
    first = run.start()
    yield from _some_commits(run)
    run.fire("rebalance")
    others = [run.start(), run.start()]
    yield from run.wait_for(lambda: any(other.steps["committed"] for other in others), 6.0)
    stop(run.rng.choice((first, *others)).pid, signal.SIGTERM)
    yield from run.pause(run.rng.uniform(0.0, 1.0))
    run.start()


def doubled_delivery(run: Run, turn: int) -> Wait:
    """All comes twice, the second time in another order, while two workers share the partitions."""
    again = list(run.sent)
    run.rng.shuffle(again)
    while again:
        n = run.rng.randint(1, 12)
        run.send(again[:n])
        again = again[n:]
    _two(run)
    run.fired = "doubled"
    yield from run.pause(0.1)


def actor_killed(run: Run, turn: int) -> Wait:
    """kill -9 of the processes that host twins."""
    _two(run) if turn % 2 else run.start()
    yield from run.wait_for(lambda: run.n_commits >= 1, 60.0)
    for _ in range(run.rng.randint(1, 2)):
        pids = run.services.ray.pids()
        if pids:
            run.fire("actor")
            stop(run.rng.choice(sorted(pids.values())), signal.SIGKILL)
        yield from run.pause(run.rng.uniform(0.0, 1.0))


def node_killed(run: Run, turn: int) -> Wait:
    """kill -9 of a node that hosts twins; another node stands by."""
    run.start()
    yield from run.wait_for(lambda: run.n_commits >= 1, 60.0)
    pids = run.services.ray.pids()
    if pids:
        run.fire("node")
    killed = any(run.services.ray.kill_node_of(pid) for pid in sorted(pids.values()))
    if not killed:
        run.fired = ""
    yield from run.wait_for(run.is_idle, 90.0)
    if killed:
        run.services.ray.add_node()


def _some_commits(run: Run) -> Wait:
    n = run.rng.randint(0, 4)
    yield from run.wait_for(lambda: any(worker.ready for worker in run.workers), 60.0)
    yield from run.wait_for(lambda: run.n_commits >= n or run.is_idle())
    yield from run.pause(run.rng.uniform(0.0, 0.15))


KINDS = (
    Kind("worker killed", 9, "deployed", worker_killed),
    Kind("worker stopped", 2, "deployed", worker_stopped),
    Kind("actor killed", 1, "ray", actor_killed, 360.0),
    Kind("node killed", 1, "ray", node_killed, 420.0),
    Kind("broker killed", 1, "deployed", broker_killed),
    Kind("postgres killed", 1, "deployed", postgres_killed),
    Kind("database cut", 1, "deployed", database_cut),
    Kind("log cut", 1, "deployed", log_cut),
    Kind("disk full", 1, "embedded", disk_full),
    Kind("clock steps", 1, "deployed", clock_steps),
    Kind("rebalance", 1, "deployed", rebalance),
    Kind("doubled delivery", 1, "deployed", doubled_delivery),
)
CYCLE = tuple(kind for kind in KINDS for _ in range(kind.share))


def kind_of(seed: int) -> tuple[Kind, int]:
    """The kind of a seed, and how many seeds of that kind came before it."""
    cycle, place = divmod(seed - 1, len(CYCLE))
    kind = CYCLE[place]
    return kind, cycle * kind.share + sum(one is kind for one in CYCLE[:place])


def hits(run: Run) -> list[tuple[str, str]]:
    """Pairs of steps between which a worker of this run was killed."""
    return [(w.hit, AFTER[w.hit]) for w in run.workers if w.hit and w.order.signal == signal.SIGKILL]
