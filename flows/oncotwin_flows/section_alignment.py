"""Sections of several institutions, runs or patients laid over each other, from folders of `oncotwin signatures`."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial.alignment import SectionAlignment, align_sections
from oncotwin.spatial.gene_sets import gene_sets

SCHEMA = "org.oncotwin.alignment.v1"


@dataclass(frozen=True)
class Spots:
    """Spots that were kept of all sections, one after the other.

    Attributes:
        names: of the sections.
        sets: gene sets that all of them have.
        ids: of the spots.
        shares: (n, n_sets).
        sections, classes: (n,) numbers; -1 for a spot without a class.
        labels: of the classes.
    """

    names: tuple[str, ...]
    sets: tuple[str, ...]
    ids: tuple[str, ...]
    shares: NDArray[np.float64]
    sections: NDArray[np.int64]
    classes: NDArray[np.int64]
    labels: tuple[str, ...]


def read_spots(folders: Sequence[Path], column: str = "region") -> Spots:
    """The spots of all folders.

    Args:
        folders: of `oncotwin signatures`, one a section.
        column: of ``cells.parquet``, the class of tissue of a spot.
    Raises:
        ConfigurationError: a folder holds no table of spots, not that column or no classes in it, or no gene set that
            all of them have.
    """
    tables = [_table(folder) for folder in folders]
    names = tuple(folder.name.removesuffix(".signatures") for folder in folders)
    if len(set(names)) < len(names):
        raise ConfigurationError(f"two of the folders have one name ({', '.join(names)}); rename one")
    for folder, table in zip(folders, tables, strict=True):
        if column not in table.column_names:
            raise ConfigurationError(f"{folder} has no column '{column}'; name one of {', '.join(table.column_names)}")
        if pa.types.is_floating(table.schema.field(column).type):
            raise ConfigurationError(f"column '{column}' of {folder} holds measures, no classes; name another")
    common = [name for name in gene_sets() if all(name in t.column_names for t in tables)]
    if not common:
        raise ConfigurationError("the sections have no gene set in common; sections without counts cannot be aligned")
    ids, shares, sections, labels = list[str](), [], [], list[str]()
    for number, table in enumerate(tables):
        values = np.column_stack([table[name].to_numpy() for name in common]).astype(np.float64)
        kept = table["kept"].to_numpy(zero_copy_only=False).astype(bool) & np.isfinite(values).all(axis=1)
        shares.append(values[kept])
        sections.append(np.full(int(kept.sum()), number))
        ids += [str(one) for one, good in zip(table["id"].to_pylist(), kept, strict=True) if good]
        labels += [_text(one) for one, good in zip(table[column].to_pylist(), kept, strict=True) if good]
    known = sorted(set(labels) - {""})
    place = {label: number for number, label in enumerate(known)}
    classes = np.array([place.get(label, -1) for label in labels], dtype=np.int64)
    return Spots(
        names, tuple(common), tuple(ids), np.concatenate(shares), np.concatenate(sections).astype(np.int64), classes,
        tuple(known),
    )  # fmt: skip


def align_folders(folders: Sequence[Path], out: Path, column: str, seed: int) -> tuple[Spots, SectionAlignment]:
    """Align, and write ``aligned.parquet`` and ``summary.json``.

    Args:
        folders: of `oncotwin signatures`.
        out: folder to make; it appears when it is whole.
        column: class of tissue of a spot.
        seed: of the alignment.
    Raises:
        ConfigurationError: `out` is there already, or as `read_spots` and `align_sections` raise.
    """
    if out.exists():
        raise ConfigurationError(f"{out} is there already; remove it, or name another folder")
    spots = read_spots(folders, column)
    made = align_sections(spots.shares, spots.sections, spots.classes, seed)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        partial = Path(scratch, "alignment")
        partial.mkdir()
        _write(partial, spots, made, column, seed)
        os.replace(partial, out)
    return spots, made


def _write(folder: Path, spots: Spots, made: SectionAlignment, column: str, seed: int) -> None:
    columns: dict[str, pa.Array] = {
        "section": pa.array([spots.names[one] for one in spots.sections.tolist()]), "id": pa.array(spots.ids),
        "class": pa.array([spots.labels[one] if one >= 0 else None for one in spots.classes.tolist()], pa.string()),
    }  # fmt: skip
    for name, points in (("before", made.before), ("aligned", made.after)):
        columns |= {f"{name}_{k + 1}": pa.array(points[:, k]) for k in range(points.shape[1])}
    columns |= {
        name: pa.array(getattr(made, name)) for name in ("ilisi_before", "ilisi_after", "clisi_before", "clisi_after")
    }
    pq.write_table(pa.table(columns), folder / "aligned.parquet", compression="snappy")
    summary = {
        "schema": SCHEMA, "sections": list(spots.names), "n_spots": len(spots.ids), "gene_sets": list(spots.sets),
        "class_column": column, "classes": list(spots.labels), "seed": seed, "converged": made.converged,
        "signatures": [one.as_json() for one in made.signatures],
    }  # fmt: skip
    text = json.dumps(summary, ensure_ascii=False, allow_nan=False, indent=1)
    (folder / "summary.json").write_text(text + "\n", encoding="utf-8")


def _table(folder: Path) -> pa.Table:
    try:
        return pq.read_table(folder / "cells.parquet")
    except (OSError, pa.ArrowException) as error:
        raise ConfigurationError(f"{folder} holds no table of spots ({error}); run `oncotwin signatures`") from None


def _text(value: object) -> str:
    return "" if value is None or value == "" else str(value)
