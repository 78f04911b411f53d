"""Sections in text tables: spot-by-gene counts with a file of spots beside them, and tables of cells."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from oncotwin.adapters.arrays.section_blocks import Column, SectionBlock, SectionImage, SectionSource
from oncotwin.adapters.arrays.section_texts import column_of, is_plain_name, number, numbers, open_text, read_lines
from oncotwin.domain.claim import ArrayError

BLOCK_ROWS = 4_096
_NO_COUNTS: tuple[NDArray[np.int32], NDArray[np.int32]] = (np.empty(0, np.int32), np.empty(0, np.int32))

_X = ("x", "cell_x", "x_centroid", "X_centroid", "x_um", "CenterX_global_px")
_Y = ("y", "cell_y", "y_centroid", "Y_centroid", "y_um", "CenterY_global_px")
_ID = ("cell_id", "id", "cell", "barcode", "CellID")
_IMAGE = ("image_number", "image", "image_id", "ImageNumber", "fov", "section", "sample", "sample_id")
PITCH_UM = 200.0
"""Between neighbouring spots of the printed array of Ståhl et al. 2016, doi:10.1126/science.aaf2403."""
ARRAY_SIDE = 36
"""That array has 33 columns and 35 rows; later ones, of another pitch, have more."""
_CLASSES = frozenset({"cell_type", "type", "label", "cluster", "phenotype", "niche", *_IMAGE, "patient_id"})


def read_spot_table(counts: Path) -> SectionSource:
    """A table of spots by genes, as of spatial transcriptomics on printed arrays (`ST-cnts/A1.tsv.gz`).

    Rows are named by their place on the array, such as `10x13`. Where `../ST-spotfiles/A1_selection.tsv` lies beside
    it, coordinates are the adjusted ones of that file, in units of the array's pitch, and pixels are kept as columns;
    otherwise they are the names' own. Where all places fit the array of Ståhl et al. the unit is its 200 um. Labels
    come from `../ST-pat/lbl/A1_labeled_coordinates.tsv` where it is there, and the picture from
    `../ST-imgs/A/A1/*.jpg`.

    Raises:
        ArrayError: `bad_text`, `missing_column`, `duplicate_id`, or `unknown_spot` for a row without a place.
    """
    section = counts.name.partition(".")[0]
    beside = counts.parent.parent
    spots = _spot_file(beside / "ST-spotfiles" / f"{section}_selection.tsv")
    labels = _label_file(beside / "ST-pat" / "lbl" / f"{section}_labeled_coordinates.tsv")
    with open_text(counts) as file:
        header = next(read_lines(file, counts.name), "").split("\t")
    if len(header) < 2:
        raise ArrayError(
            "bad_text", "has no genes in its first line", counts.name, "send spots by genes, tab-separated"
        )
    text = {"array_x": False, "array_y": False}
    if spots is not None:
        text |= {"pixel_x": False, "pixel_y": False}
    if labels is not None:
        text["label"] = True
    blocks = _spot_blocks(counts, len(header) - 1, spots, labels)
    picture = _picture(beside / "ST-imgs" / section[:1] / section, spots or {})
    return SectionSource(
        counts.name, "spatial transcriptomics array", header[1:], None, text, _pitch_um(counts), blocks, image=picture
    )


def _pitch_um(counts: Path) -> float | None:
    """The pitch of the first printed arrays where every spot has a place on one; None for any other array."""
    with open_text(counts) as file:
        lines = read_lines(file, counts.name)
        next(lines, None)
        for at, line in enumerate(lines, start=2):
            place = _array_place(line.partition("\t")[0], f"{counts.name}, line {at}")
            if max(place) >= ARRAY_SIDE:
                return None
    return PITCH_UM


def _spot_blocks(
    counts: Path, n_genes: int, spots: Mapping[str, NDArray[np.float64]] | None, labels: Mapping[str, str] | None
) -> Iterator[SectionBlock]:
    with open_text(counts) as file:
        lines = read_lines(file, counts.name)
        next(lines)
        number_of_line = 1
        # Rows are as wide as the genes: a block of them must not be counted in rows alone.
        at_once = max(1, min(BLOCK_ROWS, 20_000_000 // max(n_genes, 1)))
        while True:
            ids: list[str] = []
            indices, values, indptr = [], [], [0]
            places, pixels = [], []
            for line in lines:
                number_of_line += 1
                name, _, fields = line.partition("\t")
                where = f"{counts.name}, line {number_of_line}"
                row = numbers(fields, "\t", n_genes, where)
                place = _array_place(name, where)
                if spots is not None:
                    known = spots.get(name)
                    if known is None:
                        raise ArrayError(
                            "unknown_spot", f"spot '{name}' is not in the spot file", where, "add its place"
                        )
                    place = (*place, *known)
                else:
                    place = (*place, *place)
                # Not `> 0`: what is negative or no number must reach the check.
                present = np.flatnonzero(row != 0)
                ids.append(name)
                places.append(place[:4])
                pixels.append(place[4:])
                indices.append(present.astype(np.int32))
                values.append(row[present])
                indptr.append(indptr[-1] + len(present))
                if len(ids) == at_once:
                    break
            if not ids:
                return
            grid = np.array(places)
            columns: dict[str, Column] = {"array_x": grid[:, 0], "array_y": grid[:, 1]}
            if spots is not None:
                columns |= {"pixel_x": np.array(pixels)[:, 0], "pixel_y": np.array(pixels)[:, 1]}
            if labels is not None:
                columns["label"] = [labels.get(name, "") for name in ids]
            yield SectionBlock(
                ids, grid[:, 2:], np.array(indptr, np.int64), np.concatenate(indices), np.concatenate(values), columns
            )


def _array_place(name: str, where: str) -> tuple[float, ...]:
    """Column and row that a spot's name says."""
    x, _, y = name.partition("x")
    try:
        return float(x), float(y)
    except ValueError:
        raise ArrayError("bad_id", f"'{name[:40]}' is no place such as 10x13", where, "name spots by place") from None


