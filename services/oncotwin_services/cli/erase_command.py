"""Erasing a patient: erase."""

from __future__ import annotations

from dataclasses import asdict

import click

from oncotwin.bootstrap import wiring
from oncotwin.bootstrap.settings import Settings
from oncotwin_services.cli.options import command_options
from oncotwin_services.cli.output import emit_json, emit_table, stderr


@click.command()
@click.argument("patient", required=False)
@click.option("--reason", help="Why, in words that name nobody: they are kept for ever.")
@click.option("--resume", is_flag=True, help="Finish what was cut short, and erase again what a restored store holds.")
@command_options
def erase(patient: str | None, reason: str | None, resume: bool, settings: Settings, as_json: bool) -> int:
    """Make everything that is kept of PATIENT (<institution>/<patient>) unreadable, for good.

    The patient's key is destroyed first; nothing brings it back. Store, embedded log, dead letters and every backup of
    them hold nothing readable from then on; exports that this installation wrote are written anew without the patient.
    A Kafka topic loses its records by its own retention. What comes of the patient later is refused.
    """
    from oncotwin_flows.erase import make_eraser

    if resume == (patient is not None):
        raise click.UsageError("give either PATIENT with --reason TEXT, or --resume")
    if patient is not None and not (reason or "").strip():
        raise click.UsageError("--reason is missing: say why, in words that name nobody")
    store, keys = wiring.open_store(settings), wiring.open_keys(settings)
    try:
        eraser = make_eraser(settings, store, keys, wiring.SystemClock())
        reports = eraser.resume() if patient is None else [eraser.erase(patient, (reason or "").strip())]
    finally:
        keys.close()
        store.close()
    if as_json:
        emit_json([asdict(one) for one in reports])
    else:
        emit_table(
            f"{len(reports)} erased", ("patient", "key destroyed now", "rows taken from exports", "reports removed"),
            [
                (one.twin_id, "yes" if one.is_new else "before", sum(one.export_rows.values()), one.n_reports)
                for one in reports
            ],
        )
    problems = [problem for one in reports for problem in one.problems]
    for problem in problems:
        stderr.print(f"[bold red]oncotwin:[/] {problem}", highlight=False, soft_wrap=True)
    return 1 if problems else 0
