"""From a fetched copy of a section or slide to what it says: the signatures, and how much tissue they rest on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from oncotwin.adapters.arrays.engine import Engine
from oncotwin.spatial.signature import Signature


@dataclass(frozen=True, slots=True)
class Findings:
    """What was read off a section or slide.

    Attributes:
        signatures: all of them.
        n_independent: pieces of tissue that are not alike: squares that intervals are drawn from.
    """

    signatures: Sequence[Signature]
    n_independent: float


Reader = Callable[[Path, Path], Findings]
"""Reads a checked copy (first path) and may write tables and maps into a folder that does not exist yet (second)."""


def read_section(section: Path, out: Path, engine: Engine | None = None) -> Findings:
    """All signatures of a section; its blocks one after the other without an engine.

    Raises:
        ArrayError: it cannot be read.
    """
    from oncotwin.adapters.arrays.section_signatures import section_signatures

    found = section_signatures(section, out, engine_run=None if engine is None else engine.run)
    settings = json.loads((out / "summary.json").read_text(encoding="utf-8"))["settings"]
    squares = found.n_kept * float(settings["cell_um2"]) / float(settings["square_um"]) ** 2
    return Findings(found.signatures, max(1.0, squares))


def read_slide(slide: Path, out: Path, engine: Engine | None = None) -> Findings:
    """All signatures of a slide.

    Raises:
        ArrayError: it cannot be read.
    """
    from oncotwin.adapters.arrays.slide_signatures import slide_signatures
    from oncotwin.spatial.slide_estimates import SQUARE_UM

    found = slide_signatures(slide, out, engine=engine)
    area = next((one.value for one in found.signatures if one.name == "tissue.area"), 0.0)
    return Findings(found.signatures, max(1.0, area / SQUARE_UM**2))


def readers_on(engine: Engine | None) -> dict[str, Reader]:
    """Who reads the array of each kind of event, with the workers of an engine."""
    return {
        "omics.section": partial(read_section, engine=engine), "pathology.wsi": partial(read_slide, engine=engine),
    }  # fmt: skip
