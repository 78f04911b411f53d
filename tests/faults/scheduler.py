"""A seeded scheduler: many processes in one, taking turns where they are told to, under a time that it owns.

Each process is a greenlet. It runs until it reaches a named point (`turn`), sleeps, or wants a lock that another holds;
there the scheduler, and nothing else, decides who goes on. One seed, one schedule.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import greenlet

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


class Died(BaseException):
    """The process ends here: whatever it had in memory is gone. No `Exception`, so that nothing takes it for one."""


class LockTimeoutError(Exception):
    """A lock was not to be had in time."""


class StuckError(Exception):
    """Nobody makes progress any more."""


@dataclass(eq=False)
class Process:
    """One simulated process.

    Attributes:
        wake_at: when it wants to go on; blocked_until: when it gives up waiting for the lock, None while it does not.
        skew_s: how far its wall clock is off.
        dead: it died; what still runs while its stack unwinds must have no effect.
    """

    name: str
    body: Callable[[Process], None]
    wake_at: float
    skew_s: float = 0.0
    blocked_until: float | None = None
    dead: bool = False
    ended: bool = False
    strand: greenlet.greenlet = field(init=False)


class Scheduler:
    """Owns time, the processes, and the one lock that they share: of writing to the store."""

    def __init__(self, rng: random.Random, on_end: Callable[[Process], None]) -> None:
        self.rng = rng
        self.time = 0.0
        self.processes: list[Process] = []
        self.n_turns = 0
        self.trace: list[str] = []
        self.stopping = False
        self._on_end = on_end
        self._holder: Process | None = None
        self._running: Process | None = None
        self._main = greenlet.getcurrent()

    def note(self, what: str) -> None:
        """Remember what happened, for whoever looks at a failure."""
        name = "-" if self._running is None else self._running.name
        self.trace.append(f"{self.time:9.3f} {name:>10} {what}")

    def spawn(self, name: str, body: Callable[[Process], None], after_s: float = 0.0) -> Process:
        """Start a process."""
        process = Process(name, body, self.time + after_s)
        process.strand = greenlet.greenlet(lambda: self._live(process), self._main)
        self.processes.append(process)
        return process

    def run(self, done: Callable[[], bool], most_turns: int) -> None:
        """Let processes take turns until all is done.

        Raises:
            StuckError: it is not done after so many turns.
        """
        while not done():
            self.n_turns += 1
            if self.n_turns > most_turns:
                raise StuckError(f"not done after {most_turns} turns, at {self.time:.0f} s")
            self._switch(self._next())

    def stop(self) -> None:
        """End all processes as if they died."""
        self.stopping = True
        for process in list(self.processes):
            self.kill(process)

    def kill(self, process: Process) -> None:
        """End another process wherever it stands."""
        if process.ended:
            return
        process.dead = True
        if process.strand:
            self._running, before = process, self._running
            process.strand.throw(Died())
            self._running = before
        process.ended = True
        self._left(process)

    @property
    def current(self) -> Process:
        """Whose turn it is."""
        assert self._running is not None
        return self._running

    def turn(self, after_s: float = 0.0) -> None:
        """Let others go first; the present process goes on at the earliest after so many seconds."""
        process = self.current
        process.wake_at = self.time + after_s
        self._main.switch()

    def lock(self, patience_s: float) -> None:
        """Take the lock, waiting while another process holds it.

        Raises:
            LockTimeoutError: it was not to be had in time.
        """
        if self._running is None:
            return
        process = self._running
        while self._holder not in (None, process):
            if process.blocked_until is None:
                process.blocked_until = self.time + patience_s
            elif self.time >= process.blocked_until:
                process.blocked_until = None
                raise LockTimeoutError(f"the lock is held by {self._holder.name if self._holder else '-'}")
            self._main.switch()
        process.blocked_until = None
        self._holder = process

    def unlock(self) -> None:
        """Give the lock back, where the present process has it."""
        if self._holder is self._running:
            self._holder = None

    def _next(self) -> Process:
        """A process that may go on; time passes until there is one."""
        while True:
            ready = [p for p in self.processes if self._may_go(p)]
            if ready:
                return ready[0] if len(ready) == 1 else self.rng.choice(ready)
            waking = [
                p.wake_at if p.blocked_until is None else p.blocked_until
                for p in self.processes
                if not p.ended
            ]
            if not waking:
                raise StuckError("no process is left")
            self.time = max(self.time, min(waking))

    def _may_go(self, process: Process) -> bool:
        if process.ended:
            return False
        if process.blocked_until is not None:
            return self._holder is None or self.time >= process.blocked_until
        return process.wake_at <= self.time

    def _switch(self, process: Process) -> None:
        self._running = process
        try:
            process.strand.switch()
        finally:
            self._running = None
        if process.ended:
            self._left(process)

    def _left(self, process: Process) -> None:
        if self._holder is process:
            self._holder = None
        if process in self.processes:
            self.processes.remove(process)
            if not self.stopping:
                self._on_end(process)

    def _live(self, process: Process) -> None:
        try:
            process.body(process)
        except Died:
            process.dead = True
        finally:
            process.ended = True


class SimulatedClock:
    """The clock of one process: its wall clock may be wrong and be set, its monotonic clock never goes back."""

    def __init__(self, scheduler: Scheduler, process: Process) -> None:
        self._scheduler = scheduler
        self._process = process

    def now(self) -> datetime:
        """What the process's wall clock says."""
        return BEGIN + timedelta(seconds=self._scheduler.time + self._process.skew_s)

    def monotonic(self) -> float:
        """Simulated seconds."""
        return self._scheduler.time

    def sleep(self, seconds: float) -> None:
        """Let others go on for so long."""
        self._scheduler.turn(seconds)
