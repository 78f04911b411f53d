"""A version that names the particle filter, from calibration to a replay: the whole path follows it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from tests.integration.test_cli import as_json, run

from oncotwin.adapters.tables.shipped import lesions
from oncotwin.bootstrap import wiring
from oncotwin.bootstrap.settings import load_settings
from oncotwin.twin.state import from_bytes

N_PATIENTS, N_PARTICLES = 24, 60


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One installation for the module; its tests follow each other as a user's commands do."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONCOTWIN_HOME", str(folder))
        patch.setenv("ONCOTWIN_RAY", "in-process")
        patch.setenv("ONCOTWIN_MODELS", '["oncotwin.models.tumour_burden:TumourBurden"]')
        patch.setenv("ONCOTWIN_COMMIT_EVENTS", "50")
        patch.chdir(folder)
        yield folder


def digests() -> dict[str, str]:
    """Published digest of every twin."""
    store = wiring.open_store(load_settings())
    try:
        return {twin: row.digest for twin, row in store.latest_snapshots(list(store.twin_heads())).items()}
    finally:
        store.close()


@pytest.fixture(scope="module")
def streams(home: Path) -> tuple[Path, Path, Path]:
    """All events of some shipped patients; all but every fifth of them; and those, which come late."""
    lines = run("convert", "atezolizumab", str(lesions())).stdout.splitlines()
    subjects = sorted({json.loads(line)["subject"] for line in lines})[:: 628 // N_PATIENTS][:N_PATIENTS]
    mine = [line for line in lines if json.loads(line)["subject"] in subjects]
    paths = home / "events.jsonl", home / "most.jsonl", home / "late.jsonl"
    parts = mine, [line for i, line in enumerate(mine) if i % 5], mine[::5]
    for path, part in zip(paths, parts, strict=True):
        path.write_text("".join(line + "\n" for line in part))
    return paths


def test_calibration_keeps_the_filter_with_the_version(home: Path, streams: tuple[Path, Path, Path]) -> None:
    events = str(streams[0])
    learned = as_json("calibrate", events, "--filter", "particle", "--members", str(N_PARTICLES))
    assert (learned["version"], learned["filter"]) == ("1", "particle")
    assert learned["filter_parameters"]["n_particles"] == N_PARTICLES
    settings = load_settings()
    _, bundle = wiring.open_registry(settings).load("1")
    assert bundle.filter.name == "particle" and bundle.filter.parameters == learned["filter_parameters"]
    client = MlflowClient(settings.mlflow_uri, settings.mlflow_uri)
    logged = client.get_run(str(client.get_model_version("oncotwin", "1").run_id)).data.params
    assert logged["filter"] == "particle" and logged["filter_n_particles"] == str(N_PARTICLES)
    promoted = as_json("promote", "1")
    assert (promoted["champion"], promoted["filter"]) == ("1", "particle")


def test_what_is_no_filter_is_refused_before_anything_is_read(home: Path, streams: tuple[Path, Path, Path]) -> None:
    events = str(streams[0])
    assert "kalman" in run("calibrate", events, "--filter", "kalman", code=2).stderr
    assert "10 to 100,000" in run("calibrate", events, "--filter", "ensemble", "--members", "3", code=2).stderr
    assert "has no members" in run("calibrate", events, "--members", "50", code=2).stderr


def test_the_stream_follows_it_whatever_comes_late(home: Path, streams: tuple[Path, Path, Path]) -> None:
    _, most, late = streams
    for path in (most, late):
        as_json("ingest", str(path))
        as_json("work", "--until-idle")
    live = digests()
    assert len(live) == N_PATIENTS
    store = wiring.open_store(load_settings())
    try:
        for row in store.latest_snapshots(list(live)).values():
            state = from_bytes(row.state)
            assert state.model_version == "1"
            assert len(state.parts["tumour_burden"].posterior.arrays["log_weights"]) == N_PARTICLES
    finally:
        store.close()
    patient = min(live)
    for twin in live:
        assert as_json("twin", twin)["state_digest"] == live[twin]
    later = as_json("forecast", patient, "--at", "2006-01-01")["forecasts"]
    values = list(later[0]["quantiles"].values())
    assert values == sorted(values) and values[-1] > 0.0


def test_an_orderly_stream_ends_in_the_same_states(
    home: Path, streams: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another installation, another batching, the same registry."""
    shuffled = digests()
    monkeypatch.setenv("ONCOTWIN_LOG", f"embedded:{tmp_path / 'log'}")
    monkeypatch.setenv("ONCOTWIN_STORE", f"sqlite:///{tmp_path / 'store.sqlite'}")
    monkeypatch.setenv("ONCOTWIN_COMMIT_EVENTS", "1000")
    as_json("ingest", str(streams[0]))
    as_json("work", "--until-idle")
    assert digests() == shuffled


def test_a_back_test_follows_it_too(home: Path, streams: tuple[Path, Path, Path]) -> None:
    out = home / "forecasts.parquet"
    summary = as_json("backtest", str(streams[0]), "--model", "1", "--out", str(out))
    assert summary["n_forecasts"] > 0
    coverage = [row["coverage"] for row in summary["summary"]]
    assert all(0.5 < share <= 1.0 for share in coverage)
