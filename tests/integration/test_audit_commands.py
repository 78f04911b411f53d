"""`oncotwin audit ...` as a user types it, and its proofs as somebody else checks them."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.faults import check_proof
from tests.faults.audit_stores import commit

from oncotwin.adapters.sql_store import SqlTwinStore
from oncotwin.bootstrap import wiring
from oncotwin.bootstrap.settings import load_settings
from oncotwin_services.cli import main


@pytest.fixture
def empty_home(tmp_path: Path) -> Iterator[Path]:
    """An installation where nothing has happened yet."""
    folder = tmp_path / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONCOTWIN_HOME", str(folder))
        patch.setenv("ONCOTWIN_RAY", "in-process")
        patch.chdir(tmp_path)
        yield folder


@pytest.fixture
def home(empty_home: Path) -> Path:
    """An installation with a few events of two institutions."""
    with opened() as store:
        commit(store, ["a", "b"], rejected=["x"])
        commit(store, ["c"], patient="south/p1")
    return empty_home


@contextmanager
def opened() -> Iterator[SqlTwinStore]:
    """The installation's store."""
    store = wiring.open_store(load_settings())
    assert isinstance(store, SqlTwinStore)
    try:
        yield store
    finally:
        store.close()


def run(*words: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["audit", *words])
    problem = "" if result.exception is None else repr(result.exception)
    assert result.exit_code == code, result.output + result.stderr + problem
    return result


def as_json(*words: str, code: int = 0) -> Any:
    return json.loads(run(*words, "--json", code=code).stdout)


def alter(home: Path, statement: str) -> None:
    """Somebody with a tool of their own."""
    with sqlite3.connect(home / "store.sqlite") as connection:
        connection.execute(statement)
    connection.close()


def test_verify_says_what_is_whole_and_names_what_is_not(home: Path) -> None:
    found = as_json("verify")
    assert found["ok"] is True
    assert [(one["institution"], one["n_entries"]) for one in found["chains"]] == [
        ("@installation", 1), ("north", 4), ("south", 2)
    ]
    assert [one["institution"] for one in as_json("verify", "--institution", "south")["chains"]] == ["south"]
    assert "whole" in run("verify").stdout
    alter(home, "UPDATE audit_entries SET ref = ref || ' ' WHERE institution = 'north' AND seq = 3")
    found = as_json("verify", code=1)
    assert (found["ok"], [one["ok"] for one in found["chains"]]) == (False, [True, False, True])
    (flaw,) = found["flaws"]
    assert (flaw["institution"], flaw["first"], flaw["last"], flaw["problem"]) == ("north", 3, 3, "changed")
    shown = run("verify", code=1).stdout
    assert "BAD" in shown
    assert "north: entry 3 was changed" in shown
    run("verify", "--institution", "south")
    assert "no chain of 'east'" in run("verify", "--institution", "east", code=2).stderr


def test_a_tail_that_was_cut_off_is_missed_by_who_holds_a_checkpoint(home: Path, tmp_path: Path) -> None:
    made = as_json("checkpoint")
    assert {one["institution"]: one["size"] for one in made} == {"@installation": 1, "north": 4, "south": 2}
    assert as_json("checkpoint") == []
    file = tmp_path / "held.jsonl"
    assert as_json("export-checkpoints", str(file)) == {"file": str(file), "checkpoints": 3}
    assert as_json("export-checkpoints", str(file), "--institution", "north")["checkpoints"] == 1
    for table in ("audit_entries", "audit_checkpoints"):
        alter(home, f"DELETE FROM {table} WHERE institution = 'north' AND seq > 2")
    # The registry has them too.
    (flaw,) = as_json("verify", code=1)["flaws"]
    assert (flaw["problem"], flaw["first"], flaw["last"]) == ("cut off", 3, 4)
    (home / "mlflow.sqlite").unlink()
    assert as_json("verify")["ok"] is True
    (flaw,) = as_json("verify", "--checkpoints", str(file), code=1)["flaws"]
    assert (flaw["problem"], flaw["first"], flaw["last"]) == ("cut off", 3, 4)
    assert "cannot be read" in run("verify", "--checkpoints", str(tmp_path / "nowhere"), code=2).stderr
    file.write_text("{}\n")
    assert "line 1" in run("verify", "--checkpoints", str(file), code=2).stderr


