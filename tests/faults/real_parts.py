"""The fault programme with real parts: Kafka, PostgreSQL, Ray and worker processes, each seed with one kind of fault.

    python -m tests.faults.real_parts --n 200 --seed 1    runs many seeds, adds them to the ledger
    python -m tests.faults.real_parts --only 17           replays one and prints what its processes did
    python -m tests.faults.real_parts --sum               prints the ledger's sums by commit

What a seed draws (events, order, kind, step, pass) is the same each time; what the machine does at that moment is not.
After each seed the store is held against an undisturbed run of the same events.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults import ledger
from tests.faults.population import draw_population
from tests.faults.real_checks import check
from tests.faults.real_kinds import CYCLE, KINDS, TMPFS_BYTES, Kind, hits, kind_of
from tests.faults.real_run import Run
from tests.faults.real_services import Services
from tests.faults.weather import PAIRS

from oncotwin.bootstrap.settings import Settings

LEASE_S = 2.0


@dataclass
class Tally:
    """What some seeds found.

    Attributes:
        coverage: kills between two steps. unfired: seeds whose fault did not come. failures: seed and what was wrong.
    """

    n: int = 0
    coverage: Counter[tuple[str, str]] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    unfired: list[int] = field(default_factory=list)
    failures: list[tuple[int, str]] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Add another's seeds."""
        self.n += other.n
        self.coverage.update(other.coverage)
        self.kinds.update(other.kinds)
        self.unfired += other.unfired
        self.failures += other.failures

    @property
    def missed(self) -> list[tuple[str, str]]:
        """Pairs of consecutive steps between which nothing was killed."""
        return [pair for pair in PAIRS if not self.coverage[pair]]


def run_seed(
    seed: int, services: Services, tally: Tally, kind: Kind | None = None, turn: int = 0, *, show: bool = False
) -> None:
    """Run one seed and check everything.

    Args:
        kind, turn: another kind than the seed's own.
    Raises:
        Exception: what was wrong.
    """
    if kind is None:
        kind, turn = kind_of(seed)
    rng = random.Random(f"real {seed}")
    population = draw_population(rng, small=kind.place == "ray")
    with _installation(kind, seed, rng, services) as settings:
        run = Run(seed, rng, services, settings, population, kind.patience_s)
        try:
            run.begin()
            run.go(kind.fault(run, turn))
            check(run)
        finally:
            if show:
                print(run.trace(), run.describe(), sep="\n")
            run.close()
        tally.coverage.update(hits(run))
        if not run.fired and not hits(run):
            tally.unfired.append(seed)
    if kind.place == "ray":
        _wait_until_empty(services)


def _installation(
    kind: Kind, seed: int, rng: random.Random, services: Services
) -> AbstractContextManager[Settings]:
    more: dict[str, Any] = {
        "partitions": rng.choice((1, 2, 4)), "commit_events": rng.choice((2, 4, 8, 30)), "lease_seconds": LEASE_S,
    }
    if kind.place == "embedded":
        return services.embedded(seed, tmpfs_bytes=TMPFS_BYTES, **more)
    if kind.place == "ray":
        more |= {"ray": services.ray.address, "twins_per_actor": rng.choice((1, 2, 64))}
    return services.deployed(seed, **more)


def _wait_until_empty(services: Services) -> None:
    """Actors bear the patients' names: those of one seed must not meet the next."""
    deadline = time.monotonic() + 60.0
    while not services.ray.is_empty():
        if time.monotonic() > deadline:
            raise RuntimeError(f"actors outlived their workers: {services.ray.names()}")
        time.sleep(0.1)


def run_seeds(seeds: Iterable[int], services: Services) -> Iterator[Tally]:
    """Run seeds, keeping what failed; yields what each found."""
    for seed in seeds:
        tally = Tally()
        try:
            run_seed(seed, services, tally)
        except Exception as error:  # every kind of failure is a finding, and the next seed may find another
            tally.failures.append((seed, f"{type(error).__name__}: {error}"))
        tally.n += 1
        tally.kinds[kind_of(seed)[0].name] += 1
        yield tally


def _run_many(seeds: Sequence[int], path: Path) -> Tally:
    """With a bar that shows how far it is and what failed; each seed is in the ledger as soon as it is over."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    total, of_commit = Tally(), ledger.commit()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Services() as services, Progress(*columns) as progress:
        task = progress.add_task("faults", total=len(seeds))
        begun = time.monotonic()
        with contextlib.suppress(KeyboardInterrupt):
            for seed, tally in zip(seeds, run_seeds(seeds, services), strict=True):
                total.add(tally)
                seconds, begun = time.monotonic() - begun, time.monotonic()
                ledger.write(
                    "real", seed, tally.n, tally.failures, tally.coverage, tally.kinds, seconds, path, of_commit
                )
                done = len(PAIRS) - len(total.missed)
                progress.update(
                    task, advance=1, description=f"{len(total.failures)} failed, {done} of {len(PAIRS)} pairs of steps"
                )
                for _, what in tally.failures:
                    progress.console.print(f"seed {seed} ({kind_of(seed)[0].name}): {what[:2000]}", markup=False)
    return total


def _report(tally: Tally, seconds: float) -> None:
    failed = Counter(kind_of(seed)[0].name for seed, _ in tally.failures)
    print(f"{tally.n} seeds in {seconds:.0f} s; {len(tally.failures)} failed")
    for kind in KINDS:
        if tally.kinds[kind.name]:
            print(f"  {kind.name}: {tally.kinds[kind.name]} seeds, {failed[kind.name]} failed")
    for pair in PAIRS:
        print(f"  killed between {pair[0]!r} and {pair[1]!r}: {tally.coverage[pair]}")
    if tally.unfired:
        print(f"  the fault came too late for the stream: {tally.unfired}")
    for seed, what in tally.failures:
        print(f"failed: python -m tests.faults.real_parts --only {seed}   # {what[:300]}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.real_parts", description=main.__doc__)
    parser.add_argument("--n", type=int, default=len(CYCLE), help="how many seeds (%(default)s: every kind)")
    parser.add_argument("--seed", type=int, default=1, help="the first (%(default)s)")
    parser.add_argument("--only", type=int, help="replay this one and print what happened")
    parser.add_argument("--kind", choices=[kind.name for kind in KINDS], help="run seeds of this kind alone")
    parser.add_argument("--without-ray", action="store_true", help="leave out the seeds that need Ray")
    parser.add_argument("--sum", action="store_true", help="print the sums of the ledger")
    parser.add_argument("--ledger", type=Path, default=ledger.LEDGER, help="(%(default)s)")
    chosen = parser.parse_args(arguments)
    # Whoever ends this ends the services too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if chosen.sum:
        ledger.print_sums(PAIRS, chosen.ledger)
        return
    if chosen.only is not None:
        with Services() as services:
            run_seed(chosen.only, services, Tally(), show=True)
        return
    begun = time.monotonic()
    seeds = [
        seed
        for seed in range(chosen.seed, chosen.seed + chosen.n)
        if chosen.kind in (None, kind_of(seed)[0].name) and not (chosen.without_ray and kind_of(seed)[0].place == "ray")
    ]
    tally = _run_many(seeds, chosen.ledger)
    _report(tally, time.monotonic() - begun)
    sys.exit(bool(tally.failures))


if __name__ == "__main__":
    main()
