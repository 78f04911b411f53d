"""What an event that comes late costs: restore and fold, against folding the whole journal again from its start.

Ten years of monthly events of each patient are committed one by one (so that snapshots thin out as they do in
service), or all in one commit (as after a back-fill). Then one more event arrives, late by so many months. Timed is all
that a live twin does about it, without the commit: reading the snapshot and the journal from there on, decoding,
restoring, folding, and making the rows to commit. The reference is the same twin with the same event whose history has
no snapshots. Each delivery is folded once by either way, in turns; both must give the same state, to the bit.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

from tests.benchmarks.record import record
from tests.benchmarks.workload import Installation, installation, load_note

from oncotwin.bootstrap import wiring
from oncotwin.domain.amendment import Accepted, Rejection
from oncotwin.domain.policy import Policy
from oncotwin.domain.validation import admit
from oncotwin.ports.event_log import NewRecord
from oncotwin.ports.twin_host import Delivery, Folded
from oncotwin.twin.shard import History, TwinShard
from oncotwin_flows.groups import Bounds

COMMAND = "python -m tests.benchmarks.bench_late"
FIRST = datetime(2014, 1, 1, tzinfo=UTC)
MONTH = 365.25 / 12.0
N_MONTHS = 120
N_TWINS = 20
LATENESS = (1, 2, 3, 6, 12, 24, 48, 84, 119)
"""Months by which the event is late."""
ROUNDS = 6
BAR_SHARE, BAR_SNAPSHOTS = 0.25, 20


def psa(patient: str, name: str, day: float) -> NewRecord:
    """A PSA under intermittent treatment: it swings about 6 ng/mL with a period of two years, with an error of 10 %."""
    rng = random.Random(f"{patient} {name}")
    value = 6.0 * math.exp(1.2 * math.sin(day / 730.5 * 2.0 * math.pi) + rng.gauss(0.0, 0.1))
    data = {"code": "2857-1", "value": round(value, 2), "unit": "ng/mL"}
    return _record("lab.result", patient, name, day, data)


def lesion(patient: str, name: str, day: float) -> NewRecord:
    """The diameter of a lesion that grows slowly, with an error of 10 %."""
    rng = random.Random(f"{patient} {name}")
    value = 20.0 * math.exp(0.0002 * day + rng.gauss(0.0, 0.1))
    data = {"lesion": "L1", "kind": "longest_diameter", "value": round(value, 1), "unit": "mm"}
    return _record("lesion.measured", patient, name, day, data)


def _record(kind: str, patient: str, name: str, day: float, data: dict[str, object]) -> NewRecord:
    time_text = (FIRST + timedelta(days=day)).isoformat().replace("+00:00", "Z")
    content = {
        "specversion": "1.0", "id": f"{patient}-{name}", "source": "urn:oncotwin:north:ris",
        "type": f"org.oncotwin.{kind}.v1", "subject": patient, "time": time_text, "data": data,
    }
    return NewRecord(patient, json.dumps(content).encode())


MEASURED = {"lesion": lesion, "psa": psa}


def monthly(kind: str) -> Iterator[list[NewRecord]]:
    """Month after month of all patients."""
    for month in range(N_MONTHS):
        yield [MEASURED[kind](f"north/p{i:02d}", f"{month:03d}", MONTH * month) for i in range(N_TWINS)]


def late_event(kind: str, patient: str, months: int) -> Accepted:
    """One that lies so many months (and some days) before the last event."""
    one = MEASURED[kind](patient, f"late-{months}", MONTH * (N_MONTHS - 1 - months) + 3.0)
    _, item = admit(one.value, (), Policy(datetime(2026, 1, 1, tzinfo=UTC)))
    assert not isinstance(item, Rejection)
    return item


def without_snapshots(history: History) -> History:
    """The same history for one who has to fold from the start; a twin at rest still wakes from its snapshot."""
    return replace(history, snapshots=lambda ids, before: {} if before is not None else history.snapshots(ids, None))


@dataclass
class Late:
    """Folds deliveries of live twins that are never committed."""

    site: Installation
    history: History

    def __post_init__(self) -> None:
        self._heads = self.site.store.twin_heads()
        self._shard = TwinShard(wiring.binding(self.site.settings, wiring.LITERATURE), self.history)

    def fold(self, event: Accepted) -> tuple[float, Folded]:
        """Seconds that one late event takes, and what it makes of the twin."""
        patient = event.header.twin_id
        head = self._heads[patient]
        # The twin is in memory, as one that is followed is; what the last delivery made of it is forgotten.
        self._shard.forget([patient])
        self._shard.fold([Delivery(patient, head.ordinal, head.version, head.version, ())])
        delivery = Delivery(patient, head.ordinal, head.version + 1, head.version, (event,))
        begun = time.perf_counter()
        [folded] = self._shard.fold([delivery])
        return time.perf_counter() - begun, folded


@dataclass(frozen=True)
class Cost:
    """Medians over patients and rounds, in seconds."""

    months: int
    restored: float
    refolded: float
    n_folded: int

    @property
    def share(self) -> float:
        """Of folding again from the start."""
        return self.restored / self.refolded


def measure(site: Installation, kind: str) -> list[Cost]:
    """Cost by lateness."""
    history = wiring.history(site.store, wiring.LITERATURE)
    ways = (Late(site, history), Late(site, without_snapshots(history)))
    found = []
    for months in LATENESS:
        events = [late_event(kind, f"north/p{i:02d}", months) for i in range(N_TWINS)]
        seconds: tuple[list[float], list[float]] = ([], [])
        n_folded = 0
        for number in range(ROUNDS):
            for event in events:
                both = [way.fold(event) for way in ways]
                assert both[0][1].snapshots[-1].digest == both[1][1].snapshots[-1].digest
                n_folded = len(both[0][1].estimates)
                if number:  # the first round warms up
                    for taken, (one, _) in zip(seconds, both, strict=True):
                        taken.append(one)
        found.append(Cost(months, median(seconds[0]), median(seconds[1]), n_folded))
    return found


def build(site: Installation, kind: str, built: str) -> None:
    """Commit the journals, with one event of each patient in a commit, or all in one."""
    worker = site.worker(site.local_host(), threaded=False)
    n_accepted = 0
    for records in monthly(kind) if built == "one by one" else [[one for month in monthly(kind) for one in month]]:
        n = site.fill(records)
        n_accepted += worker.run(Bounds(events=n, seconds=1e6, commit_events=n)).n_accepted
    worker.release()
    assert n_accepted == N_TWINS * N_MONTHS


def draw(path: Path, found: dict[str, list[Cost]]) -> None:
    """Cost by lateness, as a plot."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.0), layout="constrained")
    axes = figure.add_subplot()
    for name, costs in found.items():
        [line] = axes.plot([c.months for c in costs], [1e3 * c.restored for c in costs], marker="o", label=name)
        axes.plot(
            [c.months for c in costs], [1e3 * c.refolded for c in costs], linestyle=":", color=line.get_color()
        )
    axes.set(xlabel="months late, of ten years of monthly events", ylabel="ms an event; dotted: from the start")
    axes.set_ylim(bottom=0.0)
    axes.legend(fontsize=8)
    figure.savefig(path)


