"""One process that feeds one target, guided by the code that its inputs reach; writes down what it met.

It has little more memory than it needs to begin with, so that an input that asks for much is met as an error.
"""

from __future__ import annotations

import faulthandler
import hashlib
import importlib
import importlib.util
import json
import os
import pkgutil
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults.fuzz_mutation import mutate

CORPUS = Path(__file__).parent / "corpus"
MAX_BYTES = 80_000
"""A little more than an event may have."""
LONGEST_S = 20.0
"""An input that takes longer hangs; on an idle machine the slowest takes a hundredth of this."""
_MORE_BYTES = 512 * 1024 * 1024
_MOST_FINDINGS = 20
_WRITE_EVERY_S = 0.5
_SHOWN_OUTCOMES = 10_000
_COMPILED = ("oncotwin.filters", "oncotwin.models")
"""Packages of compiled kernels: they are imported first, because code that is watched cannot be compiled."""


class Recorder:
    """Runs a target on inputs and keeps what came of it.

    Args:
        report: file of the findings, as JSON.
    """

    def __init__(self, run: Callable[[bytes], str], n_wanted: int, report: Path) -> None:
        self._run = run
        self._n_wanted = n_wanted
        self._report = report
        self._outcomes: Counter[str] = Counter()
        self._findings: dict[str, dict[str, str]] = {}
        self._n = 0
        self._slowest = (0.0, b"")
        self._begun = time.monotonic()
        self._written_at = 0.0

    def take(self, data: bytes) -> None:
        """One input; ends the process when there were enough."""
        begun = time.monotonic()
        try:
            outcome = self._run(data)
        except Exception as error:  # that is what is looked for
            outcome = f"UNDOCUMENTED {type(error).__name__}"
            self._note(data, error)
        now = time.monotonic()
        if now - begun > self._slowest[0]:
            self._slowest = (now - begun, data)
        if outcome in self._outcomes or len(self._outcomes) < _SHOWN_OUTCOMES:
            self._outcomes[outcome] += 1
        self._n += 1
        done = self._n >= self._n_wanted or len(self._findings) >= _MOST_FINDINGS
        if done or now - self._written_at > _WRITE_EVERY_S:
            self._written_at = now
            self.write()
        if done:
            # The guide never gives back control.
            sys.stdout.flush()
            os._exit(0)

    def _note(self, data: bytes, error: Exception) -> None:
        """One finding a place in the code; the input lies beside the report."""
        frames = traceback.extract_tb(error.__traceback__)
        place = f"{type(error).__name__} at {Path(frames[-1].filename).name}:{frames[-1].lineno}"
        if place in self._findings:
            return
        name = hashlib.sha256(data).hexdigest()[:16]
        path = self._report.with_name(f"{self._report.stem}-{name}")
        path.write_bytes(data)
        self._findings[place] = {"input": str(path), "trace": "".join(traceback.format_exception(error))}

    def write(self) -> None:
        """The report so far, whole or not at all."""
        seconds, data = self._slowest
        content: dict[str, Any] = {
            "n": self._n, "outcomes": dict(self._outcomes), "findings": self._findings, "slowest_s": seconds,
            "slowest_bytes": len(data), "seconds": time.monotonic() - self._begun,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0,
        }
        fresh = self._report.with_suffix(".new")
        fresh.write_text(json.dumps(content))
        fresh.replace(self._report)


def bound_memory() -> None:
    """From here on the process may grow by half a gibibyte."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (size + _MORE_BYTES, size + _MORE_BYTES))


def guided(name: str, n: int, seed: int, report: Path) -> None:
    """Feed a target by atheris: what reaches new code is changed further."""
    import atheris

    for package in _COMPILED:
        for module in pkgutil.iter_modules(importlib.import_module(package).__path__, f"{package}."):
            importlib.import_module(module.name)
    with atheris.instrument_imports(include=["oncotwin", "oncotwin_flows"]):
        from tests.faults.fuzz_targets import TARGETS
    recorder = Recorder(TARGETS[name], n, report)
    grown = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=report.parent))
    shutil.copytree(CORPUS / name, grown, dirs_exist_ok=True)
    kept = seeds(name)

    def mutator(data: bytes, max_size: int, number: int) -> bytes:
        rng = random.Random(number)
        if rng.random() < 0.15:
            return bytes(atheris.Mutate(data, max_size))
        return mutate(data, rng, rng.choice(kept))[:max_size]

    bound_memory()
    atheris.Setup(
        [
            name, f"-seed={seed}", f"-runs={10 * n}", f"-max_len={MAX_BYTES}", "-mutate_depth=2",
            f"-timeout={round(LONGEST_S)}", "-rss_limit_mb=0", "-verbosity=0",
            f"-artifact_prefix={report.with_suffix('')}-", str(grown),
        ],
        recorder.take, custom_mutator=mutator,
    )
    atheris.Fuzz()


def unguided(name: str, n: int, seed: int, report: Path) -> None:
    """Feed a target with changes at random, for systems that atheris is not made for."""
    from tests.faults.fuzz_targets import TARGETS

    recorder, kept, rng = Recorder(TARGETS[name], n, report), seeds(name), random.Random(seed)
    for data in kept:
        recorder.take(data)
    while True:
        faulthandler.dump_traceback_later(LONGEST_S, exit=True)
        recorder.take(mutate(rng.choice(kept), rng, rng.choice(kept))[:MAX_BYTES])


def seeds(name: str) -> list[bytes]:
    """Good inputs of a target."""
    return [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]


def main() -> None:
    """NAME N SEED REPORT."""
    name, n, seed, report = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    feed = guided if importlib.util.find_spec("atheris") is not None else unguided
    feed(name, n, seed, report)


if __name__ == "__main__":
    main()
