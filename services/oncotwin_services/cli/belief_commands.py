"""What a twin believes and expects: twin, forecast."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import Any

import click

from oncotwin.bootstrap import wiring
from oncotwin.bootstrap.settings import Settings
from oncotwin.domain.ids import split_twin_id
from oncotwin.domain.units import OBSERVABLES
from oncotwin.ports.line_store import LineStore
from oncotwin.ports.twin_rows import AlertRow
from oncotwin.twin.amendments import standing_of, waiting
from oncotwin.twin.expectation import live_forecasts
from oncotwin.twin.recall import Check, Recollection, check, recall
from oncotwin.twin.replay import components, read_journal
from oncotwin.twin.timeline import days, moment
from oncotwin_services.cli.options import MOMENT, command_options
from oncotwin_services.cli.output import emit_json, emit_table, stderr
from oncotwin_services.cli.reader import giving_way, tell_of_reading

SHOWN = ("q05", "q25", "q50", "q75", "q95")


@contextmanager
def reading(settings: Settings, patient: str, what: str) -> Iterator[LineStore]:
    """The store for one read of a patient's data, which becomes an entry of the audit trail before it is shown.

    The stream goes first: while the answer is worked out, this process has a lower priority.

    Args:
        what: the command.
    """
    split_twin_id(patient)
    store = wiring.open_store(settings)
    try:
        with giving_way():
            yield store
        tell_of_reading(store, [patient], what)
    finally:
        store.close()


@click.command()
@click.argument("patient")
@click.option("--as-of", type=MOMENT, help="Clinical time asked about; the latest by default.")
@click.option("--known-at", type=MOMENT, help="Knowledge to answer from: only what was committed by then.")
@command_options
def twin(
    patient: str, as_of: datetime | None, known_at: datetime | None, settings: Settings, as_json: bool
) -> int:
    """Show what the twin of PATIENT (<institution>/<patient>) believes.

    --as-of asks about a clinical day, --known-at with the knowledge of which day: together they say what was believed
    then, under the model version that was champion then. The answer is folded from the journal again and held against
    what was published: `state_digest`, the SHA-256 of the canonical state, must be that of the last commit by then; of
    a clinical time in the twin's past, whose state was never published, every estimate must be. A difference is
    reported, exit code 1.
    """
    with reading(settings, patient, "twin") as store:
        found = recall(store, partial(wiring.binding, settings), patient, as_of, known_at)
        checked = check(store, found)
        alerts = [row for row in store.alerts(patient, known_at=known_at) if as_of is None or row.time <= as_of]
    result = _as_dict(found, checked, alerts)
    if as_json:
        emit_json(result)
    else:
        _show(found, result)
    return judge(checked)


def _as_dict(found: Recollection, checked: Check, alerts: Sequence[AlertRow]) -> dict[str, Any]:
    """All there is to tell."""
    state, published = found.belief.state, found.published
    return {
        "patient": found.twin_id, "model_version": state.model_version,
        "data_through": state.last[0] if state.last is not None else None,
        "as_of": found.as_of, "known_at": found.known_at, "n_events": state.n_folded,
        "state_digest": found.digest, "published": published is not None,
        "published_at": None if published is None else published.published_at,
        "version": None if published is None else published.version,
        "compared": checked.what, "equal": checked.equal if checked.what != "nothing" else None,
        "differences": list(checked.differences), "estimates": components(found.binding, state),
        "last_observed": [
            {
                "observable": observable, "target": target, "time": moment(time), "value": value,
                "unit": OBSERVABLES[observable].unit, "censoring": censoring,
            }
            for (observable, target), (time, value, censoring) in sorted(state.last_observed.items())
        ],
        "alerts": [
            {
                "alert_id": row.alert_id, "time": row.time, "kind": row.kind, "severity": row.severity,
                "message": row.message, "recommended": row.recommended,
            }
            for row in alerts
        ],
        "known": [
            {
                "time": entry.time, "kind": entry.kind, "source": entry.source, "id": entry.event_id,
                "status": entry.status, "known_since": found.known_since(entry),
            }
            for entry in found.entries
        ],
        "waiting": [
            {
                "recorded": standing_of(one)[0], "source": one.header.source, "id": one.header.event_id,
                "action": one.action, "supersedes": "/".join(one.supersedes),
            }
            for one in waiting(read_journal(found.entries))
        ],
    }


def _show(found: Recollection, result: dict[str, Any]) -> None:
    """The same for people."""
    through = result["data_through"]
    rows = [
        (model, name, q["mean"], q["sd"], q["q05"], q["q95"])
        for model, parts in result["estimates"].items()
        for name, q in parts.items()
    ]
    emit_table(
        f"{found.twin_id} through {through:%Y-%m-%d}, model version {result['model_version']}"
        if through else found.twin_id,
        ("model", "component", "mean", "sd", "5 %", "95 %"), rows,
    )
    emit_table(
        "last observed", ("observable", "target", "time", "value", "unit", "censoring"),
        [tuple(one.values()) for one in result["last_observed"]],
    )
    if result["alerts"]:
        emit_table(
            "alerts that stood", ("time", "severity", "what was seen", "measure next"),
            [(a["time"], a["severity"], a["message"], a["recommended"]) for a in result["alerts"]],
        )
    if result["waiting"]:
        emit_table(
            "corrections that wait for their event", ("recorded", "source", "id", "action", "of"),
            [tuple(one.values()) for one in result["waiting"]],
        )
    if found.known_at is not None:
        emit_table(
            f"{len(result['known'])} events known", ("time", "kind", "source", "id", "status", "known since"),
            [tuple(one.values()) for one in result["known"]],
        )
    click.echo(f"state_digest {result['state_digest']}")
    if result["published"]:
        click.echo(
            f"published: true, version {result['version']} at {result['published_at']:%Y-%m-%d %H:%M:%S} UTC, "
            f"{result['compared']} {'equal' if result['equal'] else 'DIFFERENT'}"
        )
    else:
        click.echo("published: false, no belief of that time was kept (by an earlier release)")


def judge(checked: Check) -> int:
    """0, or 1 with the differences on standard error."""
    for difference in checked.differences:
        stderr.print(f"[bold red]oncotwin:[/] {difference}", highlight=False, soft_wrap=True)
    if checked.differences:
        stderr.print(
            "the same journal under the same model version gives the same bits on the same build and kind of "
            "processor; elsewhere it may differ in the last digits. If this is where the stream runs, the store was "
            "changed: `oncotwin audit verify`", highlight=False, soft_wrap=True,
        )
    return 1 if checked.differences else 0


@click.command()
@click.argument("patient")
@click.option("--at", "times", type=MOMENT, multiple=True, required=True, help="Time to forecast; may be repeated.")
@command_options
def forecast(patient: str, times: tuple[datetime, ...], settings: Settings, as_json: bool) -> int:
    """Forecast every observable of PATIENT at given times, from all that is known, under the plan or present therapy.

    The champion version forecasts, also where the twin's published state was made by an earlier one.

    Prints predictive quantiles in the observable's unit: half of later measurements should fall between the 25 and
    75 % columns, nine in ten between 5 and 95 %.
    """
    with reading(settings, patient, "forecast") as store:
        found = recall(store, partial(wiring.binding, settings), patient, under="champion")
    binding, belief = found.binding, found.belief
    rows: list[dict[str, Any]] = [
        {
            "observable": one.observable, "target": one.target, "unit": one.unit, "time": one.target_time,
            "horizon_days": one.horizon_days, "quantiles": one.quantiles,
        }
        for one in live_forecasts(binding, belief, sorted(days(time) for time in times))
    ]
    result = {"patient": patient, "model_version": binding.version, "forecasts": rows}
    if as_json:
        emit_json(result)
    else:
        emit_table(
            f"forecast for {patient}, model version {binding.version}",
            ("observable", "target", "time", *(f"{int(name[1:])} %" for name in SHOWN), "unit"),
            [
                (
                    row["observable"], row["target"], row["time"],
                    *(row["quantiles"][name] for name in SHOWN), row["unit"],
                )
                for row in rows
            ],
        )
    return 0
