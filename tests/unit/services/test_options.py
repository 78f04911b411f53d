"""Settings by file, environment and flags, as every command takes them."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from oncotwin.bootstrap.settings import Settings
from oncotwin_services.cli.options import command_options


@click.command()
@command_options
def show(settings: Settings, as_json: bool) -> int:
    """Print the settings."""
    click.echo(settings.model_dump_json())
    return 0


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of its own, and none of the caller's settings."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(f"ONCOTWIN_{name.upper()}", raising=False)
    monkeypatch.delenv("ONCOTWIN_CONFIG", raising=False)
    return tmp_path


def shown(*words: str) -> tuple[Settings, Result]:
    result = CliRunner().invoke(show, list(words))
    assert result.exit_code == 0, result.stderr
    return Settings.model_validate_json(result.stdout), result


def test_flags_win_over_the_environment_which_wins_over_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "oncotwin.toml").write_text("partitions = 2\ncommit_events = 3\nbatch_events = 4\n")
    monkeypatch.setenv("ONCOTWIN_COMMIT_EVENTS", "30")
    monkeypatch.setenv("ONCOTWIN_BATCH_EVENTS", "40")
    found, _ = shown("--batch-events", "400", "--batch-seconds", "5", "--arrays", "s3://a/", "--arrays", "s3://b/")
    assert (found.partitions, found.commit_events, found.batch_events, found.batch_seconds) == (2, 30, 400, 5.0)
    assert found.arrays == ["s3://a/", "s3://b/"]


def test_a_mistyped_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONCOTWIN_STROE", "sqlite:///x")
    monkeypatch.setenv("ONCOTWIN_DATA", "/somewhere")
    _, result = shown()
    assert "ONCOTWIN_STROE is no setting" in result.stderr
    assert "DATA" not in result.stderr


def test_a_mistyped_name_in_the_file_is_an_error(folder: Path) -> None:
    (folder / "oncotwin.toml").write_text("stroe = 'x'\n")
    result = CliRunner().invoke(show, [])
    assert result.exit_code == 2
    assert "stroe" in result.stderr
