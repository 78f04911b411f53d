"""Keeps the figures of the benchmarks: docs/benchmarks.json, one entry per name, written by the benchmark itself."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[2] / "docs"
FIGURES = DOCS / "benchmarks.json"


def record(
    name: str,
    value: float,
    unit: str,
    *,
    reference: str | float | None = None,
    ratio: float | None = None,
    bar: str | None = None,
    is_met: bool | None = None,
    command: str,
    note: str = "",
) -> None:
    """Write one figure, replacing an earlier one of the same name.

    Args:
        name: stable and unique, with slashes from the general to the particular: `log/embedded/append`.
        value: what was measured.
        unit: of the value, such as `1/s`; `1` where it has none.
        reference: what the value is held against: another program's figure, or what it is.
        ratio: value over reference, where that is the question.
        bar: what is demanded, in words: `at least 0.85`.
        is_met: whether the figure meets it, where that may be in doubt; the page says so of one that does not.
        command: what to run to measure it again.
        note: what a reader must know.
    """
    known: dict[str, Any] = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    known[name] = {
        "value": value,
        "unit": unit,
        "reference": reference,
        "ratio": ratio,
        "bar": bar,
        "is_met": is_met,
        "command": command,
        "note": note,
        "measured": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
    }
    FIGURES.parent.mkdir(exist_ok=True)
    # Written whole and renamed, so that a benchmark cut short leaves the figures of the others.
    fresh = FIGURES.with_suffix(".json.new")
    fresh.write_text(json.dumps(known, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    fresh.replace(FIGURES)


def peak_memory_mb() -> float:
    """Largest resident memory of this program so far.

    Not by getrusage: its figure outlives exec, so that a small child of a large parent would answer with the parent's.
    """
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


def machine() -> str:
    """Processor, cores, memory and Python of this machine, without its name."""
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return (
        f"{_processor()}, {len(os.sched_getaffinity(0))} cores, {memory_gb:.0f} GB, "
        f"{platform.system()}, Python {platform.python_version()}"
    )


def _processor() -> str:
    """Name of the processor where the system tells it."""
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for line in listing.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
