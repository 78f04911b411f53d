"""A user's own model: a package of its own, really installed, named in one setting, held to the suite, back-tested."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "oncotwin-exponential"

LOINC_CTDNA = "81258-6"
COMMAND_LINE = "from oncotwin_services.cli import main; main()"


def ctdna_events(n_patients: int, seed: int) -> str:
    """Events of patients whose ctDNA grows, and falls under a drug from the second day on; one JSON line each."""
    rng = np.random.default_rng(seed)
    start = datetime(2021, 3, 1, tzinfo=UTC)
    lines = []
    for i in range(n_patients):
        level, growth, effect = rng.normal(-4.5, 0.8), rng.normal(0.008, 0.004), rng.normal(0.014, 0.006)

        def event(kind: str, name: str, day: float, data: dict[str, object], patient: str = f"p{i}") -> str:
            return json.dumps({
                "specversion": "1.0", "source": "urn:example:lab", "id": f"{patient}-{name}",
                "type": f"org.oncotwin.{kind}.v1", "subject": f"EXAMPLE/{patient}",
                "time": (start + timedelta(days=day)).isoformat(), "data": data,
            })

        lines.append(event("treatment.administered", "on", 1.0, {"agent": "drug", "action": "on"}))
        for visit in range(12):
            if visit:
                level += 28.0 * (growth - effect) + rng.normal(0.0, 0.1)
            seen = min(math.exp(level + rng.normal(0.0, 0.2)), 1.0)
            lines.append(
                event("lab.result", f"v{visit}", 28.0 * visit, {"code": LOINC_CTDNA, "value": seen, "unit": "1"})
            )
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the package as pip installs it, from a copy of its sources."""
    folder = tmp_path_factory.mktemp("plugin")
    sources = shutil.copytree(EXAMPLE, folder / "sources", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    site = folder / "site"
    uv = Path(sys.executable).with_name("uv")
    installer = [str(uv), "pip", "install", "--python", sys.executable] if uv.exists() else [
        sys.executable, "-m", "pip", "install"
    ]
    subprocess.run(
        [*installer, "--quiet", "--no-deps", "--target", str(site), str(sources)], check=True, cwd=folder, timeout=240
    )
    shutil.rmtree(sources / "oncotwin_exponential")
    return folder


def run(installed: Path, *arguments: str) -> str:
    """Run Python outside the repository with the installed package on its path; returns standard output."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(installed / "site"), os.environ.get("PYTHONPATH", "")])),
        "ONCOTWIN_MODELS": json.dumps(["oncotwin_exponential:ExponentialModel"]),
    }
    done = subprocess.run(
        [sys.executable, *arguments], cwd=installed, env=environment, capture_output=True, text=True, timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_installed_package_passes_the_conformance_suite(installed: Path) -> None:
    out = run(
        installed, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", "--rootdir",
        str(installed / "sources"), str(installed / "sources" / "tests"),
    )
    assert "passed" in out and "failed" not in out


def test_the_installed_model_is_calibrated_and_back_tested_by_one_line_of_settings(installed: Path) -> None:
    (installed / "learn.jsonl").write_text(ctdna_events(24, 1))
    (installed / "test.jsonl").write_text(ctdna_events(16, 2))
    where = run(installed, "-c", "import oncotwin_exponential as m; print(m.__file__)").strip()
    assert where.startswith(str(installed / "site"))
    home = ["--home", str(installed / "home"), "--json"]
    learned = json.loads(run(installed, "-c", COMMAND_LINE, "calibrate", "learn.jsonl", *home))
    assert learned["models"] == ["exponential_ctdna"] and learned["n_twins"] == 24
    result = json.loads(
        run(installed, "-c", COMMAND_LINE, "backtest", "test.jsonl", "--model", learned["version"], "--out",
            "forecasts.parquet", *home)
    )
    assert (installed / "forecasts.parquet").stat().st_size > 0
    assert result["n_forecasts"] == 16 * (11 + 10 + 9)
    for row in result["summary"]:
        assert row["observable"] == "ctdna_allele_fraction"
        assert row["mae_ratio"] < 1.0
        assert 0.8 < row["coverage"] <= 0.98
