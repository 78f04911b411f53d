"""Sections imported: whatever the layout of the input, one AnnData-Zarr comes out, or a reason why not."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from oncotwin.adapters.arrays.anndata_zarr import SectionWriter, StoredSection
from oncotwin.adapters.arrays.bounded import ProcessLimits, run_bounded
from oncotwin.adapters.arrays.section_blocks import RowCheck, SectionImage, SectionSource, check_genes
from oncotwin.adapters.arrays.section_tables import BLOCK_ROWS, read_cell_table, read_spot_table
from oncotwin.adapters.arrays.section_visium import is_visium, matrix_file, read_visium
from oncotwin.adapters.arrays.slides import import_slide, scratch_beside
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
    image: Path | None = None
    """The picture of the tissue as OME-Zarr, in the same micrometres; None where there is none."""


def import_section(
    source: Path,
    out: Path,
    um_per_unit: float | None = None,
    *,
    section: str | None = None,
    only: Mapping[str, str] | None = None,
    expected_genes: frozenset[str] | None = None,
    limits: ProcessLimits | None = None,
    progress: Progress | None = None,
) -> ImportedSection:
    """Turn a section into AnnData-Zarr, and the picture beside it, if there is one, into OME-Zarr.

    Args:
        source: a count table of spots by genes (`ST-cnts/A1.tsv.gz`) or the folder of them, a folder of 10x Visium, an
            AnnData file or AnnData-Zarr, a folder of SpatialData or one of its tables, or a table of cells.
        out: the folder to make; it appears when it is whole. The picture goes to `NAME.image.zarr` beside it.
        um_per_unit: micrometres per unit of the coordinates (pitch of the array, size of a pixel); without it the
            input must say it.
        section: name of one section of a folder that holds several (`A1` of `ST-cnts/A1.tsv.gz`).
        only: rows to keep of a table of cells, as value by column.
        expected_genes: at least one of them must be there, unless the section has no genes at all.
        limits: of the process that decodes HDF5, Parquet and pictures.
        progress: told after each block; of what another process decodes, once at the end.
    Returns:
        Size and provenance. Memory: one shard of each array (some 100 MB), 16 bytes a row, and the spots' places.
        A picture that cannot be read is left out, and said so; the counts do not depend on it.
    Raises:
        ArrayError: says what is wrong and in which row; nothing is left behind.
        FileExistsError: `out` or the picture's folder is there already.
    """
    if um_per_unit is not None and not 0 < um_per_unit < 1e6:
        raise ArrayError("bad_pixel_size", f"{um_per_unit} um is no size of a unit", source.name, "give micrometres")
    picture = out.with_name(f"{out.stem}.image.zarr")
    for there in (out, picture):
        if there.exists():
            raise FileExistsError(f"{there} is there already; remove it, or name another folder")
    if section is not None or (source / "ST-cnts").is_dir():
        source = _count_table(source, section)
    with scratch_beside(out) as scratch:
        partial = Path(scratch, "section")
        if _needs_own_process(source):
            wanted = None if expected_genes is None else sorted(expected_genes)
            arguments = {
                "source": str(source.resolve()), "out": str(partial), "um_per_unit": um_per_unit,
                "expected_genes": wanted,
            }  # fmt: skip
            answer = run_bounded(f"{__name__}:write_foreign", arguments, source.name, limits)
            made = ImportedSection(**answer["made"] | {"left_out": tuple(answer["made"]["left_out"])})
            said = answer["image"]
            image = None if said is None else SectionImage(Path(said[0]), float(said[1]), (said[2], said[3]))
            if progress is not None:
                progress(made.n_rows)
        else:
            made, image = _write(open_source(source, only), partial, um_per_unit, expected_genes, progress)
        if image is not None:
            made = _import_picture(image, Path(scratch, "picture"), picture, made, limits)
        os.replace(partial, out)
    return made


def write_foreign(
    source: str, out: str, um_per_unit: float | None, expected_genes: Sequence[str] | None
) -> dict[str, Any]:
    """Write the section of a layout that is decoded in a process of its own; called there, see `bounded`."""
    expected = None if expected_genes is None else frozenset(expected_genes)
    made, image = _write(_open_foreign(Path(source)), Path(out), um_per_unit, expected, None)
    said = None if image is None else [str(image.path), image.units_per_pixel, *image.origin]
    return {"made": asdict(made), "image": said}


def _write(
    found: SectionSource, out: Path, um_per_unit: float | None, expected_genes: frozenset[str] | None,
    progress: Progress | None,
) -> tuple[ImportedSection, SectionImage | None]:  # fmt: skip
    check_genes(found, expected_genes if found.genes else None)
    scale = um_per_unit if um_per_unit is not None else found.um_per_unit
    if scale is None:
        raise ArrayError(
            "no_pixel_size", "the input does not say how far its units are apart", found.where,
            "give the pitch or the size of a pixel in micrometres (--um-per-unit)",
        )  # fmt: skip
    check = RowCheck(found.where, len(found.genes))
    writer = SectionWriter(out, found.genes, found.gene_names, found.column_is_text)
    for block in found.blocks:
        check.check(block)
        writer.append(block, scale)
        if progress is not None:
            progress(check.n_rows)
    check.finish()
    writer.close({"platform": found.platform, "um_per_unit": scale, "source": found.where})
    made = ImportedSection(
        check.n_rows, len(found.genes), check.total, found.platform, scale, tuple(found.left_out)
    )  # fmt: skip
    return made, found.image


def _import_picture(
    image: SectionImage, partial: Path, out: Path, made: ImportedSection, limits: ProcessLimits | None
) -> ImportedSection:
    """Put the picture beside the section, in its micrometres."""
    x, y = (made.um_per_unit * start for start in image.origin)
    size = made.um_per_unit * image.units_per_pixel
    try:
        import_slide(image.path, partial, size, limits=limits, origin_um=(y, x))
    except ArrayError as error:
        return replace(made, left_out=(*made.left_out, f"{image.path.name} ({error.reason})"))
    os.replace(partial, out)
    return replace(made, image=out)


def open_source(source: Path, only: Mapping[str, str] | None = None) -> SectionSource:
    """Find out how a section is laid out, and open it; of the layouts that this process may decode itself.

    Raises:
        ArrayError: `unknown_layout`, or what its reader raises.
    """
    if source.is_dir():
        if is_visium(source):
            return read_visium(source)
        if any((source / name).is_file() for name in ("zarr.json", ".zgroup")):
            return read_stored(source)
    elif source.is_file():
        with_counts = source.parent.name == "ST-cnts"
        if {".tsv", ".csv", ".txt"} & set(source.suffixes):
            return read_spot_table(source) if with_counts else read_cell_table(source, only)
    else:
        raise ArrayError("not_found", "is not there", source.name, "name a folder or a file")
    raise ArrayError(
        "unknown_layout", "has none of the known layouts", source.name,
        "send a Space Ranger folder, an AnnData file or folder, SpatialData, ST-cnts/NAME.tsv.gz, or a table of cells",
    )  # fmt: skip


def _needs_own_process(source: Path) -> bool:
    """Whether a layout holds HDF5 or Parquet, whose decoders are not let loose on foreign bytes in this process."""
    if source.is_file():
        return source.suffix in (".h5ad", ".h5")
    with_matrix = source.is_dir() and not is_visium(source) and matrix_file(source) is not None
    return with_matrix or _spatialdata_of(source) is not None


def _spatialdata_of(source: Path) -> Path | None:
    """The folder in SpatialData's layout that a path is, or is a table of."""
    if source.parent.name == "tables" and (source / "obs").is_dir():
        return source.parent.parent
    return source if source.is_dir() and (source / "tables").is_dir() else None


