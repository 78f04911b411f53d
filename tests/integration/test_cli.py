"""The commands as a user types them: from a table to a checked forecast."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from click.testing import CliRunner, Result

from oncotwin.adapters.parquet_history import open_posterior
from oncotwin.adapters.tables.shipped import lesions
from oncotwin_services.cli import main

MODELS = '["oncotwin.models.tumour_burden:TumourBurden"]'
N_PATIENTS = 60


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One installation for the module: commands build on each other as they do for a user."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONCOTWIN_HOME", str(folder))
        patch.setenv("ONCOTWIN_RAY", "in-process")
        patch.setenv("ONCOTWIN_MODELS", MODELS)
        patch.chdir(folder)
        yield folder


def run(*words: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, list(words))
    problem = "" if result.exception is None else repr(result.exception)
    assert result.exit_code == code, result.output + result.stderr + problem
    return result


def as_json(*words: str, code: int = 0) -> Any:
    return json.loads(run(*words, "--json", code=code).stdout)


@pytest.fixture(scope="module")
def events(home: Path) -> Path:
    """Events of some shipped patients."""
    lines = run("convert", "atezolizumab", str(lesions())).stdout.splitlines()
    subjects = sorted({json.loads(line)["subject"] for line in lines})[:: 628 // N_PATIENTS][:N_PATIENTS]
    path = home / "events.jsonl"
    path.write_text("".join(line + "\n" for line in lines if json.loads(line)["subject"] in subjects))
    return path


def test_help_names_every_command() -> None:
    text = run("--help").stdout
    for command in (
        "convert", "ingest", "work", "calibrate", "shadow", "compare", "promote", "twin", "forecast", "backtest",
        "alerts", "rejected", "export", "status", "demo",
    ):
        assert command in text
        assert "--json" in run(command, "--help").stdout


def test_from_a_table_to_beliefs(home: Path, events: Path) -> None:
    lines = events.read_text().splitlines()
    assert as_json("ingest", str(events)) == {"accepted": len(lines), "duplicate": 0, "rejected": 0, "reasons": []}
    assert as_json("ingest", str(events))["duplicate"] == len(lines)
    done = as_json("work", "--until-idle")
    assert (done["n_accepted"], done["n_rejected"]) == (len(lines), 0)
    state = as_json("status")
    assert (state["lag"], state["journal"], state["twins"]) == (0, len(lines), N_PATIENTS)
    assert {"patient", "message", "recommended", "since"} <= set(as_json("alerts")[0])

    patient = json.loads(lines[0])["subject"]
    now = as_json("twin", patient)
    assert len(now["state_digest"]) == 64 and now["estimates"]["tumour_burden"]
    assert [(one["observable"], one["unit"]) for one in now["last_observed"]] == [("longest_diameter", "mm")]
    early = as_json("twin", patient, "--as-of", now["data_through"][:10])
    assert early["state_digest"] == now["state_digest"]
    before = as_json("twin", patient, "--as-of", "2000-01-20")
    assert before["n_events"] < now["n_events"]
    run("twin", patient, "--known-at", "2001-01-01", code=2)
    later = as_json("forecast", patient, "--at", "2006-01-01", "--at", "2006-06-01")["forecasts"]
    assert [f["time"][:10] for f in later] == ["2006-01-01", "2006-06-01"]
    values = list(later[0]["quantiles"].values())
    assert len(values) == 21 and values == sorted(values)
    run("forecast", patient, "--at", "1999-01-01", code=2)


def test_export_opens_in_xarray(home: Path, events: Path) -> None:
    result = as_json("export", str(home / "exported"))
    assert result["estimates"] > 0 and result["innovations"] > 0 and result["forecasts"] > 0
    posterior = open_posterior(home / "exported")
    assert posterior["estimate"].dims == ("patient", "time", "state", "quantile")
    assert posterior.sizes["patient"] == N_PATIENTS


def test_bad_events_are_listed_and_mended(home: Path, events: Path) -> None:
    bad = json.loads(events.read_text().splitlines()[0])
    bad |= {"id": "bad-1", "data": {**bad["data"], "unit": "kg"}}
    (home / "bad.jsonl").write_text(json.dumps(bad) + "\nnot json\n")
    refused = as_json("ingest", str(home / "bad.jsonl"), code=1)
    assert [one["line"] for one in refused["reasons"]] == [1, 2]
    assert len(as_json("rejected")) == 2
    raw = run("rejected", "--raw").stdout
    assert raw.splitlines()[1] == "not json"
    mended = home / "mended.jsonl"
    mended.write_text(json.dumps({**bad, "data": {**bad["data"], "unit": "mm"}}) + "\n")
    done = as_json("rejected", "--resubmit", "--file", str(mended))
    assert (done["accepted"], done["closed"], done["still_rejected"]) == (1, 1, 0)
    assert len(as_json("rejected")) == 1


def test_learning(home: Path, events: Path) -> None:
    learned = as_json("calibrate", str(events))
    assert learned["version"] == "1" and learned["models"] == ["tumour_burden"]
    out = home / "forecasts.parquet"
    summary = as_json("backtest", str(events), "--model", "challenger", "--out", str(out))
    assert summary["model_version"] == "1"
    table = pyarrow.parquet.read_table(out).to_pandas()
    assert list(table.columns)[:15] == [
        "institution", "patient", "observable", "unit", "origin_time", "target_time", "horizon_days", "visits_ahead",
        "n_prior", "observed", "censored", "last_observed", "model_version", "q01", "q05",
    ]
    assert len(table) == summary["n_forecasts"] and set(table["visits_ahead"]) == {1, 2, 3}
    assert (table["target_time"] > table["origin_time"]).all()
    assert as_json("promote", "1")["champion"] == "1"
    assert as_json("status")["champion"] == "1"
    patient = json.loads(events.read_text().splitlines()[0])["subject"]
    assert as_json("forecast", patient, "--at", "2006-01-01")["model_version"] == "1"
    run("promote", "99", code=2)


def test_what_cannot_run_says_why(home: Path) -> None:
    assert "embedded:DIR" in run("status", "--log", "postbox:1", code=2).stderr
    assert "nothing is known" in run("twin", "FIR/nobody", code=2).stderr
    assert "<institution>/<patient>" in run("alerts", "--patient", "nobody", code=2).stderr
    assert "--resubmit" in run("rejected", "--file", __file__, code=2).stderr