def test_a_proof_is_checked_by_a_script_of_somebody_else(home: Path) -> None:
    key = as_json("key", "north")["key"]
    for name in ("b", "urn:lab b", "north:2"):
        proof = run("prove", name).stdout
        assert json.loads(proof)["entry"]["ref"] == "urn:lab b"
        assert ask_stranger(proof, key) == 0
        assert ask_stranger(proof.replace("urn:lab b", "urn:lab c"), key) == 1
        assert ask_stranger(proof, as_json("key", "south")["key"]) == 1
    assert "no entry of the audit trail" in run("prove", "nothing", code=2).stderr
    alter(home, "UPDATE audit_entries SET body = CAST(replace(body, 'lab', 'bal') AS BLOB) WHERE seq = 2")
    assert "audit verify" in run("prove", "b", code=2).stderr


def ask_stranger(proof: str, key: str) -> int:
    """Exit status of the checker, run with nothing of this project on its path."""
    done = subprocess.run(
        [sys.executable, "-I", str(check_proof.__file__), key], input=proof.encode(), capture_output=True, check=False,
        timeout=60,
    )
    assert done.returncode in (0, 1) and not done.stderr, done.stderr
    return done.returncode


def test_two_installations_exchange_checkpoints(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("checkpoint")
    pem, file = tmp_path / "north.pem", tmp_path / "north.jsonl"
    pem.write_text(run("key", "north").stdout)
    run("export-checkpoints", str(file), "--institution", "north")
    monkeypatch.setenv("ONCOTWIN_HOME", str(tmp_path / "other"))
    assert "none that is trusted for north" in run("import-checkpoints", str(file), code=2).stderr
    assert "north" in run("trust", "north", str(pem)).stdout
    assert as_json("import-checkpoints", str(file)) == {"checkpoints": 1, "new": 1}
    found = as_json("verify")
    assert (found["ok"], found["chains"], found["held_for_others"]) == (True, [], {"north": 1})
    assert "no institution's name" in run("key", "../x", code=2).stderr


def test_show_lists_the_last_entries(home: Path) -> None:
    entries = as_json("show", "--institution", "north", "-n", "2")
    assert [(one["seq"], one["kind"]) for one in entries] == [(3, "estimate"), (4, "event.rejected")]
    assert len(as_json("show")) == 7
    shown = run("show").stdout
    assert "urn:lab a" in shown
    assert "p1" not in shown


@pytest.mark.slow
def test_a_worker_signs_what_it_did(empty_home: Path, tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    events.write_text(
        json.dumps(
            {
                "specversion": "1.0", "id": "m-1", "source": "urn:north:rad", "subject": "north/p2",
                "type": "org.oncotwin.lesion.measured.v1", "time": "2024-05-17T12:00:00Z",
                "data": {"lesion": "L1", "kind": "longest_diameter", "value": 20.0, "unit": "mm"},
            }
        )
        + "\n{\n"
    )
    for words in (("ingest", str(events)), ("work", "--until-idle")):
        result = CliRunner().invoke(main, [*words])
        assert result.exit_code in (0, 1), result.output
        assert "no checkpoint" not in result.stderr
    found = as_json("verify")
    north = next(one for one in found["chains"] if one["institution"] == "north")
    assert found["ok"] is True
    assert north["covered_by_checkpoint"] == north["n_entries"] - 1 == 2
    assert ask_stranger(run("prove", "m-1").stdout, as_json("key", "north")["key"]) == 0
    assert list((empty_home / "mlflow-artifacts").rglob("000000000002.json"))


def test_whoever_is_shown_patients_data_is_told_of(home: Path, tmp_path: Path) -> None:
    # The states of this store are no model's, so the export fails: it had told before.
    for code, *words in ((0, "alerts"), (0, "rejected"), (0, "rejected", "--raw"), (2, "export", "out")):
        result = CliRunner().invoke(main, words)
        assert result.exit_code == code, result.output + result.stderr
    reads = [one for one in as_json("show") if one["kind"] == "read"]
    # The refused event is north's; both patients were exported; there are no alerts.
    assert sorted((one["institution"], one["content"]["what"]) for one in reads) == [
        ("north", "export"), ("north", "rejected"), ("north", "rejected"), ("south", "export")
    ]
    assert {one["content"]["by"].partition(":")[0] for one in reads} == {"cli"}
    assert as_json("verify")["ok"] is True


def test_contents_are_compared_when_asked(home: Path) -> None:
    # What this store calls payloads are no events, so none is what its hash says; the beliefs are as told.
    found = as_json("verify", "--contents", code=1)
    assert {flaw["problem"] for flaw in found["flaws"]} == {"contents"}
    assert found["contents"] == {"events": 0, "beliefs": 0, "older_than_the_trail": 0, "entries_of_erased": 0}
    assert "with another content" in run("verify", "--contents", code=1).stdout
