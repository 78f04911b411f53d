"""The documents agree with the program: settings, commands, words, links."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from oncotwin.bootstrap.settings import Settings
from oncotwin.twin.drift_thresholds import PROVENANCE
from oncotwin_services.cli import main

ROOT = Path(__file__).resolve().parents[3]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])


def test_every_setting_is_described_and_nothing_else() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    described = set(re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE))
    assert described == set(Settings.model_fields)


def test_every_reason_for_refusal_is_described_and_nothing_else() -> None:
    # As an argument, as a variable, and in the table that turns pydantic's words into ours.
    before = r'(?:EventError|Rejection)\(\s*|\bcode = |(?:_number|missing|forbidden)": \('
    code = re.compile(rf'(?:{before})"([a-z0-9_]+)"')
    sources = [*(ROOT / "platform/oncotwin/domain").glob("*.py"), ROOT / "flows/oncotwin_flows/refusals.py"]
    used = {name for path in sources for name in code.findall(path.read_text(encoding="utf-8"))}
    text = (ROOT / "docs" / "events.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`([a-z0-9_]+)`", text[text.index("| code | when |") :])) == used


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"https?:|mailto:|#", target):
            assert (document.parent / target.split("#")[0]).exists(), f"{document.name} links to {target}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_and_flags_that_are_shown_exist(document: Path) -> None:
    assert isinstance(main, click.Group)
    context = click.Context(main)
    text = document.read_text(encoding="utf-8")
    for name, rest in re.findall(r"(?:^|\s)oncotwin ([a-z]+)\b([^\n`#]*)", text):
        command = main.get_command(context, name)
        if command is None:
            # Prose such as "oncotwin keeps ..." is no command; a line of code must be one.
            assert f"    oncotwin {name}" not in text and f"`oncotwin {name}" not in text, f"no command {name!r}"
            continue
        if isinstance(command, click.Group):
            below = re.findall(r"[a-z-]*", rest.strip())[0]
            command = command.get_command(context, below)
            assert command is not None, f"{document.name}: oncotwin {name} has no command {below!r}"
        known = {option for parameter in command.params for option in parameter.opts}
        for flag in re.findall(r"(?<=\s)--[a-z-]+", rest):
            assert flag in known, f"{document.name}: oncotwin {name} has no {flag}"


def test_the_rate_of_false_alarms_is_the_one_described() -> None:
    text = (ROOT / "docs" / "models" / "drift.md").read_text(encoding="utf-8")
    assert f"{PROVENANCE['false_alarms_per_patient_year']} false alarms" in text
