"""Events in: convert, ingest, rejected."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import click

from oncotwin.bootstrap import wiring
from oncotwin.bootstrap.settings import Settings
from oncotwin_services.cli.options import command_options
from oncotwin_services.cli.output import emit_json, emit_pairs, emit_table, progress, stderr
from oncotwin_services.cli.reader import tell_of_reading

_SHOWN = 20


@click.command()
@click.argument("table", type=click.Choice(["atezolizumab", "intermittent-androgen", "pdx"]))
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@command_options
def convert(table: str, path: Path, settings: Settings, as_json: bool) -> int:
    """Turn a trial's TABLE (a FILE or FOLDER) into events, one JSON line each on standard output.

    Layouts: atezolizumab = lesions.csv, intermittent-androgen = psa.csv, pdx = a folder with volumes.csv, models.csv
    and drugs.csv. The output is what `oncotwin ingest` reads. Rows that cannot be read are named on standard error and
    the exit code is 1.
    """
    del settings, as_json
    from oncotwin.adapters.tables import RowProblem
    from oncotwin.adapters.tables import convert as convert_table
    from oncotwin.domain.events import encode_line

    out = sys.stdout.buffer
    problems: Counter[str] = Counter()

    def say(text: str) -> None:
        stderr.print(f"left out: {text}", highlight=False, markup=False, soft_wrap=True)

    def report(problem: RowProblem) -> None:
        # What is wrong with a whole patient or column is wrong in each of its rows: said once, and counted.
        problems[problem.reason] += 1
        if problems[problem.reason] == 1:
            say(str(problem))

    n = 0
    with progress(f"converting {path.name}", None) as advance:
        for event in convert_table(table, path, report):
            out.write(encode_line(event) + b"\n")
            n += 1
            if n % 500 == 0:
                advance(500)
    out.flush()
    for reason, n_rows in problems.items():
        if n_rows > 1:
            say(f"{n_rows - 1:,} more: {reason}")
    return 1 if problems else 0


@click.command()
@click.argument("events", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path))
@command_options
def ingest(events: Path, settings: Settings, as_json: bool) -> int:
    """Validate EVENTS (JSON lines, or - for standard input) and append them to the log.

    A line that was sent before is counted as a duplicate; a line that is refused is kept with its bytes and the
    reason (`oncotwin rejected`). Where the log is too far ahead of the store (`max_lag_events`) it waits until
    `oncotwin work` has caught up. Exit code 1 when any line was refused.
    """
    from oncotwin_flows.intake import Intake, IntakeRules
    from oncotwin_flows.lag import LagLimit

    rules = IntakeRules(wiring.clock_skew(settings), tuple(settings.arrays), settings.sources)
    clock = wiring.SystemClock()
    store, log = wiring.open_store(settings), wiring.open_log(settings)
    limit = LagLimit(log, store, clock, wiring.log_name(settings), settings.max_lag_events, stderr.print)
    try:
        with click.open_file(str(events), "rb") as lines, progress("ingesting", None) as advance:
            report = Intake(log, store, clock, rules, limit.wait).ingest(lines, advance)
    except KeyboardInterrupt:
        stderr.print("stopped; ingest the same events again: those that were taken are counted as duplicates")
        return 1
    finally:
        log.close()
        store.close()
    result = {
        "accepted": report.n_accepted, "duplicate": report.n_duplicates, "rejected": len(report.rejections),
        "reasons": [
            {
                "line": line, "rejection_id": letter.rejection_id, "reason_code": letter.reason_code,
                "reason": letter.reason, "where": letter.where, "remedy": letter.remedy,
            }
            for line, letter in report.rejections
        ],
    }
    if as_json:
        emit_json(result)
    else:
        emit_pairs("ingest", {name: result[name] for name in ("accepted", "duplicate", "rejected")})
        if report.rejections:
            emit_table(
                "refused (kept; see `oncotwin rejected`)", ("line", "reason", "where", "what to do"),
                [(n, one.reason, one.where, one.remedy) for n, one in report.rejections[:_SHOWN]],
            )
            if len(report.rejections) > _SHOWN:
                stderr.print(f"... and {len(report.rejections) - _SHOWN} more: `oncotwin rejected`")
    return 1 if report.rejections else 0


@click.command()
@click.option("--resubmit", is_flag=True, help="Send the refused events again; those still bad are refused again.")
@click.option("--file", "mended", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="With --resubmit: mended events (JSON lines) to send in place of the refused ones of the same id.")
@click.option("--id", "ids", multiple=True, help="Only these rejection ids (or beginnings of them).")
@click.option("--raw", is_flag=True, help="Print the refused bytes, one JSON line each, to be mended.")
@command_options
def rejected(
    resubmit: bool, mended: Path | None, ids: tuple[str, ...], raw: bool, settings: Settings, as_json: bool
) -> int:
    """List refused events with their reasons, or send them again after mending.

    Mend: `oncotwin rejected --raw > bad.jsonl`, edit, `oncotwin rejected --resubmit --file bad.jsonl`. Where a setting
    was wrong (a source, an array store), plain `--resubmit` sends the kept bytes again.
    """
    if mended is not None and not resubmit:
        raise click.UsageError("--file goes with --resubmit: oncotwin rejected --resubmit --file MENDED.jsonl")
    from oncotwin_flows.resubmit import resubmit_letters

    store = wiring.open_store(settings)
    try:
        letters = [
            one for one in store.dead_letters("open") if not ids or one.rejection_id.startswith(tuple(ids))
        ]
        if resubmit:
            log = wiring.open_log(settings)
            try:
                from oncotwin_flows.intake import Intake, IntakeRules
                from oncotwin_flows.lag import LagLimit

                rules = IntakeRules(wiring.clock_skew(settings), tuple(settings.arrays), settings.sources)
                clock = wiring.SystemClock()
                limit = LagLimit(
                    log, store, clock, wiring.log_name(settings), settings.max_lag_events, stderr.print
                )
                intake = Intake(log, store, clock, rules, limit.wait)
                lines = None if mended is None else mended.read_bytes().splitlines()
                done = resubmit_letters(store, intake, letters, lines)
            finally:
                log.close()
            if as_json:
                emit_json(done)
            else:
                emit_pairs("resubmit", done)
            return 1 if done["still_rejected"] else 0
        tell_of_reading(store, (one.twin_id for one in letters), "rejected")
    finally:
        store.close()
    if raw:
        for letter in letters:
            sys.stdout.buffer.write(letter.raw.replace(b"\n", b" ") + b"\n")
        return 0
    if as_json:
        emit_json(
            [
                {
                    "rejection_id": one.rejection_id, "reason_code": one.reason_code, "reason": one.reason,
                    "where": one.where, "remedy": one.remedy, "patient": one.twin_id, "source": one.source,
                    "id": one.event_id, "received_at": one.received_at, "raw": one.raw.decode("utf-8", "replace"),
                }
                for one in letters
            ]
        )
    else:
        emit_table(
            f"{len(letters)} refused events", ("rejection", "received", "reason", "where", "what to do"),
            [(one.rejection_id[:12], one.received_at, one.reason, one.where, one.remedy) for one in letters],
        )
    return 0

