"""The chart speaks of settings and commands that exist."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

from oncotwin.bootstrap.settings import Settings

REPOSITORY = Path(__file__).parents[3]
CHART = REPOSITORY / "helm" / "oncotwin"


def test_every_setting_of_the_chart_is_one_of_the_program() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    template = (CHART / "templates" / "worker.yaml").read_text()
    named = {name.lower() for name in re.findall(r"ONCOTWIN_([A-Z_]+)", template)}
    assert set(values["settings"]) | named <= set(Settings.model_fields)
    assert Settings(**values["settings"]).twins_per_actor == 256


def test_the_chart_has_the_version_of_the_package() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    package = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    assert chart["version"] == chart["appVersion"] == package


def test_the_template_is_sound_yaml_once_filled_in() -> None:
    template = (CHART / "templates" / "worker.yaml").read_text()
    whole = "\n".join(line for line in template.splitlines() if not line.strip().startswith("{{"))
    filled = yaml.safe_load(re.sub(r"\{\{.*?\}\}", "x", whole))
    (container,) = filled["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["oncotwin", "work"]
