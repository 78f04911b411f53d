"""How long a promotion keeps everybody else from committing, and how fast a line is folded from the journal.

Each twin has twelve visits. The line of another version is folded from nothing, promoted, and the version before is
promoted again; then once more while a worker drains further visits. What is timed is the transaction: nobody commits
meanwhile, and readers see the version before until its end.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

from tests.benchmarks.record import record
from tests.benchmarks.workload import Installation, load_note, records

from oncotwin.adapters.local_host import LocalHost
from oncotwin.bootstrap import wiring
from oncotwin.bootstrap.settings import Settings
from oncotwin.domain.bundle import ModelBundle, ModelPrior
from oncotwin.filters.unscented import UnscentedFilter
from oncotwin.models.tumour_burden import TumourBurden
from oncotwin.ports.line_store import LineStore, Promotion
from oncotwin.testing.servers import PostgresServer
from oncotwin.twin.drift import DriftSettings
from oncotwin.twin.fold import Binding, bind
from oncotwin.twin.shard import TwinShard
from oncotwin_flows.groups import Bounds
from oncotwin_flows.promote import promote_line
from oncotwin_flows.shadow import LineFollower

N_TWINS, N_VISITS, MORE_VISITS = 10_000, 12, 4
BAR_S = 5.0
COMMAND = "python -m tests.benchmarks.bench_promotion"


class Timing:
    """A store that says how long its last promotion's transaction took."""

    def __init__(self, store: LineStore) -> None:
        self._store = store
        self.seconds = 0.0

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def promote(self, promotion: Promotion) -> int:
        """Promote, and time it."""
        begun = time.perf_counter()
        position = self._store.promote(promotion)
        self.seconds = time.perf_counter() - begun
        return position


def challenger() -> Binding:
    """Faster growth than the papers'."""
    model = TumourBurden()
    hyper = {**model.default_hyperparameters(), "growth_rate": {"median": 0.004, "spread": 0.6}}
    bundle = ModelBundle({model.name: ModelPrior(model.name, hyper)})
    return bind("2", bundle, [model], UnscentedFilter(), DriftSettings())


@contextmanager
def site(kind: str) -> Iterator[Installation]:
    """An installation on one of the databases; the log is the embedded one."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(home=Path(folder), ray="in-process")
        if kind == "postgresql":
            with PostgresServer() as server, server.database() as url:
                yield from _opened(settings.model_copy(update={"store": url}))
        else:
            yield from _opened(settings)


def _opened(settings: Settings) -> Iterator[Installation]:
    with closing(wiring.open_log(settings)) as log, closing(wiring.open_store(settings)) as store:
        yield Installation(settings, log, store)


def drain(settings: Settings) -> None:
    """A worker of its own, which follows whatever is promoted."""
    with closing(wiring.open_log(settings)) as log, closing(wiring.open_store(settings)) as store:

        def make(version: str) -> TwinShard:
            bound = challenger() if version == "2" else wiring.binding(settings, wiring.LITERATURE)
            return TwinShard(bound, replace(wiring.history(store, version), close=lambda: None))

        worker = Installation(settings, log, store).worker(LocalHost(make(wiring.LITERATURE), make))
        worker.run(Bounds(events=10**9, seconds=600.0, commit_events=1_000, poll_seconds=2.0))
        worker.release()


def measure(kind: str) -> None:
    """Fold, promote, roll back, and promote under load."""
    with site(kind) as installed:
        settings, clock = installed.settings, wiring.SystemClock()
        store: LineStore = wiring.open_store(settings)
        installed.fill(records(N_TWINS, N_VISITS))
        begun = time.perf_counter()
        drain(settings)
        print(f"{kind}: streamed {N_TWINS * N_VISITS} events in {time.perf_counter() - begun:.1f} s")
        timed = Timing(store)
        new, old = challenger(), wiring.binding(settings, wiring.LITERATURE)
        begun = time.perf_counter()
        follower = LineFollower(store, new, clock)
        follower.catch_up()
        seconds = time.perf_counter() - begun
        rate = follower.tally.n_events / seconds
        print(f"{kind}: line folded at {rate:.0f} events/s")
        times = {}
        for name, bound in (("promotion", new), ("rollback", old)):
            promote_line(timed, bound, clock, "bench")  # type: ignore[arg-type]  # it is a store, by what it passes on
            times[name] = timed.seconds
        installed.fill(records(N_TWINS, MORE_VISITS, first_visit=N_VISITS))
        worker = threading.Thread(target=drain, args=(settings,))
        worker.start()
        time.sleep(3.0)
        begun = time.perf_counter()
        promote_line(timed, new, clock, "bench")  # type: ignore[arg-type]
        whole = time.perf_counter() - begun
        times["promotion under load"] = timed.seconds
        print(f"{kind}: under load {whole:.1f} s with catching up")
        worker.join()
        for name, value in times.items():
            print(f"{kind}: {name} {value:.2f} s")
            record(
                f"upgrade/{kind}/{name}", round(value, 3), "s", bar=f"at most {BAR_S} s", command=COMMAND,
                note=f"{N_TWINS} twins, {N_VISITS} visits, sealed; the transaction alone; {load_note()}",
            )
        record(
            f"upgrade/{kind}/shadow fold", round(rate), "1/s", command=COMMAND,
            note=f"events folded onto a line that began with nothing, all of one core; {load_note()}",
        )
        store.close()


def main() -> None:
    """Both databases."""
    for kind in ("sqlite", "postgresql"):
        measure(kind)


if __name__ == "__main__":
    main()
