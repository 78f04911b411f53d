"""Reports rest on beliefs: what takes a belief back flags them, and a signature is written with its message."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from oncotwin.bootstrap import wiring
from oncotwin.bootstrap.settings import load_settings
from oncotwin.domain.audit_drafts import READ, REPORT_SIGNED
from oncotwin.testing.patients import correction, diameter, event_line
from oncotwin_services.cli import main

PATIENT = "H1/p1"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ONCOTWIN_HOME", str(tmp_path))
    monkeypatch.setenv("ONCOTWIN_RAY", "in-process")
    monkeypatch.setenv("ONCOTWIN_MODELS", '["oncotwin.models.tumour_burden:TumourBurden"]')
    monkeypatch.setenv("ONCOTWIN_PARTITIONS", "2")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, list(words))
    problem = "" if result.exception is None else repr(result.exception)
    assert result.exit_code == code, result.output + result.stderr + problem
    return result


def as_json(*words: str, code: int = 0) -> Any:
    return json.loads(run(*words, "--json", code=code).stdout)


def send(home: Path, *lines: bytes) -> None:
    path = home / "events.jsonl"
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    assert as_json("ingest", str(path))["accepted"] == len(lines)
    as_json("work", "--until-idle")


def test_a_late_event_supersedes_a_report_and_later_data_do_not(home: Path) -> None:
    send(home, *(diameter(f"m{i}", 30 * i, 20 + i) for i in range(6)))
    made = as_json("report", PATIENT)
    page = Path(made["path"]).read_text()
    assert made["new"] and made["state_digest"] in page and "version 1 of the twin" in page
    assert 'href="../../index.html"' not in page
    again = as_json("report", PATIENT)
    assert not again["new"] and again["report_id"] == made["report_id"]

    send(home, diameter("m6", 200, 30))
    [listed] = as_json("reports", "--patient", PATIENT)
    assert (listed["state"], listed["changed"]) == ("current", "")
    assert listed["newest"] > listed["data_through"]

    send(home, event_line("assessment", "a1", 40, {"scale": "recist", "value": "SD"}))
    assert as_json("reports")[0]["state"] == "current"

    send(home, diameter("late", 70, 44))
    [listed] = as_json("reports")
    assert listed["state"] == "superseded" and listed["cause"].endswith("late")
    assert "1 late" in listed["changed"] and " sd" in listed["changed"]
    assert "superseded" in run("reports").stdout


def test_signing(home: Path) -> None:
    send(home, *(diameter(f"m{i}", 30 * i, 20 + i) for i in range(4)))
    made = as_json("report", PATIENT, "--out", str(home / "page.html"))
    assert made["path"] == str(home / "page.html")
    run("sign", "abcdef123456", "--by", "Dr A", "--verdict", "agree", code=1)
    run("sign", made["report_id"], "--by", "Dr A", "--verdict", "override", code=1)
    signed = as_json("sign", made["report_id"][:10], "--by", "Dr A", "--verdict", "agree", "--comment", "seen")
    assert signed["signature"]["by"] == "Dr A" and signed["signature"]["superseded"] is False
    words = ("sign", made["report_id"], "--verdict", "agree", "--comment", "seen")
    assert as_json(*words, "--by", "Dr A")["signature"] == signed["signature"]
    assert "was signed by Dr A" in run(*words, "--by", "Dr B", code=1).stderr
    with closing(wiring.open_store(load_settings())) as store:
        messages = [row for _, row in store.pending_outbox(100) if row.topic == "report.signed"]
        assert [row.message_key for row in messages] == [f"report.signed:{made['report_id']}"]
        told = json.loads(messages[0].value)
        assert (told["state_digest"], told["verdict"]) == (made["state_digest"], "agree")
        kinds = [entry.kind for entry in store.audit.latest("H1", 100)]
        assert kinds.count(REPORT_SIGNED) == 1 and kinds.count(READ) >= 1
    assert as_json("reports")[0]["signature"]["comment"] == "seen"


def test_a_superseded_report_or_a_changed_page_is_not_signed(home: Path) -> None:
    send(home, *(diameter(f"m{i}", 30 * i, 20 + i) for i in range(4)))
    made = as_json("report", PATIENT)
    path = Path(made["path"])
    page = path.read_bytes()
    path.write_bytes(page.replace(b"Patient", b"patient"))
    words = ("sign", made["report_id"], "--by", "Dr A", "--verdict", "agree")
    assert "was changed" in run(*words, code=1).stderr
    path.write_bytes(page)
    send(home, correction("c", 900, "m1", "retract"))
    assert "--override-superseded" in run(*words, code=1).stderr
    signed = as_json(*words, "--override-superseded")
    assert signed["signature"]["superseded"] is True
    [listed] = as_json("reports")
    assert listed["state"] == "superseded" and "1 correction" in listed["changed"]


def test_an_erased_patient_has_no_reports(home: Path) -> None:
    send(home, *(diameter(f"m{i}", 30 * i, 20 + i) for i in range(4)))
    made = as_json("report", PATIENT)
    run("erase", PATIENT, "--reason", "asked for")
    assert as_json("reports") == []
    assert not Path(made["path"]).exists()
    assert "nothing is known" in run("report", PATIENT, code=2).stderr
