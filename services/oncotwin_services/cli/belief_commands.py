"""What a twin believes and expects: twin, forecast."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click

from oncotwin.bootstrap import wiring
from oncotwin.bootstrap.settings import Settings
from oncotwin.domain.errors import StoreError
from oncotwin.domain.ids import split_twin_id
from oncotwin.domain.units import OBSERVABLES
from oncotwin.twin.expectation import live_forecasts
from oncotwin.twin.fold import Binding
from oncotwin.twin.replay import Belief, believe, components
from oncotwin.twin.state import digest, to_bytes
from oncotwin.twin.timeline import days, moment
from oncotwin_services.cli.options import MOMENT, command_options
from oncotwin_services.cli.output import emit_json, emit_table

SHOWN = ("q05", "q25", "q50", "q75", "q95")


def recall(
    settings: Settings, patient: str, as_of: datetime | None = None, known_at: datetime | None = None,
    *, under: str | None = None,
) -> tuple[Binding, Belief]:
    """A twin from its journal: up to a clinical time, as known at a moment.

    Args:
        under: model version or alias; the one that made the twin's published state where not given.
    Raises:
        StoreError: nothing was known of the patient.
    """
    split_twin_id(patient)
    store = wiring.open_store(settings)
    try:
        entries = store.journal(patient, known_at=known_at)
        published = store.beliefs(patient, known_at=known_at)
    finally:
        store.close()
    if not entries:
        when = "" if known_at is None and as_of is None else " at that time"
        raise StoreError(f"nothing is known of patient {patient!r}{when}; see `oncotwin status`, or `oncotwin ingest`")
    made_by = published[-1].model_version if published else "champion"
    binding = wiring.binding(settings, under or made_by)
    return binding, believe(binding, patient, entries, as_of)


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
    then. `state_digest` is the SHA-256 of the canonical state: equal digests mean states equal to the bit.
    """
    binding, belief = recall(settings, patient, as_of, known_at)
    state = belief.state
    through = state.last[0] if state.last is not None else None
    result: dict[str, Any] = {
        "patient": patient, "model_version": state.model_version, "data_through": through,
        "as_of": as_of, "known_at": known_at, "n_events": state.n_folded,
        "state_digest": digest(to_bytes(state)), "estimates": components(binding, state),
        "last_observed": [
            {
                "observable": observable, "target": target, "time": moment(time), "value": value,
                "unit": OBSERVABLES[observable].unit, "censoring": censoring,
            }
            for (observable, target), (time, value, censoring) in sorted(state.last_observed.items())
        ],
    }
    if as_json:
        emit_json(result)
        return 0
    rows = [
        (model, name, q["mean"], q["sd"], q["q05"], q["q95"])
        for model, parts in result["estimates"].items()
        for name, q in parts.items()
    ]
    emit_table(
        f"{patient} through {through:%Y-%m-%d}, model version {state.model_version}" if through else patient,
        ("model", "component", "mean", "sd", "5 %", "95 %"), rows,
    )
    emit_table(
        "last observed", ("observable", "target", "time", "value", "unit", "censoring"),
        [tuple(one.values()) for one in result["last_observed"]],
    )
    click.echo(f"state_digest {result['state_digest']}")
    return 0


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
    binding, belief = recall(settings, patient, under="champion")
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
