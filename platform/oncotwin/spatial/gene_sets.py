"""The gene sets that are shipped, each with the paper it comes from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class GeneSet:
    """Genes that speak for one state or tissue.

    Attributes:
        name: such as ``hypoxia``.
        genes: approved symbols, sorted.
        source: author, year, DOI and title.
        extent: ``whole`` where it is the paper's list, ``selection`` where it is chosen from what the paper reports.
        note: what a reader of the score must know.
    """

    name: str
    genes: tuple[str, ...]
    source: str
    extent: str
    note: str


def gene_sets() -> dict[str, GeneSet]:
    """All shipped sets, by name."""
    raw = json.loads(files("oncotwin.spatial").joinpath("data/gene_sets.json").read_text(encoding="utf-8"))
    return {
        name: GeneSet(
            name, tuple(entry["genes"]), f"{entry['author']} {entry['year']}, doi:{entry['doi']}, {entry['title']}",
            entry["extent"], entry["note"],
        )
        for name, entry in raw.items()
    }
