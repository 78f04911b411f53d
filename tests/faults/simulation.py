"""Simulate faults by the thousand: one seed, one schedule, one answer.

    python -m tests.faults.simulation --seed 17          replays one seed and prints what happened
    python -m tests.faults.simulation --first 1 --n 500  runs many, and adds them to the ledger of this commit
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path

from tests.faults import ledger
from tests.faults.checks import (
    as_sent,
    check_audit,
    check_beliefs,
    check_nothing_lost,
    check_outbox,
    check_versions,
    compare,
    originals,
    picture,
)
from tests.faults.databases import Databases
from tests.faults.poison import poisoned_kernel
from tests.faults.population import Population, draw_population
from tests.faults.weather import LINE_PAIRS, PAIRS, Weather, draw_weather, undisturbed
from tests.faults.world import VERSION, World
from tests.unit.twin.trend_model import TrendModel

from oncotwin.domain.bundle import ModelBundle, ModelPrior
from oncotwin.filters.unscented import UnscentedFilter
from oncotwin.models.androgen import AndrogenSuppression
from oncotwin.models.base import Observable, TumourModel
from oncotwin.models.tumour_burden import TumourBurden
from oncotwin.testing.postgres_server import PostgresServer
from oncotwin.twin.drift import DriftSettings
from oncotwin.twin.fold import Binding, bind


@dataclass
class Tally:
    """What some seeds found.

    Attributes:
        failures: seed and what was wrong.
    """

    n: int = 0
    coverage: Counter[tuple[str, str]] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[int, str]] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Add another's seeds."""
        self.n += other.n
        self.coverage.update(other.coverage)
        self.kinds.update(other.kinds)
        self.failures += other.failures

    @property
    def missed(self) -> list[tuple[str, str]]:
        """Pairs of consecutive steps between which nothing crashed."""
        return [pair for pair in PAIRS if not self.coverage[pair]]


@lru_cache(maxsize=8)
def binding(built_in: bool, version: str) -> Binding:
    """A model version: of the shipped models, or of two that are linear and fold in a tenth of the time."""
    diameters = TrendModel(observables=(Observable("longest_diameter", "mm", True, 1.0),))
    marker = TrendModel(name="marker", observables=(Observable("psa", "ng/mL", True, 0.1),))
    hyper = {**diameters.default_hyperparameters(), "noise": 0.1 + 0.1 * int(version)}
    models = {name: ModelPrior(name, hyper) for name in ("trend", "marker")}
    burden = TumourBurden()
    width = {"mean": 9.5, "sd": 2.0 + int(version)}
    models[burden.name] = ModelPrior(burden.name, {**burden.default_hyperparameters(), "log_volume": width})
    chosen: list[TumourModel] = [burden, AndrogenSuppression()] if built_in else [diameters, marker]
    return bind(version, ModelBundle(models), chosen, UnscentedFilter(), DriftSettings())


def simulate(seed: int, databases: Databases, tally: Tally, *, show: bool = False) -> list[str]:
    """Run one seed and check everything.

    Returns:
        What happened, line by line.
    Raises:
        Exception: what was wrong; the seed replays it.
    """
    rng = random.Random(seed)
    weather, population = draw_weather(rng), draw_population(rng)
    database = databases.postgres if databases.postgres is not None and seed % 10 == 0 else databases.disturbed
    world = World(rng, weather, population, database, partial(binding, weather.built_in))
    try:
        with poisoned_kernel():
            world.run()
            check(world, weather, databases)
        return world.scheduler.trace
    finally:
        tally.n += 1
        tally.coverage.update(world.coverage)
        tally.kinds.update(world.kinds)
        if show:
            print(weather, "\n".join(world.scheduler.trace), sep="\n")


