"""The stream: work, status, alerts, export."""

from __future__ import annotations

from pathlib import Path

import click

from oncotwin.bootstrap import wiring
from oncotwin.bootstrap.settings import Settings
from oncotwin.domain.ids import split_twin_id
from oncotwin_services.cli.options import command_options
from oncotwin_services.cli.output import emit_json, emit_pairs, emit_table, progress, stderr
from oncotwin_services.cli.reader import reader, tell_of_reading


@click.command()
@click.option("--until-idle", is_flag=True, help="End once the log has no more events.")
@click.option("--spatial", is_flag=True, help="Follow sections and slides instead: array -> signatures -> evidence.")
@command_options
def work(until_idle: bool, spatial: bool, settings: Settings, as_json: bool) -> int:
    """Run the assimilation flow in a loop: log -> twins -> store -> estimates, alerts.

    Each round is one Prefect flow run over a bounded batch. Stop it with Ctrl-C: what is not committed is read again
    at the next start.

    With --spatial it is the flow of sections and slides: each claim check is fetched from an allowed array store,
    checked and read, and what it says of the tumour goes into the log, where the assimilation flow takes it.
    """
    from oncotwin_flows.assimilate import run_worker
    from oncotwin_flows.section_worker import run_sections

    run, what = (run_sections, "reading sections") if spatial else (run_worker, "assimilating")
    with progress(what, None) as advance:
        total = run(settings, until_idle=until_idle, on_progress=advance, announce=stderr.print)
    if as_json:
        emit_json(total)
    else:
        emit_pairs("work", total)
    return 0


@click.command()
@command_options
def status(settings: Settings, as_json: bool) -> int:
    """Show where things live, how far the log has been read, and what the store holds.

    `stalled_since`: from when on the lag has not shrunk, where that is longer than `lag_seconds`. `lines`: other model
    versions that are folded beside the champion (`oncotwin shadow`), with the number of twins that each lags behind.
    """
    from oncotwin_flows.lag import open_watch

    with open_watch(settings) as watch:
        measured = watch.look()
        stalled_since = measured.since if watch.is_stalled(measured) else None
    store, log = wiring.open_store(settings), wiring.open_log(settings)
    try:
        ends, begins = log.end_offsets(), log.begin_offsets()
        result = {
            "log": settings.log_url, "store": _without_password(settings.store_url), "mlflow": settings.mlflow_uri,
            "ray": settings.ray, "twins_per_actor": settings.twins_per_actor, "partitions": len(ends),
            "events_in_log": sum(end - begins.get(p, 0) for p, end in ends.items()), "lag": measured.lag,
            "stalled_since": stalled_since,
            "champion": wiring.champion(settings), "lines": store.lines(), **store.counts(),
        }
    finally:
        log.close()
        store.close()
    if as_json:
        emit_json(result)
    else:
        emit_pairs("oncotwin", result)
    return 0


def _without_password(url: str) -> str:
    """A database address as it may be shown."""
    from sqlalchemy.engine import make_url

    return make_url(url).render_as_string(hide_password=True)


@click.command()
@click.option("--patient", help="Only this twin, <institution>/<patient>.")
@click.option("--all", "everything", is_flag=True, help="Also alerts that a later correction explained.")
@command_options
def alerts(patient: str | None, everything: bool, settings: Settings, as_json: bool) -> int:
    """List alerts: what was seen, since when, and what to measure next.

    An alert of an institution alone tells of events that one of its sources numbered and that did not come.
    """
    if patient is not None:
        split_twin_id(patient)
    store = wiring.open_store(settings)
    try:
        rows = store.alerts(patient, superseded=everything)
        tell_of_reading(store, (row.twin_id for row in rows), "alerts")
    finally:
        store.close()
    if as_json:
        emit_json(
            [
                {
                    "alert_id": row.alert_id, "institution": row.twin_id.partition("/")[0],
                    "patient": row.twin_id if "/" in row.twin_id else "", "time": row.time, "since": row.since,
                    "observable": row.observable, "kind": row.kind, "severity": row.severity,
                    "message": row.message, "recommended": row.recommended, "superseded_by": row.superseded_by,
                }
                for row in rows
            ]
        )
    else:
        emit_table(
            f"{len(rows)} alerts", ("of", "time", "severity", "what was seen", "measure next", "explained by"),
            [(r.twin_id, r.time, r.severity, r.message, r.recommended, r.superseded_by) for r in rows],
        )
    return 0


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@command_options
def export(folder: Path, settings: Settings, as_json: bool) -> int:
    """Write estimates, innovations and forecasts to FOLDER as Parquet, by institution and month.

    `xarray` opens the posterior: oncotwin.adapters.parquet_history.open_posterior(FOLDER).
    """
    from oncotwin_flows.export import export_history

    with progress("exporting", None) as advance:
        result = export_history(settings, folder, advance, reader())
    if as_json:
        emit_json(result)
    else:
        emit_pairs(f"export to {folder}", result)
    return 0