def _open_foreign(source: Path) -> SectionSource:
    """As `open_source`, for what `_needs_own_process`."""
    # Imported here: the process that asks for the decoding must not load the decoders.
    from oncotwin.adapters.arrays.section_h5 import read_10x_h5, read_h5ad
    from oncotwin.adapters.arrays.section_spatialdata import read_spatialdata, tables_below

    if source.is_file():
        return read_h5ad(source) if source.suffix == ".h5ad" else read_10x_h5(source)
    folder = _spatialdata_of(source)
    matrix = matrix_file(source)
    if folder is None and matrix is not None:
        return read_10x_h5(matrix)
    assert folder is not None
    tables = tables_below(folder) if folder == source else [source]
    if len(tables) != 1:
        known = ", ".join(f"tables/{one.name}" for one in tables[:5]) or "none"
        raise ArrayError("several_tables", f"holds {len(tables)} tables ({known})", source.name, "name one of them")
    return read_spatialdata(folder, tables[0])


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


def _count_table(folder: Path, section: str | None) -> Path:
    """The table of a section, or of the only one, below a folder of count tables."""
    tables = {path.name.partition(".")[0]: path for path in sorted(folder.glob("ST-cnts/*.tsv*"))}
    if section is None and len(tables) == 1:
        return next(iter(tables.values()))
    if section in tables:
        return tables[section]
    known = f"holds {len(tables)} sections ({', '.join(tables)[:200]})"
    if section is None:
        raise ArrayError("several_sections", known, folder.name, "name one of them (--section)")
    raise ArrayError("not_found", f"{known}, none of them '{section}'", folder.name, "name one that is there")
