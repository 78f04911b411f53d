"""Everything that reads bytes from outside takes its seeds, and refuses what is made of them by documented errors."""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path

import pytest
from rich.console import Console
from tests.faults import fuzz
from tests.faults.fuzz_child import CORPUS, LONGEST_S, MAX_BYTES, Recorder, seeds
from tests.faults.fuzz_mutation import mutate
from tests.faults.fuzz_seeds import seeds as fresh_seeds
from tests.faults.fuzz_targets import TARGETS, pack, unpack

N_INPUTS = 1_000
"""For each reader, here; `make fuzz` feeds a million."""


def test_every_reader_has_seeds_and_a_share() -> None:
    assert set(fuzz.TARGETS) == set(TARGETS) == {path.name for path in CORPUS.iterdir()}


@pytest.mark.parametrize("name", TARGETS)
def test_the_seeds_are_what_the_program_writes_and_are_taken(name: str) -> None:
    made = fresh_seeds()[name]
    kept = [path.read_bytes() for path in sorted((CORPUS / name).glob("[0-9][0-9]"))]
    # Compressed and sealed bytes, and those of compiled filters on another processor, may differ.
    assert len(kept) == len(made)
    outcomes = [TARGETS[name](one) for one in kept]
    assert outcomes == [TARGETS[name](one) for one in made]
    good = (
        "accepted", "read", "open", "dict", "list", "still_rejected", "unknown_kind", "True", "2 of", "refused read",
    )
    assert all(outcome.startswith(good) for outcome in outcomes), outcomes


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_but_documented_errors(name: str) -> None:
    rng = random.Random(name)
    kept = seeds(name)
    inputs = [*kept, *(mutate(rng.choice(kept), rng, rng.choice(kept))[:MAX_BYTES] for _ in range(N_INPUTS))]
    outcomes = set()
    for data in inputs:
        begun = time.monotonic()
        try:
            outcomes.add(TARGETS[name](data))
        except Exception as error:
            error.add_note(f"{name} was given {data!r}")
            raise
        assert time.monotonic() - begun < LONGEST_S
    assert len(outcomes) > 1


def test_headers_and_value_in_one() -> None:
    headers = (("ce_id", b"1"), ("ce_é", b"\x00\xff"))
    assert unpack(pack(b"{}", headers)) == (headers, b"{}")
    assert unpack(b"") == ((), b"")
    assert unpack(b"\x03ab") == ((("", b""), ("", b""), ("", b"")), b"")


class Ended(Exception):
    """In place of the end of the process."""


def test_what_is_met_is_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def end(code: int) -> None:
        raise Ended

    monkeypatch.setattr(os, "_exit", end)

    def run(data: bytes) -> str:
        if data == b"bad":
            raise KeyError("undocumented")
        return data.decode()

    recorder = Recorder(run, 5, tmp_path / "x.json")
    for data in (b"a", b"bad", b"a", b"bad"):
        recorder.take(data)
    with pytest.raises(Ended):
        recorder.take(b"b")
    report = json.loads((tmp_path / "x.json").read_text())
    assert report["n"] == 5
    assert report["outcomes"] == {"a": 2, "b": 1, "UNDOCUMENTED KeyError": 2}
    [(place, finding)] = report["findings"].items()
    assert place.startswith("KeyError at test_fuzz.py") and "undocumented" in finding["trace"]
    assert Path(finding["input"]).read_bytes() == b"bad"
    done = fuzz.Run("x", 5, tmp_path, code=0, report=report)
    assert fuzz.show([done], Console(quiet=True)) == 1
    hung = fuzz.Run("x", 9, tmp_path, code=70, report={**report, "findings": {}})
    (tmp_path / "x.log").write_text("ALARM: working on the last Unit for 20 seconds")
    [problem] = hung.problems
    assert "ended with 70 after 5 inputs" in problem and "ALARM" in problem


@pytest.mark.slow
def test_the_guided_run(tmp_path: Path) -> None:
    runs = fuzz.fuzz(2_000, 3, tmp_path / "fuzz", ("structured", "state"), console=Console(quiet=True))
    assert [run.target for run in runs] == ["structured", "state"]
    assert [run.problems for run in runs] == [[], []]
    assert sum(run.report["n"] for run in runs) == 2_000
    # It finds its way to accepted events of other kinds than its seeds' neighbours, and to what is refused within.
    assert len(runs[0].report["outcomes"]) > 15 and len(runs[1].report["outcomes"]) >= 3
