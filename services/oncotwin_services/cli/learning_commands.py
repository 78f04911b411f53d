"""Learning: calibrate, backtest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np

from oncotwin.bootstrap import wiring
from oncotwin.bootstrap.settings import Settings
from oncotwin.domain.amendment import Accepted, Rejection
from oncotwin.domain.bundle import FILTERS
from oncotwin.domain.policy import Policy
from oncotwin.domain.validation import admit
from oncotwin.twin.amendments import moved
from oncotwin.twin.journal import in_force, may_be_learnt_from
from oncotwin.twin.timeline import Item
from oncotwin_services.cli.options import command_options
from oncotwin_services.cli.output import emit_json, emit_pairs, emit_table, progress, stderr


def items_of(
    settings: Settings, lines: Iterable[bytes], *, training: bool = False
) -> tuple[dict[str, list[Item]], list[Rejection]]:
    """Items in force of each twin, and the lines that are refused; doubled lines count once.

    What was posted to the wrong patient counts for the right one.

    With ``training`` patients whose consent stands withdrawn are left out.
    """
    policy = Policy(
        wiring.SystemClock().now(), settings.sources, tuple(settings.arrays), wiring.clock_skew(settings)
    )
    by_twin: dict[str, dict[tuple[str, str], Accepted]] = defaultdict(dict)
    refused: list[Rejection] = []
    for line in lines:
        if not line.strip():
            continue
        _, item = admit(line.strip(), (), policy)
        if isinstance(item, Rejection):
            refused.append(item)
        else:
            by_twin[item.header.twin_id].setdefault(item.header.key, item)
    journals = moved({twin_id: events.values() for twin_id, events in by_twin.items()})
    return {
        twin_id: in_force(events, twin_id)
        for twin_id, events in sorted(journals.items())
        if not training or may_be_learnt_from(events)
    }, refused


def read_items(settings: Settings, path: Path, *, training: bool = False) -> dict[str, list[Item]]:
    """Items in force of each twin in a file of events; refused lines are said and left out."""
    with click.open_file(str(path), "rb") as lines:
        items, refused = items_of(settings, lines, training=training)
    for rejection in refused[:3]:
        stderr.print(f"left out: {rejection.reason} ({rejection.remedy})", highlight=False)
    if refused:
        stderr.print(f"{len(refused)} lines of {path} were left out; `oncotwin ingest` lists each with its reason")
    return items


@contextmanager
def staged(description: str) -> Iterator[Any]:
    """A bar that takes (what, part done from 0 to 1), as calibration and back-test report it."""
    with progress(description, 1_000) as advance:
        last: dict[str, float] = {}

        def report(what: str, part: float) -> None:
            done = last.get(what, 0.0)
            last[what] = max(part, done)
            advance(round(1_000 * max(part - done, 0.0) / 8))

        yield report


@click.command()
@click.argument("events", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path))
@click.option("--filter", "chosen", type=click.Choice(FILTERS), help="Filter that follows the version's twins.")
@click.option("--members", type=int, help="Members of an ensemble, or particles; the filter's own number by default.")
@command_options
def calibrate(events: Path, chosen: str | None, members: int | None, settings: Settings, as_json: bool) -> int:
    """Learn the population prior of every model that EVENTS (JSON lines) speak of, by empirical Bayes.

    --filter says which filter is to follow the twins of this version (docs/models/filters.md: which when, at what
    cost); without it the settings `filter` and `members` count.

    Patients who withdrew their consent to care or to research are left out. The new version is registered in MLflow
    under the alias `challenger`; models that the events do not speak of keep the champion's priors. `oncotwin promote
    VERSION` makes it the champion.
    """
    from oncotwin_flows.calibrate import calibrate_and_register

    if chosen is not None:
        settings = settings.model_copy(update={"filter": chosen, "members": members})
    elif members is not None:
        settings = settings.model_copy(update={"members": members})
    wiring.filter_choice(settings)
    items = read_items(settings, events, training=True)
    with staged("calibrating") as report:
        result = calibrate_and_register(settings, items, report)
    if as_json:
        emit_json(result)
    else:
        emit_pairs("calibrated", {k: v for k, v in result.items() if not isinstance(v, dict)})
    return 0


@click.command()
@click.argument("events", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path))
@click.option("--model", "version", required=True, help="Model version, or an alias: champion, challenger.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="FORECASTS.parquet")
@command_options
def backtest(events: Path, version: str, out: Path, settings: Settings, as_json: bool) -> int:
    """Rolling-origin evaluation of a model version on EVENTS (JSON lines).

    After each observation, from the first on, the next three visits are forecast from what was observed, given and
    planned strictly before; --out receives one row a forecast with its quantiles and outcome. Prints errors on the log
    scale and CRPS beside carrying the last value forward, and the coverage of the 90 % interval. Evaluate on patients
    that the version has not learned from.
    """
    from oncotwin.adapters.parquet_history import write_table
    from oncotwin.twin.backtest import floors_of, summary
    from oncotwin_flows.backtest import backtest_flow

    items = read_items(settings, events)
    with staged("back-testing") as report:
        number, table = backtest_flow(settings, items, version, report)
        write_table(out, table.columns)
    rows = summary(table, floors_of(wiring.models(settings)))
    result = {"model_version": number, "n_forecasts": len(table), "out": str(out), "summary": rows}
    if as_json:
        emit_json(result)
    else:
        names = list(rows[0]) if rows else ["n_forecasts"]
        emit_table(
            f"{len(table)} forecasts of {len(set(table.twins))} patients, model version {number} -> {out}",
            names, [[_short(row[name]) for name in names] for row in rows],
        )
    return 0


def _short(value: Any) -> Any:
    """Three digits, and intervals as text."""
    if isinstance(value, np.floating):
        return float(value)
    if isinstance(value, list | tuple):
        return " to ".join(f"{one:.3g}" for one in value)
    return value