def _spot_file(path: Path) -> dict[str, NDArray[np.float64]] | None:
    """(x, y, pixel x, pixel y) of each spot, by name; None if there is no such file."""
    if not path.exists():
        return None
    found: dict[str, NDArray[np.float64]] = {}
    for where, row in _rows(path, "\t"):
        name = f"{row['x']}x{row['y']}"
        if name in found:
            raise ArrayError("duplicate_id", f"names spot '{name}' twice", where, "name each spot once")
        columns = ("new_x", "new_y", "pixel_x", "pixel_y")
        found[name] = np.array([number(row[column], where) for column in columns])
    return found


def _picture(folder: Path, spots: Mapping[str, NDArray[np.float64]]) -> SectionImage | None:
    """The picture of a section, and where its pixels lie: by the adjusted places of the spots and their pixels.

    None without a picture, or where places and pixels do not agree within half the pitch.
    """
    path = next(iter(sorted(folder.glob("*.jpg"))), None)
    if path is None or not spots:
        return None
    both = np.array(list(spots.values()))
    both = both[np.isfinite(both).all(axis=1)]
    if len(both) < 3:
        return None
    places, pixels = both[:, :2], both[:, 2:]
    from_middle = pixels - pixels.mean(axis=0)
    spread = float((from_middle**2).sum())
    # One size for both axes: pixels are square.
    size = float((from_middle * (places - places.mean(axis=0))).sum()) / spread if spread > 0 else 0.0
    origin = places.mean(axis=0) - size * pixels.mean(axis=0)
    misfit = float(np.abs(origin + size * pixels - places).max())
    return SectionImage(path, size, (float(origin[0]), float(origin[1]))) if size > 0 and misfit < 0.5 else None


def _label_file(path: Path) -> dict[str, str] | None:
    """A pathologist's label of each spot, by its place rounded to the array; None if there is no such file."""
    if not path.exists():
        return None
    found: dict[str, str] = {}
    for where, row in _rows(path, "\t"):
        x, y = number(row["x"], where), number(row["y"], where)
        if np.isfinite(x) and np.isfinite(y):
            found.setdefault(f"{round(x)}x{round(y)}", row["label"])
    return found


