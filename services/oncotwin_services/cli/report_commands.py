"""Reports that people sign: report, reports, sign."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from oncotwin.bootstrap import wiring
from oncotwin.bootstrap.settings import Settings
from oncotwin.domain.errors import OncotwinError, StoreError
from oncotwin.domain.ids import split_twin_id
from oncotwin.ports.line_store import LineStore
from oncotwin.ports.report_ledger import ReportError, ReportRow, ReportState, Signature, Verdict
from oncotwin.twin.difference import difference, in_words
from oncotwin.twin.recall import Recollection, check, recall
from oncotwin_flows.outgoing import report_signed
from oncotwin_services.cli.belief_commands import judge, reading
from oncotwin_services.cli.options import command_options
from oncotwin_services.cli.output import emit_json, emit_pairs, emit_table
from oncotwin_services.cli.reader import tell_of_reading


@click.command()
@click.argument("patient")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="FILE.html; by default below home/reports."
)
@command_options
def report(patient: str, out: Path | None, settings: Settings, as_json: bool) -> int:
    """Write the page of PATIENT and keep in the ledger which belief it rests on.

    Its foot names the twin's version, the state's digest, what was known and the model version. `oncotwin reports`
    tells whether it is still what is believed; `oncotwin sign` puts a person's name under it.
    """
    with reading(settings, patient, "report") as store:
        found = recall(store, partial(wiring.binding, settings), patient)
        code = judge(check(store, found))
        if code:
            return code
        row, page = make_report(settings, store, found, out)
        Path(row.path).parent.mkdir(parents=True, exist_ok=True)
        Path(row.path).write_bytes(page)
        is_new = store.reports.register(row)
    result = {**_as_dict(row), "new": is_new}
    if as_json:
        emit_json(result)
    else:
        emit_pairs("report", {name: value for name, value in result.items() if name not in ("signature", "kind")})
    return 0


def make_report(
    settings: Settings, store: LineStore, found: Recollection, out: Path | None
) -> tuple[ReportRow, bytes]:
    """A report of a belief as it was published, and its page.

    Raises:
        StoreError: no belief of the twin was kept, as an earlier release did not.
    """
    from oncotwin_services.report import patient_page, patient_report

    published = found.published
    if published is None:
        raise StoreError(
            f"what was published of {found.twin_id} was not kept by the release that wrote it; run `oncotwin work` "
            "with its next event, then make the report"
        )
    gone = [row for row in store.alerts(found.twin_id, superseded=True) if row.superseded_by]
    content = patient_report(found.binding, found.belief, published.published_at, gone)
    page = patient_page(replace(content, twin_version=published.version))
    report_id = store.reports.name(found.twin_id, published.version, page)
    institution, name = split_twin_id(found.twin_id)
    path = out or settings.home / "reports" / institution / f"{name}-{published.version}-{report_id[:8]}.html"
    row = ReportRow(
        report_id, found.twin_id, "report", published.position, published.version, published.model_version,
        published.digest, published.time, published.published_at, wiring.SystemClock().now(), str(path.absolute()),
        hashlib.sha256(page).hexdigest(),
    )
    return row, page


@click.command()
@click.option("--patient", help="Only this twin, <institution>/<patient>.")
@command_options
def reports(patient: str | None, settings: Settings, as_json: bool) -> int:
    """List reports and whether each is still what is believed.

    `superseded`: a later commit reached back to data that the report shows (a late event, a correction, a patient mixed
    up), or another model version answers; what changed is said in a few words. A report stays `current` when data only
    went on; `through` and `newest` tell them apart.
    """
    if patient is not None:
        split_twin_id(patient)
    store = wiring.open_store(settings)
    try:
        listed = [
            {**_as_dict(row), **_state(state), "changed": changed(settings, store, row, state)}
            for row, state in store.reports.reports(patient)
        ]
        tell_of_reading(store, {one["patient"] for one in listed}, "reports")
    finally:
        store.close()
    if as_json:
        emit_json(listed)
    else:
        emit_table(
            f"{len(listed)} reports",
            ("report", "patient", "made", "through", "newest", "state", "what changed", "signed by", "verdict"),
            [
                (
                    one["report_id"][:12], one["patient"], one["made_at"], one["data_through"], one["newest"],
                    one["state"], one["changed"], (one["signature"] or {}).get("by"),
                    (one["signature"] or {}).get("verdict"),
                )
                for one in listed
            ],
        )
    return 0


def changed(settings: Settings, store: LineStore, row: ReportRow, state: ReportState) -> str:
    """What changed of what a superseded report shows, in a few words; "" for a current one."""
    if state.is_current:
        return ""
    bind = partial(wiring.binding, settings)
    try:
        before = recall(store, bind, row.twin_id, row.data_through, row.known_at)
        after = recall(store, bind, row.twin_id, row.data_through)
    except OncotwinError as error:
        return str(error)
    told = store.alerts(row.twin_id, superseded=True)
    return in_words(difference(before, after, told, alone=False, ahead=False))


@click.command()
@click.argument("report_id")
@click.option("--by", required=True, help="Who signs.")
@click.option("--verdict", type=click.Choice(("agree", "override")), required=True)
@click.option("--comment", default="", help="Why; needed to override.")
@click.option("--override-superseded", is_flag=True, help="Sign although the report is superseded.")
@command_options
def sign(
    report_id: str, by: str, verdict: Verdict, comment: str, override_superseded: bool, settings: Settings,
    as_json: bool,
) -> int:
    """Sign report REPORT_ID (the beginning of its id will do): a person's word, bound to the belief that it rests on.

    The signature, its event `report.signed` and its entry in the audit trail are written together. A superseded report
    is refused, and so is a page that was changed after it was made.
    """
    if verdict == "override" and not comment.strip():
        raise ReportError("--verdict override needs --comment: say what is decided instead, and why")
    if not by.strip():
        raise ReportError("--by names nobody; say who signs")
    clock = wiring.SystemClock()
    store = wiring.open_store(settings)
    try:
        found = store.reports.report(report_id)
        if found is not None:
            _check_page(found[0])
        signed = store.reports.sign(
            report_id, Signature(by.strip(), verdict, comment.strip(), clock.now()), report_signed,
            although_superseded=override_superseded,
        )
    finally:
        store.close()
    result = _as_dict(signed)
    if as_json:
        emit_json(result)
    else:
        signature = result.pop("signature")
        emit_pairs("signed", {**result, **signature})
    return 0


def _check_page(row: ReportRow) -> None:
    """What is signed must be what was made."""
    path = Path(row.path)
    if path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() != row.content_hash:
        raise ReportError(
            f"{path} is not the page that was made as report {row.report_id}: it was changed; make a new one with "
            f"`oncotwin report {row.twin_id}`"
        )


def _as_dict(row: ReportRow) -> dict[str, Any]:
    signature = row.signature
    return {
        "report_id": row.report_id, "patient": row.twin_id, "kind": row.kind, "path": row.path,
        "twin_version": row.version, "model_version": row.model_version, "state_digest": row.digest,
        "data_through": row.data_through, "known_at": row.known_at, "made_at": row.made_at,
        "signature": None if signature is None else {
            "by": signature.by, "verdict": signature.verdict, "comment": signature.comment, "at": signature.at,
            "superseded": signature.superseded,
        },
    }


def _state(state: ReportState) -> dict[str, Any]:
    return {
        "state": "current" if state.is_current else "superseded", "superseded_by": state.superseded_by,
        "superseded_at": state.at, "cause": state.cause, "newest": state.newest,
    }
