"""The store's way out and back: backup, restore."""

from __future__ import annotations

from pathlib import Path

import click

from oncotwin.bootstrap.settings import Settings
from oncotwin_services.cli.options import command_options
from oncotwin_services.cli.output import emit_json, emit_pairs, progress, stderr


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@command_options
def backup(folder: Path, settings: Settings, as_json: bool) -> int:
    """Write the store to a new FOLDER, as it is at this moment, while the stream goes on.

    One file a table and a manifest with their hashes; either database restores it. Patients' keys are not in it: keep
    the key store and MLflow's database apart, and keep them.
    """
    from oncotwin_flows.backup import back_up

    result = back_up(settings, folder, progress)
    if as_json:
        emit_json(result)
    else:
        emit_pairs(f"backup to {folder}", result)
    return 0


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@command_options
def restore(folder: Path, settings: Settings, as_json: bool) -> int:
    """Load the backup in FOLDER into an empty store, of either database.

    Then `oncotwin work` reads the log from where the backup stood. Exit code 1: restored, and something needs a person
    first.
    """
    from oncotwin_flows.backup import restore as restore_store

    result = restore_store(settings, folder, progress)
    if as_json:
        emit_json(result)
    else:
        attention = result.pop("attention")
        emit_pairs(f"restored from {folder}", result)
        for line in attention:
            stderr.print(f"[bold yellow]attention:[/] {line}", highlight=False, soft_wrap=True)
        result["attention"] = attention
    return 1 if result["attention"] else 0
