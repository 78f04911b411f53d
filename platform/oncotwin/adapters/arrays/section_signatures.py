"""From an imported section to its signatures: a table of its cells, every scalar signature, and maps.

    out/cells.parquet   one row a row of the input, in its order: id, x and y (um), kept and why not, region, signed
                        distance, score (smoothed share of counts) and AUCell of each gene set, hotspots, niche, ...
    out/summary.json    what was read, refused and abstained from; settings; all signatures with unit and interval
    out/maps.zarr       OME-Zarr images of the scores, the mask and the signed distance

A section is read in blocks and never made dense as a whole. No result depends on the blocks or on who works on them.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from oncotwin.adapters.arrays.anndata_zarr import StoredSection
from oncotwin.adapters.arrays.section_signature_classes import section_with_classes
from oncotwin.adapters.arrays.section_signature_counts import (
    RowQuality,
    measure_rows,
    section_with_counts,
)
from oncotwin.adapters.arrays.section_signature_maps import write_maps
from oncotwin.adapters.arrays.section_signature_panel import read_panel
from oncotwin.adapters.arrays.section_signature_parts import FloatArray, SectionChoices, SectionFindings, Steps
from oncotwin.adapters.arrays.section_signature_store import MOST_ROWS, forget_sorted, stamp_of, stored_rows
from oncotwin.adapters.arrays.section_signature_table import write_cells
from oncotwin.adapters.arrays.zarr_check import check_zarr
from oncotwin.domain.claim import ArrayError
from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial.blocks import Run
from oncotwin.spatial.gene_sets import gene_sets
from oncotwin.spatial.signature import Signature

SCHEMA = "org.oncotwin.signatures.v1"
MIN_KEPT = 30
_IDS_AT_ONCE = 4096
_NO_PLACE = "no place: a coordinate is no number"


@dataclass(frozen=True, slots=True)
class SectionSummary:
    """What was found of a section; the files say the rest.

    Attributes:
        folder: with ``cells.parquet``, ``summary.json`` and ``maps.zarr``.
        name, platform: of the section.
        n_rows, n_kept: rows that were read, and those that passed quality.
        refused: how many rows were kept out, by reason.
        abstained: what is not said, and why.
        signatures: all of them.
    """

    folder: Path
    name: str
    platform: str
    n_rows: int
    n_kept: int
    refused: Mapping[str, int]
    abstained: Mapping[str, str]
    signatures: tuple[Signature, ...]


def section_signatures(
    section: Path,
    out: Path,
    *,
    n_niches: int | None = None,
    engine_run: Callable[[str], Run] | None = None,
    seed: int = 0,
    class_column: str | None = None,
    tumour_classes: tuple[str, ...] = (),
    vessel_classes: tuple[str, ...] = (),
    immune_classes: tuple[str, ...] = (),
    most_rows: int = MOST_ROWS,
) -> SectionSummary:
    """All signatures of a section.

    Args:
        section: AnnData-Zarr as `import_section` writes it; anybody's is checked before it is opened.
        out: folder to make; it appears when it is whole.
        n_niches: number of niches; None for the number with the largest Calinski-Harabasz ratio.
        engine_run: gives, for the name of a step, how a function is applied to all its blocks; None for one after the
            other. Steps have the same names in every run.
        seed: of all draws.
        class_column: text column with the cells' classes; without counts it is looked for where it is not named.
        tumour_classes: classes of that column that are tumour; without them a section with counts is divided by the
            score of the tumour set, and one without counts has no border.
        vessel_classes, immune_classes: classes of that column that are vessels and immune cells, of a section without
            counts.
        most_rows: of a block that is dense; nothing but memory depends on it.
    Raises:
        ArrayError: the section cannot be read, too few of its rows pass quality, or a choice does not fit it; nothing
            is left behind.
        FileExistsError: `out` is there already.
    """
    if out.exists():
        raise FileExistsError(f"{out} is there already; remove it, or name another folder")
    check_zarr(section)
    stored = StoredSection(section)
    choices = SectionChoices(n_niches, seed, class_column, tumour_classes, vessel_classes, immune_classes, most_rows)
    out.parent.mkdir(parents=True, exist_ok=True)
    with _scratch_of(section, out) as scratch:
        try:
            made = _find(stored, section, scratch, Steps(engine_run), choices)
        except ConfigurationError as error:
            raise ArrayError("unfit_section", str(error), section.name, "see the message") from error
        partial = scratch / "signatures"
        partial.mkdir()
        _write(partial, section.name, stored, made)
        os.replace(partial, out)
    return SectionSummary(
        out, section.name, str(stored.said("platform") or "AnnData"), stored.n_rows, len(made.found.order),
        made.refused, made.found.abstained, tuple(made.found.signatures),
    )  # fmt: skip


@contextmanager
def _scratch_of(section: Path, out: Path) -> Iterator[Path]:
    """A folder beside `out` for the cells along the curve, gone afterwards.

    A run that goes on where a killed one was finds it under the same name: the names of blocks, under which an engine
    keeps their results, hold it.
    """
    told = f"{section.resolve()} {stamp_of(section)}"
    folder = out.with_name(f".{out.name}.{hashlib.sha256(told.encode()).hexdigest()[:12]}.cells")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        forget_sorted()
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class _Made:
    """What is written."""

    found: SectionFindings
    points_um: FloatArray
    reasons: list[str]
    refused: Mapping[str, int]
    genes: Mapping[str, Any]


def _find(
    stored: StoredSection, section: Path, scratch: Path, steps: Steps, choices: SectionChoices
) -> _Made:
    points = np.concatenate(
        [np.asarray(stored.coordinate_array[i : i + MOST_ROWS, :2], np.float64) for i in _starts(stored.n_rows)]
    )
    placed = np.isfinite(points).all(axis=1)
    if not stored.n_genes:
        reasons = ["" if one else _NO_PLACE for one in placed.tolist()]
        refused = {_NO_PLACE: int((~placed).sum())} if not placed.all() else {}
        _check_kept(reasons, refused, section.name)
        found = section_with_classes(stored, np.flatnonzero(placed), points, steps, choices)
        return _Made(found, points, reasons, refused, {"n": 0, "coverage": {}, "abstained": {}})
    panel = read_panel(stored)
    rows = stored_rows(section, stored.n_rows, stored.n_genes, choices.most_rows)
    measured = measure_rows(panel, rows, steps)
    quality = RowQuality(
        measured.scores, [why if here else _NO_PLACE for why, here in zip(measured.reasons, placed, strict=True)]
    )
    _check_kept(quality.reasons, quality.refused, section.name)
    found, ordered = section_with_counts(stored, panel, quality, points, rows, scratch, steps, choices)
    genes = {
        "n": stored.n_genes, "coverage": {name: one.share for name, one in panel.coverage.items()},
        "abstained": {name: one.reason for name, one in panel.coverage.items() if one.reason},
        "sources": {name: one.source for name, one in gene_sets().items()}, "doubles": panel.n_doubles,
        "renamed": panel.n_renamed, "most_ordered": ordered,
    }
    return _Made(found, points, quality.reasons, quality.refused, genes)


def _starts(n_rows: int) -> range:
    return range(0, n_rows, MOST_ROWS)


def _check_kept(reasons: list[str], refused: Mapping[str, int], name: str) -> None:
    n_kept = sum(not reason for reason in reasons)
    if n_kept >= MIN_KEPT:
        return
    worst = max(refused, key=lambda reason: refused[reason], default="")
    why = f"; {refused[worst]} were kept out for '{worst}'" if worst else ""
    raise ArrayError(
        "too_few_cells", f"{n_kept} of {len(reasons)} rows pass quality, at least {MIN_KEPT} are needed{why}", name,
        "send a section with more tissue, or measure it again",
    )


def _write(folder: Path, name: str, stored: StoredSection, made: _Made) -> None:
    found, n_rows = made.found, stored.n_rows
    cell_of = np.full(n_rows, -1, dtype=np.int64)
    cell_of[found.order] = np.arange(len(found.order))

    def ids(first: int, end: int) -> list[str]:
        parts = range(first, end, _IDS_AT_ONCE)
        return [one for at in parts for one in stored.block(at, min(at + _IDS_AT_ONCE, end)).ids]

    def spread(values: list[str]) -> Callable[[int, int], list[str]]:
        return lambda first, end: [values[at] if at >= 0 else "" for at in cell_of[first:end].tolist()]

    texts = {"id": ids, "reason": lambda first, end: made.reasons[first:end]}
    texts |= {column: spread(values) for column, values in found.texts.items()}
    write_cells(
        folder / "cells.parquet", n_rows, cell_of, texts, found.columns,
        {"x": made.points_um[:, 0], "y": made.points_um[:, 1], "kept": cell_of >= 0},
    )
    write_maps(folder / "maps.zarr", found.grid, found.maps, name)
    platform, scale = stored.said("platform"), stored.said("um_per_unit")
    summary = {
        "schema": SCHEMA, "kind": "section", "name": name, "platform": platform or "AnnData", "um_per_unit": scale,
        "n_rows": n_rows, "n_kept": len(found.order), "refused": dict(made.refused), "abstained": found.abstained,
        "settings": found.settings, "genes": made.genes,
        "signatures": [one.as_json() for one in found.signatures],
    }
    text = json.dumps(_plain(summary), ensure_ascii=False, allow_nan=False, indent=1)
    (folder / "summary.json").write_text(text + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    """Without NaN and infinity, which JSON does not know."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
