"""An upgrade as a user makes it: calibrate, shadow, compare, promote, and back; with alias and store cut apart."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from tests.integration.test_cli import MODELS, as_json, run

from oncotwin.adapters.sql_store.database import open_engine
from oncotwin.adapters.tables.shipped import lesions
from oncotwin.bootstrap import wiring
from oncotwin.bootstrap.settings import load_settings
from oncotwin.domain.audit import INSTALLATION
from oncotwin.twin.replay import believe
from oncotwin.twin.state import digest, to_bytes
from oncotwin_flows.assimilate import open_worker
from oncotwin_flows.groups import Bounds

N_PATIENTS = 24

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One installation for the module; its tests follow each other as a user's commands do."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONCOTWIN_HOME", str(folder))
        patch.setenv("ONCOTWIN_RAY", "in-process")
        patch.setenv("ONCOTWIN_MODELS", MODELS)
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def parts(home: Path) -> list[Path]:
    """Events of some shipped patients, in three files: each patient's are spread over all."""
    lines = run("convert", "atezolizumab", str(lesions())).stdout.splitlines()
    subjects = sorted({json.loads(line)["subject"] for line in lines})[:: 628 // N_PATIENTS][:N_PATIENTS]
    mine = [line for line in lines if json.loads(line)["subject"] in subjects]
    paths = [home / f"part-{n}.jsonl" for n in range(3)]
    for n, path in enumerate(paths):
        path.write_text("".join(line + "\n" for line in mine[n::3]))
    return paths


def present(version: str) -> dict[str, str]:
    """Present states as readers see them; each is what a fold of the whole journal under a version ends in."""
    settings = load_settings()
    bound = wiring.binding(settings, version)
    with closing(wiring.open_store(settings)) as store:
        assert store.champion() == version
        rows = store.latest_snapshots(list(store.twin_heads()))
        for twin_id, row in rows.items():
            assert row.digest == digest(to_bytes(believe(bound, twin_id, store.journal(twin_id)).state))
            assert row.model_version == version
        return {twin_id: row.digest for twin_id, row in rows.items()}


def alias() -> str | None:
    """The registry's champion."""
    return wiring.open_registry(load_settings()).alias("champion")


def test_shadow_compare_promote_and_back(home: Path, parts: list[Path]) -> None:
    as_json("ingest", str(parts[0]))
    as_json("work", "--until-idle")
    before = present("literature")
    assert as_json("calibrate", str(parts[0]))["version"] == "1"
    with closing(wiring.open_store(load_settings())) as store:
        [registered] = [entry for entry in store.audit.latest(INSTALLATION, 99) if entry.kind == "model.registered"]
        assert registered.ref == "1"
    assert "fold the journal first" in run("compare", "champion", "challenger", code=2).stderr
    assert "0.0<x<=1.0" in run("shadow", "challenger", "--share", "0", code=2).stderr

    folded = as_json("shadow", "challenger", "--until-idle", "--share", "1")
    assert (folded["model_version"], folded["champion"], folded["behind"]) == ("1", "literature", 0)
    assert folded["twins"] == len(before)
    assert present("literature") == before
    assert as_json("status")["lines"] == {"1": 0}
    scores = as_json("compare", "champion", "challenger")
    assert scores == folded["scores"] and scores["n_events"] > 20
    # The version was learnt from these very events.
    assert scores["advantage"] > scores["error"] > 0.0
    client = MlflowClient(load_settings().mlflow_uri, load_settings().mlflow_uri)
    logged = client.get_run(str(client.get_model_version("oncotwin", "1").run_id)).data.metrics
    assert logged["shadow_log_likelihood_over_champion"] == pytest.approx(scores["advantage"])

    promoted = as_json("promote", "challenger", "--by", "anna")
    assert (promoted["champion"], promoted["before"], alias()) == ("1", "literature", "1")
    assert not present("1").items() & before.items()
    assert as_json("promote", "1")["position"] is None
    assert as_json("status")["lines"] == {"literature": 0}

    as_json("ingest", str(parts[1]))
    done = as_json("work", "--until-idle")
    assert done["n_retries"] == 0
    present("1")
    assert 0 < as_json("status")["lines"]["literature"] <= N_PATIENTS
    back = as_json("promote", "literature", "--by", "bert")
    assert (back["champion"], back["before"], alias()) == ("literature", "1", None)
    present("literature")


def test_a_running_worker_follows(home: Path, parts: list[Path]) -> None:
    settings = load_settings()
    said: list[str] = []
    with open_worker(settings, announce=said.append) as (worker, _watch, _relay):
        as_json("promote", "1")
        as_json("ingest", str(parts[2]))
        tally = worker.run(Bounds(commit_events=20))
    assert tally.n_retries == 1 and "the champion is 1" in said[0]
    present("1")


def test_an_alias_left_behind_by_a_crash_is_mended_at_the_next_start(home: Path, parts: list[Path]) -> None:
    settings = load_settings()
    registry = wiring.open_registry(settings)
    registry.drop_alias("champion")
    with open_worker(settings):
        assert alias() == "1"
    # The alias of another installation that shares the registry is let alone.
    other = as_json("calibrate", str(parts[0]))["version"]
    registry.set_alias("champion", other)
    with open_worker(settings):
        assert alias() == other
    assert as_json("status")["champion"] == "1"


def test_a_store_of_an_earlier_release_is_brought_under_one_champion(home: Path, parts: list[Path]) -> None:
    """As the migration leaves one: a champion taken from a twin, and twins of two versions."""
    settings = load_settings()
    with closing(wiring.open_store(settings)) as store:
        ids = sorted(store.twin_heads())
    engine = open_engine(settings.store_url)
    with engine.connect().execution_options(write=True) as connection, connection.begin():
        connection.exec_driver_sql("DELETE FROM lines")
        connection.exec_driver_sql("DELETE FROM champions")
        connection.exec_driver_sql("INSERT INTO champions VALUES (0, '1', 0, 'migration')")
        for twin_id in ids[::3]:
            connection.exec_driver_sql(f"UPDATE twins SET model_version = 'old' WHERE twin_id = '{twin_id}'")
            connection.exec_driver_sql(f"DELETE FROM snapshots WHERE twin_id = '{twin_id}'")
    engine.dispose()
    version = str(alias())
    assert version not in ("1", "None")
    said: list[str] = []
    with open_worker(settings, announce=said.append):
        pass
    assert any(f"model version {version} is champion in the registry" in text for text in said)
    assert present(version).keys() == set(ids)
