"""From an imported slide to its signatures: a table of its nuclei, every scalar signature, and maps.

    out/nuclei.parquet  one row a nucleus: x_um and y_um from the slide's upper left corner, area_um2, eccentricity,
                        intensity (mean optical density of haematoxylin), usable (false on ink, blur and folds)
    out/summary.json    what was read and kept out, settings, all signatures with unit and interval
    out/maps.zarr       OME-Zarr images of density and size of nuclei, stains, focus, ink and classes

A slide is read tile by tile and held nowhere as a whole. No result depends on the tiles or on who works on them.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from oncotwin.adapters.arrays.section_signature_maps import SectionMap, write_maps
from oncotwin.adapters.arrays.slide_signature_nuclei import NucleiSpool, write_nuclei
from oncotwin.adapters.arrays.slide_signature_passes import SlideModels, cut_tiles, fit_models, measure_slide
from oncotwin.adapters.arrays.slide_store import StoredSlide, open_slide
from oncotwin.domain.claim import ArrayError
from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial.blocks import Run
from oncotwin.spatial.signature import Signature
from oncotwin.spatial.slide_border import border_signatures
from oncotwin.spatial.slide_estimates import CLASS_NAMES, QUALITY_NAMES, SQUARE_UM, estimate_slide
from oncotwin.spatial.slide_grid import make_slide_grid
from oncotwin.spatial.slide_maps import (
    GLASS,
    USABLE,
    CellRule,
    add_cells,
    cell_pixels,
    cell_quality,
    classify_cells,
    empty_map,
    focus,
    mean_nucleus_um2,
    mean_stain,
    nuclei_per_mm2,
    pen_share,
    tissue_share,
)
from oncotwin.spatial.slide_nuclei import NucleiRule

IntArray = NDArray[np.int64]
ByteArray = NDArray[np.uint8]

SCHEMA = "org.oncotwin.signatures.v1"
TILE_PIXELS = 4_096
CELL_UM = 50.0


class Runs(Protocol):
    """What an engine is asked for."""

    def run(self, step: str, fingerprint: str = "") -> Run:
        """How to apply a function to all blocks of a step."""
        ...


@dataclass(frozen=True, slots=True)
class SlideSummary:
    """What was found of a slide; the files say the rest.

    Attributes:
        folder: with ``nuclei.parquet``, ``summary.json`` and ``maps.zarr``.
        name: of the slide.
        n_nuclei, n_usable: nuclei in the table, and those where the slide is usable.
        refused: map cells that were kept out, by reason.
        abstained: what is not said, and why.
        signatures: all of them.
    """

    folder: Path
    name: str
    n_nuclei: int
    n_usable: int
    refused: Mapping[str, int]
    abstained: Mapping[str, str]
    signatures: tuple[Signature, ...]


def slide_signatures(
    slide: Path,
    out: Path,
    *,
    tile: int = TILE_PIXELS,
    engine: Runs | None = None,
    seed: int = 0,
    rule: NucleiRule | None = None,
    cell_rule: CellRule | None = None,
) -> SlideSummary:
    """All signatures of a slide.

    Args:
        slide: OME-Zarr as `import_slide` writes it; anybody's is checked before it is opened.
        out: folder to make; it appears when it is whole.
        tile: raw pixels along a tile; nothing but time and memory depends on it.
        engine: applies functions to blocks, and keeps finished ones; None for one after the other.
        seed: of all draws.
        rule: what counts as a nucleus.
        cell_rule: what tells usable from unusable tissue, and its classes.
    Raises:
        ArrayError: the slide cannot be read, does not say how large its pixels are, or holds no usable tissue; nothing
            is left behind.
        FileExistsError: `out` is there already.
    """
    if out.exists():
        raise FileExistsError(f"{out} is there already; remove it, or name another folder")
    stored = open_slide(slide)
    out.parent.mkdir(parents=True, exist_ok=True)
    mark = f".{out.name}.nuclei-"
    for left in out.parent.glob(f"{mark}*"):
        # Of a run that was killed: its finished blocks lie with the engine.
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=mark) as scratch, ExitStack() as held:
        try:
            partial = Path(scratch, "signatures")
            partial.mkdir()
            choices = _Choices(tile, seed, rule or NucleiRule(), cell_rule or CellRule())
            spool = held.enter_context(NucleiSpool(Path(scratch, "spool")))
            made = _measured(stored, spool, _runs(engine, stored), choices)
            summary = _written(partial, slide.name, stored, made, spool, choices)
        except ConfigurationError as error:
            raise ArrayError("unfit_slide", str(error), slide.name, "see the message") from error
        os.replace(partial, out)
    return SlideSummary(
        out, slide.name, summary["n_nuclei"], summary["n_usable"], summary["refused"], summary["abstained"],
        tuple(made.signatures),
    )  # fmt: skip


def _runs(engine: Runs | None, stored: StoredSlide) -> Callable[[str], Run]:
    if engine is None:
        return lambda step: map
    return lambda step: engine.run(step, stored.fingerprint)


@dataclass(frozen=True, slots=True)
class _Choices:
    tile: int
    seed: int
    rule: NucleiRule
    cell_rule: CellRule


@dataclass(frozen=True, slots=True)
class _Made:
    """What was measured: the models, the map of the whole slide and what follows from it."""

    models: SlideModels
    n_patches: int
    values: IntArray
    quality: ByteArray
    classes: ByteArray
    signatures: list[Signature]
    abstained: dict[str, str]


def _measured(stored: StoredSlide, spool: NucleiSpool, run_of: Callable[[str], Run], choices: _Choices) -> _Made:
    grid = make_slide_grid(stored.shape, stored.um_per_pixel)
    cell = cell_pixels(grid, CELL_UM)
    tissue, stains, n_patches = fit_models(stored, grid, run_of("glass and stains"), choices.seed)
    models = SlideModels(grid, tissue, stains, choices.rule, cell)
    values = empty_map(grid, cell)
    tiles = cut_tiles(stored, grid, choices.rule, choices.tile)
    for found in measure_slide(tiles, models, run_of("nuclei and maps")):
        spool.add(found.nuclei)
        add_cells(values, found.cells)
    quality, classes = cell_quality(values, choices.cell_rule), classify_cells(values, grid, choices.cell_rule)
    signatures = estimate_slide(values, classes, quality, grid, cell, choices.cell_rule, choices.seed)
    border, why_not = border_signatures(values, grid, cell, choices.cell_rule, choices.seed)
    abstained = {"interface": why_not} if why_not else {}
    # The stains can be told apart by the usual vectors, only less well.
    abstained |= {"stains of this slide": stains.reason} if stains.reason else {}
    abstained |= {} if tissue.glass_found else {"white of the glass": "too little glass was seen; 240 was taken"}
    return _Made(models, n_patches, values, quality, classes, signatures + border, abstained)


def _written(
    folder: Path, name: str, stored: StoredSlide, made: _Made, spool: NucleiSpool, choices: _Choices
) -> dict[str, Any]:
    """Write all files; returns the summary."""
    models = made.models
    grid, cell = models.grid, models.cell
    n_usable = write_nuclei(folder / "nuclei.parquet", spool, grid, made.quality, cell)
    _write_maps(folder / "maps.zarr", name, stored, made)
    refused = {
        f"{reason.replace('_', ' ')} (map cells)": n
        for code, reason in QUALITY_NAMES.items()
        if (n := int(np.count_nonzero(made.quality == code)))
    }
    summary = {
        "schema": SCHEMA, "kind": "slide", "name": name, "um_per_pixel": [stored.um_per_pixel] * 2,
        "shape": list(stored.shape), "n_nuclei": spool.n_nuclei, "n_usable": n_usable, "refused": refused,
        "abstained": made.abstained,
        "settings": {
            "seed": choices.seed, "working_pixel_um": grid.pixel_um, "map_cell_um": cell * grid.pixel_um,
            "square_um": SQUARE_UM, "patches": made.n_patches, "white": list(models.tissue.white),
            "tissue_od": models.tissue.threshold_od, "stains": models.stains.source,
            "stain_vectors": models.stains.vectors.tolist(), "nuclei": asdict(choices.rule),
            "cells": asdict(choices.cell_rule),
        },
        "signatures": [one.as_json() for one in made.signatures],
    }  # fmt: skip
    text = json.dumps(summary, ensure_ascii=False, allow_nan=False, indent=1)
    (folder / "summary.json").write_text(text + "\n", encoding="utf-8")
    return summary


def _write_maps(out: Path, name: str, stored: StoredSlide, made: _Made) -> None:
    """Maps of the whole slide: numbers are NaN without tissue, classes -1 on glass and where it is unusable."""
    values, grid, cell_um = made.values, made.models.grid, made.models.cell * made.models.grid.pixel_um
    shape = values.shape[:2]
    # In the slide's own coordinates, where a pixel's place is that of its centre.
    y, x = (start + (cell_um - stored.um_per_pixel) / 2 for start in stored.origin_um)
    cells = np.arange(math.prod(shape), dtype=np.int32).reshape(shape)
    classes = np.full(shape, -1, np.int16)
    for at, code in enumerate(CLASS_NAMES):
        classes[made.classes == code] = at
    quality = np.where((made.classes == GLASS) & (made.quality == USABLE), -1, made.quality.astype(np.int16))
    maps: dict[str, tuple[NDArray[Any], str]] = {
        "nuclei_density": (nuclei_per_mm2(values, grid), "/mm2"),
        "nucleus_area": (mean_nucleus_um2(values, grid), "um2"),
        "haematoxylin": (mean_stain(values, "haematoxylin"), "1"),
        "eosin": (mean_stain(values, "eosin"), "1"),
        "tissue": (tissue_share(values), "1"),
        "focus": (focus(values), "1"),
        "pen": (pen_share(values), "1"),
        "quality": (quality, "1"),
        "class": (classes, "1"),
    }
    flat = {key: (image.ravel(), unit) for key, (image, unit) in maps.items()}
    write_maps(out, SectionMap(cell_um, (x, y), cells), flat, name)
