"""Sections imported: whatever the layout of the input, one AnnData-Zarr comes out, or a reason why not."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from oncotwin.adapters.arrays.anndata_zarr import SectionWriter, StoredSection
from oncotwin.adapters.arrays.section_blocks import RowCheck, SectionSource, check_genes
from oncotwin.adapters.arrays.section_tables import BLOCK_ROWS, read_cell_table, read_spot_table
from oncotwin.adapters.arrays.section_visium import is_visium, read_visium
from oncotwin.adapters.arrays.zarr_check import check_zarr
from oncotwin.domain.claim import ArrayError

Progress = Callable[[int], None]
"""Called with the rows written so far."""


@dataclass(frozen=True, slots=True)
class ImportedSection:
    """What was written."""

    n_rows: int
    n_genes: int
    total_counts: int
    platform: str
    um_per_unit: float
    """Micrometres per unit of the input's coordinates."""
    left_out: tuple[str, ...]
    """Parts of the input that were not read."""


def import_section(
    source: Path,
    out: Path,
    um_per_unit: float | None = None,
    *,
    only: Mapping[str, str] | None = None,
    expected_genes: frozenset[str] | None = None,
    progress: Progress | None = None,
) -> ImportedSection:
    """Turn a section into AnnData-Zarr.

    Args:
        source: a count table of spots by genes (`ST-cnts/A1.tsv.gz`), a folder of 10x Visium, an AnnData-Zarr, or a
            table of cells with coordinates.
        out: the folder to make; it appears when it is whole.
        um_per_unit: micrometres per unit of the coordinates (pitch of the array, size of a pixel); without it the
            input must say it.
        only: rows to keep of a table of cells, as value by column.
        expected_genes: at least one of them must be there, unless the section has no genes at all.
        progress: told after each block.
    Returns:
        Size and provenance. Memory: one shard of each array (some 100 MB), 16 bytes a row, and the spots' places.
    Raises:
        ArrayError: says what is wrong and in which row; nothing is left behind.
        FileExistsError: `out` is there already.
    """
    if um_per_unit is not None and not 0 < um_per_unit < 1e6:
        raise ArrayError("bad_pixel_size", f"{um_per_unit} um is no size of a unit", source.name, "give micrometres")
    if out.exists():
        raise FileExistsError(f"{out} is there already; remove it, or name another folder")
    found = open_source(source, only)
    check_genes(found, expected_genes if found.genes else None)
    scale = um_per_unit if um_per_unit is not None else found.um_per_unit
    if scale is None:
        raise ArrayError(
            "no_pixel_size", "the input does not say how far its units are apart", found.where,
            "give the pitch or the size of a pixel in micrometres",
        )  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        partial = Path(scratch, "section")
        check = RowCheck(found.where, len(found.genes))
        writer = SectionWriter(partial, found.genes, found.gene_names, found.column_is_text)
        for block in found.blocks:
            check.check(block)
            writer.append(block, scale)
            if progress is not None:
                progress(check.n_rows)
        check.finish()
        writer.close({"platform": found.platform, "um_per_unit": scale, "source": found.where})
        os.replace(partial, out)
    return ImportedSection(
        check.n_rows, len(found.genes), check.total, found.platform, scale, tuple(found.left_out)
    )  # fmt: skip


def open_source(source: Path, only: Mapping[str, str] | None = None) -> SectionSource:
    """Find out how a section is laid out, and open it.

    Raises:
        ArrayError: `unknown_layout`, or what its reader raises.
    """
    if source.is_dir():
        if is_visium(source):
            return read_visium(source)
        if any((source / name).is_file() for name in ("zarr.json", ".zgroup")):
            return read_stored(source)
        if (source / "ST-cnts").is_dir():
            sections = _sections(source)
            raise ArrayError(
                "several_sections", f"holds {len(sections)} sections", source.name, f"name one: {sections[0]}"
            )
    elif source.is_file():
        with_counts = source.parent.name == "ST-cnts"
        if {".tsv", ".csv", ".txt"} & set(source.suffixes):
            return read_spot_table(source) if with_counts else read_cell_table(source, only)
    else:
        raise ArrayError("not_found", "is not there", source.name, "name a folder or a file")
    raise ArrayError(
        "unknown_layout", "has none of the known layouts", source.name,
        "send a Space Ranger folder, an AnnData-Zarr, ST-cnts/NAME.tsv.gz, or a table of cells",
    )  # fmt: skip


def read_stored(folder: Path) -> SectionSource:
    """An AnnData-Zarr of anybody's, checked before it is opened.

    Raises:
        ArrayError: see `check_zarr` and `StoredSection`.
    """
    check_zarr(folder)
    stored = StoredSection(folder)
    text = dict.fromkeys(stored.text_columns(), True) | dict.fromkeys(stored.number_columns(), False)
    platform = stored.said("platform")
    # Our own are in micrometres already.
    scale = 1.0 if stored.said("um_per_unit") is not None else None
    return SectionSource(
        folder.name, platform if isinstance(platform, str) else "AnnData", stored.genes, stored.gene_names, text,
        scale, stored.blocks(BLOCK_ROWS), stored.left_out_columns(),
    )  # fmt: skip


def _sections(folder: Path) -> Sequence[str]:
    return sorted(f"ST-cnts/{path.name}" for path in (folder / "ST-cnts").iterdir()) or [""]