def main() -> None:
    """Measure, print a table, record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kinds", nargs="*", default=["embedded", "deployed"])
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--dry", action="store_true", help="keep no figure")
    chosen = parser.parse_args()
    plotted = {}
    for place in chosen.kinds:
        for kind in MEASURED:
            for built in ("one by one", "at once"):
                with installation(place) as site:
                    build(site, kind, built)
                    n_snapshots = site.store.counts()["snapshots"] / N_TWINS
                    costs = measure(site, kind)
                store = "SQLite" if place == "embedded" else "PostgreSQL"
                name = f"{store}, {kind}, committed {built}"
                plotted[name] = costs
                print(f"{name}: {n_snapshots:.0f} snapshots for {N_MONTHS} events ({load_note()})")
                print(f"  {'months late':>11} {'folded':>7} {'restored ms':>12} {'from start ms':>14} {'share':>6}")
                for cost in costs:
                    print(
                        f"  {cost.months:11} {cost.n_folded:7} {1e3 * cost.restored:12.2f} {1e3 * cost.refolded:14.2f} "
                        f"{cost.share:6.2f}"
                    )
                [year] = [cost for cost in costs if cost.months == 12]
                if not chosen.dry:
                    record(
                        f"late/{store.lower()}/{kind}/{built.replace(' ', '_')}", round(1e3 * year.restored, 3), "ms",
                        reference=round(1e3 * year.refolded, 3), ratio=round(year.share, 3),
                        bar=f"at most {BAR_SHARE}, at most {BAR_SNAPSHOTS} snapshots",
                        is_met=year.share <= BAR_SHARE and n_snapshots <= BAR_SNAPSHOTS, command=COMMAND,
                        note=f"an event late by a year among ten years of monthly events, committed {built}, "
                        f"{n_snapshots:.0f} snapshots; median of {N_TWINS * (ROUNDS - 1)}; reference: folded from the "
                        f"start; {load_note()}",
                    )
    if chosen.plot is not None:
        draw(chosen.plot, plotted)


if __name__ == "__main__":
    main()