def check(world: World, weather: Weather, databases: Databases) -> None:
    """Hold a world at its end against what was sent, and against an undisturbed one of the same events."""
    store = world.store()
    check_nothing_lost(store, (record for batch in world.population.deliveries for record in batch))
    check_versions(store)
    check_beliefs(store, world.bind)
    check_audit(store)
    check_outbox(
        world.engine,
        {name: [r for partition in topic.partitions for r in partition] for name, topic in world.out.items()},
    )
    records = tuple(as_sent(entry) for entry in originals(store))
    quiet = World(
        random.Random(0), undisturbed(weather), Population(world.population.patients, (), (records,)),
        databases.undisturbed, world.bind, store.champion() or VERSION,
    )
    quiet.run()
    compare(picture(store), picture(quiet.store()))


def run(seeds: Iterable[int], databases: Databases) -> Tally:
    """Run seeds, keeping what failed."""
    tally = Tally()
    for seed in seeds:
        try:
            simulate(seed, databases, tally)
        except Exception as error:  # every kind of failure is a finding, and the next seed may find another
            tally.failures.append((seed, f"{type(error).__name__}: {error}"))
    return tally


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.simulation", description=main.__doc__)
    parser.add_argument("--seed", type=int, help="replay this one and print what happened")
    parser.add_argument("--first", type=int, default=1, help="the first of many (%(default)s)")
    parser.add_argument("--n", type=int, default=500, help="how many (%(default)s)")
    parser.add_argument("--jobs", type=int, help="processes; by default one for each processor")
    parser.add_argument("--sqlite-only", action="store_true", help="no PostgreSQL for every tenth seed")
    parser.add_argument("--ledger", type=Path, default=ledger.LEDGER, help="(%(default)s)")
    chosen = parser.parse_args(arguments)
    with ExitStack() as stack:
        server = None if chosen.sqlite_only else stack.enter_context(PostgresServer())
        if chosen.seed is not None:
            databases = Databases(None if server is None else stack.enter_context(server.database()))
            stack.callback(databases.close)
            simulate(chosen.seed, databases, Tally(), show=True)
            return
        from tests.faults.pool import n_jobs, run_many

        jobs = chosen.jobs or n_jobs()
        urls = [] if server is None else [stack.enter_context(server.database()) for _ in range(jobs)]
        of_commit, begun = ledger.commit(), time.monotonic()
        seeds = range(chosen.first, chosen.first + chosen.n)
        tally = _with_bar(lambda tell: run_many(seeds, jobs, urls, tell), chosen.n)
        seconds = time.monotonic() - begun
    report(tally, seconds)
    ledger.write(
        "simulated", chosen.first, tally.n, tally.failures, tally.coverage, tally.kinds, seconds, chosen.ledger,
        of_commit,
    )
    ledger.print_sums(PAIRS, chosen.ledger)
    sys.exit(bool(tally.failures))


def _with_bar(work: Callable[[Callable[[Tally], None]], Tally], n: int) -> Tally:
    """Show how far it is, and what failed."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    sofar = Tally()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task("simulated", total=n)

        def tell(done: Tally) -> None:
            sofar.add(done)
            hit = len(PAIRS) - len(sofar.missed)
            what = f"{len(sofar.failures)} failed, {hit} of {len(PAIRS)} pairs of steps"
            progress.update(task, advance=done.n, description=what)
            for seed, text in done.failures:
                progress.console.print(f"seed {seed}: {text[:1000]}", markup=False)

        return work(tell)


def report(tally: Tally, seconds: float) -> None:
    """Print what was found, and how often each pair of consecutive steps had a crash between its two."""
    print(f"{tally.n} seeds in {seconds:.1f} s, {tally.n / seconds:.1f} a second; {len(tally.failures)} failed")
    print(", ".join(f"{kind}: {n}" for kind, n in sorted(tally.kinds.items())))
    for pair in (*PAIRS, *LINE_PAIRS):
        print(f"  crashed between {pair[0]!r} and {pair[1]!r}: {tally.coverage[pair]}")
    for seed, what in tally.failures:
        print(f"failed: python -m tests.faults.simulation --seed {seed}   # {what[:300]}")


if __name__ == "__main__":
    main()
