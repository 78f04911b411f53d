"""The ledger of the fault programmes: a line a run, or a line a seed where a run takes hours; those of a commit add up.

A line is {"commit", "programme" ("simulated" or "real"), "seeds": how many, "first", "failures": [[seed, what]],
"coverage": {"a -> b": crashes between the steps a and b}, "kinds": {kind: seeds}, "seconds"}.
"""

from __future__ import annotations

import json
import subprocess
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LEDGER = ROOT / "var" / "faults-ledger.jsonl"
WHAT_RUNS = ("platform", "flows", "services", "tests/faults", "requirements.lock")
"""A commit of documents, figures or other tests alone does not begin a new sum."""

Pair = tuple[str, str]


@dataclass
class Sum:
    """What runs of one programme on one commit found together."""

    seeds: int = 0
    failures: list[tuple[int, str]] = field(default_factory=list)
    coverage: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)


def commit() -> str:
    """The last commit that touched what runs, with a mark where that is not what was committed."""
    name = _git("log", "-1", "--format=%h", "--abbrev=12", "--", *WHAT_RUNS) or "unknown"
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", *WHAT_RUNS)
    return f"{name}+changes" if changed else name


def write(
    programme: str, first: int, seeds: int, failures: Sequence[tuple[int, str]], coverage: Mapping[Pair, int],
    kinds: Mapping[str, int], seconds: float, path: Path = LEDGER, of_commit: str | None = None,
) -> None:
    """Add a run."""
    line = {
        "commit": of_commit or commit(), "programme": programme, "first": first, "seeds": seeds,
        "failures": [[seed, what] for seed, what in failures],
        "coverage": {f"{a} -> {b}": n for (a, b), n in coverage.items() if n}, "kinds": dict(kinds),
        "seconds": round(seconds, 1),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as ledger:
        ledger.write(json.dumps(line) + "\n")


def sums(path: Path = LEDGER) -> dict[tuple[str, str], Sum]:
    """By commit and programme, in the order of the ledger."""
    found: dict[tuple[str, str], Sum] = defaultdict(Sum)
    for text in path.read_text().splitlines() if path.exists() else ():
        line: dict[str, Any] = json.loads(text)
        one = found[line["commit"], line["programme"]]
        one.seeds += int(line["seeds"])
        one.failures += [(seed, what) for seed, what in line["failures"]]
        one.coverage.update(line["coverage"])
        one.kinds.update(line.get("kinds", {}))
    return dict(found)


def print_sums(pairs: Sequence[Pair], path: Path = LEDGER) -> None:
    """Print them, with the pairs of steps that no run has hit."""
    for (name, programme), one in sums(path).items():
        names = [f"{a} -> {b}" for a, b in pairs]
        missed = [pair for pair in names if not one.coverage[pair]]
        print(
            f"{name} {programme}: {one.seeds} seeds, {len(one.failures)} failed, "
            f"{len(names) - len(missed)} of {len(names)} pairs of steps hit"
            + (f"; not {', '.join(missed)}" if missed else "")
        )


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
