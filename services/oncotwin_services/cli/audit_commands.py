"""The audit trail: audit verify, prove, show, checkpoint, export-checkpoints, import-checkpoints, key, trust."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from oncotwin.bootstrap import wiring
from oncotwin.bootstrap.settings import Settings
from oncotwin.domain.audit import AuditEntry, AuditError, from_us, is_chain
from oncotwin.ports.audit_trail import AuditTrail
from oncotwin.ports.twin_store import TwinStore
from oncotwin_services.cli.options import command_options
from oncotwin_services.cli.output import emit_json, emit_pairs, emit_table, progress, stderr

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.group()
def audit() -> None:
    """Verify, prove and exchange the audit trail.

    Every event accepted or refused, belief, correction, model version, promotion, read and signature is an entry of its
    institution's hash chain; docs/audit.md says what an entry holds and how others check it.
    """


@contextmanager
def _opened(settings: Settings) -> Iterator[TwinStore]:
    store = wiring.open_store(settings)
    try:
        yield store
    finally:
        store.close()


@contextmanager
def _trail(settings: Settings) -> Iterator[AuditTrail]:
    with _opened(settings) as store:
        yield store.audit


@audit.command()
@click.option("--checkpoints", "file", type=_FILE, help="Also hold the chains against checkpoints held elsewhere.")
@click.option("--institution", help="Only this institution's chain.")
@click.option("--contents", is_flag=True, help="Also compare the journal and the beliefs with what the chains tell.")
@command_options
def verify(
    file: Path | None, institution: str | None, contents: bool, settings: Settings, as_json: bool
) -> int:
    """Verify the chains, and name the first bad entry: changed, missing, replaced, or cut off at the end.

    Chains are held against the checkpoints of the store, of the model registry, and of a file that another institution
    exported. Only a checkpoint that is held elsewhere shows that a tail was cut off. Exit code 1: something is wrong.

    --contents also shows events and beliefs of the store that were changed, taken away or slipped in. It needs the
    patients' keys, and reads everything.
    """
    from oncotwin_flows.audit import as_stored, read_checkpoints
    from oncotwin_flows.audit import verify as verify_trail

    more = [] if file is None else as_stored(read_checkpoints(_lines(file), str(file)), str(file))
    with _opened(settings) as store:
        report = verify_trail(
            store.audit, wiring.open_signer(settings), wiring.open_checkpoint_registry(settings), more, institution
        )
        held = None
        if contents and not report.all_flaws:
            from oncotwin_flows.audit_contents import verify_contents

            with progress("comparing patients", None) as advance:
                held = verify_contents(store, advance)
            report.flaws += held.flaws
    flaws = report.all_flaws
    if institution is not None and not report.verdicts:
        raise AuditError(f"there is no chain of {institution!r} and no checkpoint of one; see `oncotwin audit show`")
    for note in report.notes:
        stderr.print(f"oncotwin: {note}", highlight=False, soft_wrap=True)
    if as_json:
        emit_json(
            {
                "ok": not flaws,
                "chains": [
                    {
                        "institution": one.institution, "n_entries": one.n_entries, "head": one.head.hex(),
                        "covered_by_checkpoint": one.covered, "n_checkpoints": one.n_checkpoints, "ok": not one.flaws,
                    }
                    for one in report.verdicts
                ],
                "held_for_others": report.elsewhere,
                "contents": None if held is None else {
                    "events": held.n_events, "beliefs": held.n_beliefs, "older_than_the_trail": held.n_older,
                    "entries_of_erased": held.n_erased,
                },
                "flaws": [
                    {
                        "institution": flaw.institution, "first": flaw.first, "last": flaw.last,
                        "problem": flaw.problem, "message": flaw.message,
                    }
                    for flaw in flaws
                ],
                "notes": report.notes,
            }
        )
    else:
        emit_table(
            f"{len(report.verdicts)} chains", ("institution", "good entries", "signed up to", "checkpoints", "verdict"),
            [
                (one.institution, one.n_entries, one.covered, one.n_checkpoints, "BAD" if one.flaws else "whole")
                for one in report.verdicts
            ],
        )
        if held is not None:
            emit_pairs(
                "contents", {
                    "events as told": held.n_events, "beliefs as told": held.n_beliefs,
                    "older than the trail": held.n_older, "entries of erased patients": held.n_erased,
                },
            )
        for flaw in flaws:
            click.echo(flaw.message)
    return 1 if flaws else 0


@audit.command()
@click.argument("name", metavar="ID")
@command_options
def prove(name: str, settings: Settings, as_json: bool) -> int:
    """Print a proof, one JSON document, that the entry of ID is in its chain as it was signed.

    ID is an event's id, "source id", or institution:number. docs/audit.md says how anybody can check the proof.
    """
    from oncotwin_flows.audit import find_entry
    from oncotwin_flows.audit import prove as prove_entry
    from oncotwin_flows.checkpoints import checkpoints_of

    del as_json
    with _trail(settings) as trail:
        entry, others = find_entry(trail, name)
        for other in others:
            stderr.print(
                f"also of that name: {other.institution}:{other.seq} ({other.kind})", highlight=False, soft_wrap=True
            )
        checkpoints = checkpoints_of(settings, trail, publish=False)
        proof = prove_entry(trail, wiring.open_signer(settings), checkpoints, entry)
    emit_json(proof)
    return 0


@audit.command()
@click.option("--institution", help="Only this institution's chain.")
@click.option("-n", "n", type=click.IntRange(1), default=20, show_default=True, help="Entries of each chain.")
@command_options
def show(institution: str | None, n: int, settings: Settings, as_json: bool) -> int:
    """List the last entries of each chain."""
    with _trail(settings) as trail:
        names = trail.institutions() if institution is None else [institution]
        entries = [entry for name in names for entry in trail.latest(name, n)]
    if as_json:
        emit_json([_entry(entry) for entry in entries])
    else:
        emit_table(
            f"{len(entries)} entries", ("entry", "at", "kind", "of", "content"),
            [
                (f"{one.institution}:{one.seq}", from_us(one.at_us), one.kind, one.ref, one.content.decode())
                for one in entries
            ],
        )
    return 0


def _entry(entry: AuditEntry) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(entry.to_json())
    return {**content, "hash": entry.hash.hex()}


@audit.command()
@command_options
def checkpoint(settings: Settings, as_json: bool) -> int:
    """Sign every chain that has grown; kept in the store and as artefacts of the model registry."""
    from oncotwin_flows.checkpoints import checkpoints_of

    with _trail(settings) as trail:
        made = [one.checkpoint for one in checkpoints_of(settings, trail).make()]
    if as_json:
        emit_json([one.to_dict() for one in made])
    else:
        emit_table(
            f"{len(made)} chains signed", ("institution", "entries", "root"),
            [(one.institution, one.size, one.root.hex()) for one in made],
        )
    return 0


@audit.command("export-checkpoints")
@click.argument("file", type=_FILE)
@click.option("--institution", help="Only this institution's checkpoints.")
@command_options
def export_checkpoints(file: Path, institution: str | None, settings: Settings, as_json: bool) -> int:
    """Write all checkpoints to FILE, for another institution to hold: ours, and those that we hold for others.

    Each carries a proof that its chain begins with the one before it.
    """
    from oncotwin_flows.audit import export_checkpoints as export_lines

    with _trail(settings) as trail:
        lines = list(export_lines(trail, wiring.open_signer(settings), institution))
    file.write_bytes(b"".join(lines))
    result = {"file": str(file), "checkpoints": len(lines)}
    if as_json:
        emit_json(result)
    else:
        emit_pairs("checkpoints exported", result)
    return 0


@audit.command("import-checkpoints")
@click.argument("file", type=_FILE)
@command_options
def import_checkpoints(file: Path, settings: Settings, as_json: bool) -> int:
    """Hold another institution's checkpoints from FILE; its key must be trusted first (`oncotwin audit trust`).

    They are refused where they contradict what is held already: then that institution's chain was rewritten.
    """
    from oncotwin_flows.audit import import_checkpoints as import_lines

    with _trail(settings) as trail:
        n_read, n_new = import_lines(trail, wiring.open_signer(settings), _lines(file), str(file))
    result = {"checkpoints": n_read, "new": n_new}
    if as_json:
        emit_json(result)
    else:
        emit_pairs("checkpoints imported", result)
    return 0


@audit.command()
@click.argument("institution")
@command_options
def key(institution: str, settings: Settings, as_json: bool) -> int:
    """Print the public key with which we sign for INSTITUTION, for others to trust; made where there is none."""
    if not is_chain(institution):
        raise AuditError(f"{institution!r} is no institution's name")
    from oncotwin.adapters.signing import SigningKeys

    keys = SigningKeys(settings.signing_folder)
    pem = keys.export(institution).decode()
    if as_json:
        emit_json({"institution": institution, "key": keys.own(institution).hex(), "pem": pem})
    else:
        click.echo(pem, nl=False)
    return 0


@audit.command()
@click.argument("institution")
@click.argument("file", type=_FILE)
@command_options
def trust(institution: str, file: Path, settings: Settings, as_json: bool) -> int:
    """Believe checkpoints of INSTITUTION that are signed with the public key in FILE (PEM) from now on."""
    from oncotwin.adapters.signing import SigningKeys

    found = SigningKeys(settings.signing_folder).trust(institution, b"\n".join(_lines(file)))
    result = {"institution": institution, "key": found.hex()}
    if as_json:
        emit_json(result)
    else:
        emit_pairs("trusted from now on", result)
    return 0


def _lines(file: Path) -> list[bytes]:
    try:
        return file.read_bytes().splitlines()
    except OSError as error:
        raise AuditError(f"{file} cannot be read ({error.strerror})") from None