def _rows(path: Path, separator: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Rows of a small table, with where each stands."""
    with open_text(path) as file:
        lines = csv.reader(read_lines(file, path.name), delimiter=separator)
        header = next(lines, [])
        for at, row in enumerate(lines, start=2):
            where = f"{path.name}, line {at}"
            if len(row) != len(header):
                raise ArrayError(
                    "bad_text", f"has {len(row)} fields where {len(header)} belong", where, "mend the table"
                )
            yield where, dict(zip(header, row, strict=True))


def read_cell_table(path: Path, only: Mapping[str, str] | None = None) -> SectionSource:
    """A table of cells with coordinates and attributes, separated by commas (`.csv`) or tabs; no counts.

    Args:
        path: the table, perhaps compressed (`.gz`).
        only: rows to keep, as value by column; needed where the table holds several images.
    Returns:
        Every other column as an attribute: text where it names a class or holds no number in the first row kept.
    Raises:
        ArrayError: `missing_column`, `bad_text`, or `several_images` where coordinates of several images lie over
            each other.
    """
    wanted = dict(only or {})
    separator = "," if ".csv" in path.suffixes else "\t"
    with open_text(path) as file:
        lines = csv.reader(read_lines(file, path.name), delimiter=separator)
        header = next(lines, [])
        x, y, name = (column_of(header, names, what, path.name)
                      for names, what in ((_X, "x"), (_Y, "y"), (_ID, "the cell's name")))  # fmt: skip
        for column in wanted:
            column_of(header, [column], "a choice of rows", path.name)
        first = next((row for row in lines if _kept(row, header, wanted)), None)
    if first is None:
        raise ArrayError("no_rows", f"has no row with {wanted or 'anything'}", path.name, "choose another")
    if len(set(header)) != len(header):
        raise ArrayError("bad_text", "names a column twice", path.name, "name each column once")
    rest = [at for at in range(len(header)) if at not in (x, y, name)]
    text = {header[at]: header[at] in _CLASSES or not _is_number(first[at]) for at in rest if is_plain_name(header[at])}
    blocks = _cell_blocks(path, separator, header, (x, y, name), text, wanted)
    left_out = [header[at] for at in rest if not is_plain_name(header[at])]
    return SectionSource(path.name, "table of cells", (), None, text, None, blocks, left_out)


def _cell_blocks(
    path: Path, separator: str, header: Sequence[str], places: tuple[int, int, int], text: Mapping[str, bool],
    wanted: Mapping[str, str],
) -> Iterator[SectionBlock]:  # fmt: skip
    x, y, name = places
    columns = {header.index(column): is_text for column, is_text in text.items()}
    image = next((header.index(column) for column in _IMAGE if column in header), None)
    seen: str | None = None
    kept: list[tuple[str, list[str]]] = []
    with open_text(path) as file:
        lines = csv.reader(read_lines(file, path.name), delimiter=separator)
        next(lines)
        for at, row in enumerate(lines, start=2):
            where = f"{path.name}, line {at}"
            if not _kept(row, header, wanted):
                continue
            if len(row) != len(header):
                raise ArrayError(
                    "bad_text", f"has {len(row)} fields where {len(header)} belong", where, "mend the table"
                )
            if image is not None and row[image] != (seen := row[image] if seen is None else seen):
                what = f"holds '{header[image]}' {seen} and {row[image]}, whose coordinates lie over each other"
                raise ArrayError("several_images", what, where, f"choose one: {header[image]}={seen}")
            kept.append((where, row))
            if len(kept) == BLOCK_ROWS:
                yield _cell_block(kept, (x, y, name), header, columns)
                kept = []
    if kept:
        yield _cell_block(kept, (x, y, name), header, columns)


def _cell_block(
    rows: Sequence[tuple[str, list[str]]], places: tuple[int, int, int], header: Sequence[str],
    columns: Mapping[int, bool],
) -> SectionBlock:  # fmt: skip
    x, y, name = places
    coordinates = np.array([[number(row[x], where), number(row[y], where)] for where, row in rows])
    values: dict[str, Column] = {
        header[at]: [row[at] for _, row in rows]
        if is_text
        else np.array([number(row[at], f"{where}, {header[at]}") for where, row in rows])
        for at, is_text in columns.items()
    }
    indices, counts = _NO_COUNTS
    return SectionBlock(
        [row[name] for _, row in rows], coordinates, np.zeros(len(rows) + 1, np.int64), indices, counts, values
    )


def _kept(row: Sequence[str], header: Sequence[str], wanted: Mapping[str, str]) -> bool:
    return all(
        row[header.index(column)] == value for column, value in wanted.items() if header.index(column) < len(row)
    )


def _is_number(text: str) -> bool:
    try:
        number(text, "")
    except ArrayError:
        return False
    return True
