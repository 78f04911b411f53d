"""Feeds bytes to everything that reads bytes from outside, and prints what it met.

python -m tests.faults.fuzz --n 1000000 --seed 1
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

TARGETS = {
    "structured": 4, "binary": 4, "strict_json": 4, "dead_letters": 1, "state": 6, "filter_state": 3, "sealed": 2,
    "manifest": 2, "backup_row": 2, "backup_file": 1, "checkpoints": 2, "proof": 2, "bundle": 2, "journal": 2,
    "table": 1,
}
"""As `fuzz_targets.TARGETS`, named here so that this process need not import them; and each one's share."""

N_PROCESSES = 2
_LOOK_S = 0.2


@dataclass(slots=True)
class Run:
    """One target's share.

    Attributes:
        code: exit status of its process, None while it runs.
    """

    target: str
    n: int
    folder: Path
    process: subprocess.Popen[bytes] | None = None
    code: int | None = None
    said: str = ""
    report: dict[str, Any] = field(default_factory=dict)

    def start(self, seed: int) -> None:
        """Start its process; what it prints goes to a file beside its report."""
        with self.folder.joinpath(f"{self.target}.log").open("wb") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-m", "tests.faults.fuzz_child", self.target, str(self.n), str(seed),
                    str(self.folder / f"{self.target}.json"),
                ],
                stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                # The numeric libraries' threads and an allocator's reserve would take address space for nothing.
                env={
                    **os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
                    "ARROW_DEFAULT_MEMORY_POOL": "system",
                },
            )

    def look(self) -> int:
        """Read the report; returns inputs so far."""
        path = self.folder / f"{self.target}.json"
        if path.exists():
            self.report = json.loads(path.read_text())
        assert self.process is not None
        self.code = self.process.poll()
        return int(self.report.get("n", 0))

    @property
    def problems(self) -> list[str]:
        """What was found: errors that nothing documents, a hang, the end of the process."""
        found = [f"{place}: {one['input']}\n{one['trace']}" for place, one in self.report.get("findings", {}).items()]
        if self.code != 0 or (self.report.get("n", 0) < self.n and not found):
            log = self.folder.joinpath(f"{self.target}.log").read_text(errors="replace")
            found.append(f"the process ended with {self.code} after {self.report.get('n', 0)} inputs:\n{log[-3000:]}")
        return found


def fuzz(n: int, seed: int, folder: Path, targets: Sequence[str] = tuple(TARGETS), *, console: Console) -> list[Run]:
    """Share inputs among the targets and run them, two processes at a time."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    whole = sum(TARGETS[target] for target in targets)
    waiting = deque(Run(target, -(-n * TARGETS[target] // whole), folder) for target in targets)
    running: list[Run] = []
    done: list[Run] = []
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
        console=console, disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task("fuzzing", total=n)
        try:
            while waiting or running:
                while waiting and len(running) < N_PROCESSES:
                    running.append(waiting.popleft())
                    running[-1].start(seed + len(done) + len(running))
                so_far = sum(run.look() for run in running)
                done += [run for run in running if run.code is not None]
                running = [run for run in running if run.code is None]
                bar.update(
                    task, completed=so_far + sum(run.report.get("n", 0) for run in done if run not in running),
                    description=f"fuzzing {', '.join(run.target for run in running)}",
                )
                time.sleep(_LOOK_S)
        finally:
            for run in running:
                if run.process is not None:
                    run.process.kill()
                    run.process.wait()
    return sorted(done, key=lambda run: list(TARGETS).index(run.target))


def show(runs: list[Run], console: Console) -> int:
    """Print a table and what was found; returns how many problems."""
    table = Table("reader", "inputs", "outcomes", "inputs/s", "slowest, ms", "of bytes", "peak, MB")
    for run in runs:
        report = run.report
        table.add_row(
            run.target, f"{report.get('n', 0):,}", str(len(report.get("outcomes", {}))),
            f"{report.get('n', 0) / max(report.get('seconds', 0.0), 1e-9):,.0f}",
            f"{1e3 * report.get('slowest_s', 0.0):.1f}", f"{report.get('slowest_bytes', 0):,}",
            f"{report.get('peak_mb', 0.0):,.0f}",
        )
    console.print(table)
    problems = [f"{run.target}: {problem}" for run in runs for problem in run.problems]
    reports = [run.report for run in runs if run.report]
    console.print(
        f"{sum(one['n'] for one in reports):,} inputs, {sum(len(one['outcomes']) for one in reports):,} distinct "
        f"outcomes, slowest {1e3 * max((one['slowest_s'] for one in reports), default=0.0):.1f} ms, peak "
        f"{max((one['peak_mb'] for one in reports), default=0.0):,.0f} MB, {len(problems)} problems",
        highlight=False,
    )
    for problem in problems:
        console.print(problem, markup=False, highlight=False, soft_wrap=True)
    return len(problems)


def main() -> None:
    """Run, print, and end with 1 where something was found."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=main.__doc__)
    parser.add_argument("--n", type=int, default=1_000_000, help="inputs over all readers (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="(%(default)s)")
    parser.add_argument("--target", action="append", choices=TARGETS, help="only this reader; repeatable")
    parser.add_argument("--folder", type=Path, default=Path("var/fuzz"), help="for reports and inputs (%(default)s)")
    arguments = parser.parse_args()
    console = Console(stderr=True)
    runs = fuzz(
        arguments.n, arguments.seed, arguments.folder.resolve(), list(arguments.target or TARGETS), console=console
    )
    sys.exit(1 if show(runs, Console(width=None if sys.stdout.isatty() else 140)) else 0)


if __name__ == "__main__":
    main()
