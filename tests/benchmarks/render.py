"""Renders docs/benchmarks.json as docs/benchmarks.md: one table per group of figures."""

from __future__ import annotations

import json
import re
from itertools import groupby
from typing import Any

from tests.benchmarks.record import DOCS, FIGURES

HEAD = """# Benchmarks

Every figure was written by the command beside it (`make bench` runs all). Bars are what was demanded before
measuring; a figure that misses its bar says so beside it.
"""


def main() -> None:
    """Write the page."""
    figures: dict[str, dict[str, Any]] = json.loads(FIGURES.read_text())
    parts = [HEAD]
    for group, names in groupby(sorted(figures), key=_group):
        parts.append(f"\n## {group}\n\n| figure | value | reference | ratio | bar | command | measured |")
        parts.append("|---|---|---|---|---|---|---|")
        machines: dict[str, int] = {}
        for name in names:
            figure = figures[name]
            mark = machines.setdefault(figure["machine"], len(machines) + 1)
            parts.append(_row(name, figure, mark))
        parts += ["", *(f"Machine {mark}: {text}." for text, mark in machines.items())]
    page = DOCS / "benchmarks.md"
    page.write_text("\n".join(parts) + "\n")
    print(f"{len(figures)} figures written to {page.relative_to(DOCS.parent)}")


def _group(name: str) -> str:
    """The first part of a figure's name."""
    return re.split(r"[./]", name)[0]


def _row(name: str, figure: dict[str, Any], mark: int) -> str:
    """One figure as a row."""
    unit = "" if figure["unit"] == "1" else f" {figure['unit']}"
    cells = [
        f"{name}<br>{figure['note']}" if figure["note"] else name,
        f"{_number(figure['value'])}{unit}",
        _number(figure["reference"]),
        _number(figure["ratio"]),
        (figure["bar"] or "") + (" **missed**" if figure.get("is_met") is False else ""),
        f"`{figure['command']}`",
        f"{figure['measured']}, machine {mark}",
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _number(value: float | str | None) -> str:
    """A number with four significant digits, thousands parted; words as they are."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


if __name__ == "__main__":
    main()
