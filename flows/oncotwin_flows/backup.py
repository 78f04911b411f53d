"""Backups of the store while the stream runs, and the way back to a running installation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy.engine import make_url

from oncotwin import __version__
from oncotwin.adapters.sql_store.backup import Bar, Manifest, no_bar, write_backup
from oncotwin.adapters.sql_store.restore import restore_backup
from oncotwin.bootstrap import wiring
from oncotwin.bootstrap.settings import Settings
from oncotwin.domain.errors import ConfigurationError, LogError, ModelError, StoreError
from oncotwin.domain.ids import TwinId
from oncotwin_flows.erase import make_eraser


def back_up(settings: Settings, folder: Path, bar: Bar = no_bar) -> dict[str, Any]:
    """Write the store, as it is at this moment, to a new folder.

    Returns:
        What was written, for people.
    Raises:
        StoreError: see `write_backup`.
    """
    manifest = write_backup(settings.store_url, folder, __version__, wiring.SystemClock().now(), bar)
    return {"folder": str(folder), "store": _shown(settings), **_described(manifest)}


def restore(settings: Settings, folder: Path, bar: Bar = no_bar) -> dict[str, Any]:
    """Load a backup into the installation's empty store.

    Returns:
        What was read, the events of the log that came after it, and under ``attention`` what a person must see to
        before the twins can go on as they were.
    Raises:
        StoreError: see `restore_backup`.
    """
    manifest = restore_backup(settings.store_url, folder, bar)
    n_behind, attention = _rest_of_the_log(settings, manifest)
    attention += _missing_models(settings, manifest)
    erased, problems = _erase_again(settings)
    return {
        "folder": str(folder), "store": _shown(settings), **_described(manifest), "events_to_replay": n_behind,
        "erased_again": erased, "attention": attention + problems,
        "next": "`oncotwin work` reads the log from where the backup stood, to the same state as before",
    }


def _erase_again(settings: Settings) -> tuple[list[TwinId], list[str]]:
    """Take out who was erased since the backup was made; and whether the keys at hand open what it holds."""
    try:
        store, keys = wiring.open_store(settings), wiring.open_keys(settings)
    except ConfigurationError as error:
        # The rows are there and stay shut until the right keys are; then every opening looks for the erased.
        return [], [str(error)]
    try:
        reports = make_eraser(settings, store, keys, wiring.SystemClock()).resume()
        problems = [problem for report in reports for problem in report.problems]
        for twin_id in list(store.twin_heads())[:1]:
            try:
                store.journal(twin_id)
            except StoreError as error:
                problems.append(str(error))
        return [report.twin_id for report in reports], problems
    finally:
        keys.close()
        store.close()


def _described(manifest: Manifest) -> dict[str, Any]:
    return {
        "written_at": manifest.written_at, "release": manifest.release, "schema": manifest.schema,
        "position": manifest.position, "rows": manifest.n_rows, "bytes": manifest.n_bytes,
    }


def _shown(settings: Settings) -> str:
    """The store's address without its password."""
    return make_url(settings.store_url).render_as_string(hide_password=True)


def _rest_of_the_log(settings: Settings, manifest: Manifest) -> tuple[int | None, list[str]]:
    """Events that came after the backup, None where the log does not say; and what is wrong with the log."""
    name = wiring.log_name(settings)
    try:
        log = wiring.open_log(settings)
        try:
            begins, ends = log.begin_offsets(), log.end_offsets()
        finally:
            log.close()
    except LogError as error:
        return None, [f"the log does not answer ({error})"]
    if manifest.offsets and name not in manifest.offsets:
        known = ", ".join(sorted(manifest.offsets))
        return sum(ends[p] - begins[p] for p in ends), [
            f"the backup's offsets are of {known}, the log is {name}: it is read from its beginning, and events that "
            "are in the store already are dropped"
        ]
    stored = manifest.offsets.get(name, {})
    beyond = [p for p, offset in stored.items() if offset > ends.get(p, 0)]
    if beyond:
        return None, [
            f"the log ends before the backup in partitions {', '.join(map(str, beyond))}: it was replaced; restore the "
            "log too, or give `topic` a new name"
        ]
    lost = [p for p in ends if begins[p] > stored.get(p, 0) and ends[p] > stored.get(p, 0)]
    attention = []
    if lost:
        attention.append(
            f"the log has let go of events after the backup in partitions {', '.join(map(str, lost))}; take a later "
            "backup, or have the sources send them again"
        )
    return sum(ends[p] - max(stored.get(p, 0), begins[p]) for p in ends), attention


def _missing_models(settings: Settings, manifest: Manifest) -> list[str]:
    """Model versions that the states rest on and that the registry does not have."""
    missing = []
    for version in manifest.model_versions:
        try:
            wiring.load_bundle(settings, version)
        except ModelError:
            missing.append(version)
    if not missing:
        return []
    return [
        f"the registry {settings.mlflow_uri} has no model version {', '.join(missing)}; restore MLflow's database and "
        "artefacts of the same time, else the twins are folded under another model"
    ]
