"""The engine: order, few blocks in flight, the same on threads and processes, and on after a kill."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from oncotwin.adapters.arrays.engine import IN_FLIGHT, open_engine
from oncotwin.domain.claim import ArrayError
from oncotwin.domain.errors import ConfigurationError

N_BLOCKS = 24
ROOT = Path(__file__).parents[2]


def noted(block: tuple[str, int]) -> NDArray[np.float64]:
    """Slow work that leaves a note of having been done."""
    folder, number = block
    time.sleep(0.05)
    Path(folder, f"{number}.{os.getpid()}.{time.monotonic_ns()}").touch()
    return np.random.default_rng(number).standard_normal(1000)


def run_all(notes: str, scratch: str) -> list[NDArray[np.float64]]:
    """All blocks of one step, kept in a folder."""
    with open_engine(2, scratch=Path(scratch)) as engine:
        return list(engine.run("work", "input 1")(noted, [(notes, number) for number in range(N_BLOCKS)]))


def refuse(block: int) -> int:
    if block == 3:
        raise ArrayError("too_large", "block 3 is too large", "here", "make it smaller")
    return block


@pytest.mark.parametrize("n_workers", [1, 4])
@pytest.mark.parametrize("processes", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_results_come_in_order_whoever_works(n_workers: int, processes: bool) -> None:
    with open_engine(n_workers, processes=processes) as engine:
        assert engine.n_workers == n_workers
        assert engine.dashboard == "" or engine.dashboard.startswith("http://127.0.0.1:")
        assert list(engine.run("one")(math.factorial, range(40))) == [math.factorial(n) for n in range(40)]
        assert list(engine.run("two")(sum, [[n, [1][0]] for n in range(5)])) == [1, 2, 3, 4, 5]
        assert list(engine.run("none")(math.factorial, [])) == []


@pytest.mark.parametrize("n_workers", [1, 3])
def test_few_blocks_are_in_flight(n_workers: int) -> None:
    n_asked = n_taken = most = 0

    def blocks() -> Iterator[int]:
        nonlocal n_asked, most
        for number in range(60):
            n_asked += 1
            most = max(most, n_asked - n_taken)
            yield number

    with open_engine(n_workers) as engine:
        for result in engine.run("work")(math.factorial, blocks()):
            assert result == math.factorial(n_taken)
            n_taken += 1
    assert n_taken == 60
    # One more has been asked for when the first of those in flight is waited for.
    assert most == IN_FLIGHT * n_workers + 1


def test_an_error_comes_out_whole_and_the_engine_goes_on() -> None:
    with open_engine(2) as engine:
        with pytest.raises(ArrayError, match="block 3 is too large") as raised:
            list(engine.run("work")(refuse, range(40)))
        assert (raised.value.reason_code, raised.value.remedy) == ("too_large", "make it smaller")
        assert list(engine.run("again")(math.factorial, [3])) == [6]


def test_a_step_that_is_left_early_leaves_nothing_under_way() -> None:
    with open_engine(2) as engine:
        results = iter(engine.run("work")(math.factorial, iter(range(10**9))))
        assert next(results) == 1
        results.close()  # type: ignore[attr-defined]
        assert list(engine.run("again")(math.factorial, [3])) == [6]


def notes_of(folder: Path) -> list[int]:
    return sorted(int(path.name.split(".")[0]) for path in folder.iterdir())


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("n_done", [1, 9])
def test_killed_and_started_again(tmp_path: Path, n_done: int) -> None:
    notes, scratch = tmp_path / "notes", tmp_path / "scratch"
    notes.mkdir()
    code = f"from tests.integration.test_arrays_engine import run_all; run_all({str(notes)!r}, {str(scratch)!r})"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(ROOT)])}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, cwd=ROOT) as first:
        while len(list(scratch.glob("*.block"))) < n_done and first.poll() is None:
            time.sleep(0.01)
        first.send_signal(signal.SIGKILL)
    n_kept = len(list(scratch.glob("*.block")))
    assert n_done <= n_kept < N_BLOCKS
    before = notes_of(notes)
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, check=True)
    assert len(notes_of(notes)) - len(before) == N_BLOCKS - n_kept
    assert sorted(set(notes_of(notes))) == list(range(N_BLOCKS))


def test_kept_results_are_taken_to_the_bit(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    scratch = str(tmp_path / "scratch")
    made, again = run_all(str(notes), scratch), run_all(str(notes), scratch)
    assert notes_of(notes) == list(range(N_BLOCKS))
    for one, other in zip(made, again, strict=True):
        assert one.tobytes() == other.tobytes()


def test_what_was_damaged_or_belongs_elsewhere_is_computed_anew(tmp_path: Path) -> None:
    notes, scratch = tmp_path / "notes", tmp_path / "scratch"
    notes.mkdir()
    made = run_all(str(notes), str(scratch))
    first, second, third = sorted(scratch.iterdir())[:3]
    first.write_bytes(first.read_bytes()[:-1])
    second.write_bytes(third.read_bytes())
    third.write_bytes(b"")
    again = run_all(str(notes), str(scratch))
    assert len(notes_of(notes)) == N_BLOCKS + 3
    assert all(np.array_equal(one, other) for one, other in zip(made, again, strict=True))
    assert len(list(scratch.iterdir())) == N_BLOCKS


def test_another_input_step_or_nothing_said_is_computed_anew(tmp_path: Path) -> None:
    notes, scratch = tmp_path / "notes", tmp_path / "scratch"
    notes.mkdir()
    blocks = [(str(notes), number) for number in range(2)]
    with open_engine(1, scratch=scratch) as engine:
        for step, fingerprint in (("a", "1"), ("a", "2"), ("b", "1"), ("a", "1"), ("a", ""), ("a", "")):
            list(engine.run(step, fingerprint)(noted, blocks))
        assert notes_of(notes) == [0] * 5 + [1] * 5
        engine.discard()
        assert not scratch.exists()


def test_what_cannot_be_done_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="at least one"), open_engine(0):
        pass
    tmp_path.chmod(0o777)
    with pytest.raises(ConfigurationError, match="written to by others"), open_engine(1, scratch=tmp_path):
        pass
