"""Sections in the folders that 10x Genomics' Space Ranger writes: a matrix of counts, and places of the spots.

    filtered_feature_bc_matrix/{barcodes.tsv, features.tsv, matrix.mtx}[.gz]
    spatial/{tissue_positions.csv | tissue_positions_list.csv, scalefactors_json.json}

Source: 10x Genomics, Space Ranger outputs; Boisvert, Pozo, Remington 1996, The Matrix Market Exchange Formats.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from oncotwin.adapters.arrays.section_blocks import SectionBlock, SectionImage, SectionSource
from oncotwin.adapters.arrays.section_texts import PIECE_BYTES, number, open_text, read_lines
from oncotwin.domain.claim import ArrayError

PITCH_UM = 100.0
"""Between the centres of neighbouring spots on a Visium slide (10x Genomics, Visium Spatial slide specifications)."""

BLOCK_ROWS = 4_096
_COLUMNS = {"array_row": False, "array_col": False}
_MATRICES = ("filtered_feature_bc_matrix", "raw_feature_bc_matrix")
_POSITIONS = ("tissue_positions.csv", "tissue_positions_list.csv")


def is_visium(folder: Path) -> bool:
    """Whether a folder has the layout."""
    return (folder / "spatial").is_dir() and any((folder / name).is_dir() for name in _MATRICES)


def matrix_file(folder: Path) -> Path | None:
    """The matrix in HDF5 of a folder that holds it beside the places; None where there is none."""
    if not (folder / "spatial").is_dir():
        return None
    return next((path for name in _MATRICES if (path := folder / f"{name}.h5").is_file()), None)


def read_visium(folder: Path) -> SectionSource:
    """Read a folder; coordinates are pixels of the full image, x to the right and y down.

    Only spots that the matrix names are read; their places must be known. Features other than gene expression
    (antibodies) are left out, and said so.

    Raises:
        ArrayError: `not_found`, `bad_text`, `duplicate_id` or `unknown_spot`.
    """
    matrix = next(folder / name for name in _MATRICES if (folder / name).is_dir())
    features = [line.split("\t") for line in _lines(matrix, "features.tsv")]
    if any(len(one) < 2 for one in features):
        raise ArrayError(
            "bad_text", "has a line without identifier and name", "features.tsv", "send Space Ranger's own"
        )
    is_gene = np.array([len(one) < 3 or one[2] == "Gene Expression" for one in features], dtype=bool)
    genes = [one for one, kept in zip(features, is_gene, strict=True) if kept]
    places = spot_places(folder / "spatial")
    left_out = sorted({one[2] for one, kept in zip(features, is_gene, strict=True) if not kept})
    return SectionSource(
        folder.name, "10x Visium", [one[0] for one in genes], [one[1] for one in genes], _COLUMNS,
        um_per_pixel(folder / "spatial", places), _blocks(matrix, is_gene, places), left_out,
        tissue_picture(folder / "spatial"),
    )  # fmt: skip


def _blocks(
    matrix: Path, is_gene: NDArray[np.bool_], places: Mapping[str, NDArray[np.float64]]
) -> Iterator[SectionBlock]:
    """Rows of the matrix, whose file has one column for each barcode."""
    barcodes = list(_lines(matrix, "barcodes.tsv"))
    path = _either(matrix, "matrix.mtx")
    new_number = np.cumsum(is_gene) - 1
    with open_text(path) as file:
        n_features, n_barcodes, n_entries = _mtx_header(file, path.name)
        if (n_features, n_barcodes) != (len(is_gene), len(barcodes)):
            what = f"has {n_features} x {n_barcodes} entries for {len(is_gene)} features and {len(barcodes)} barcodes"
            raise ArrayError("bad_text", what, path.name, "send the three files of one run")
        waiting = np.empty((0, 3))
        n_seen, first, last = 0, 0, 0
        for entries in _mtx_entries(file, path.name):
            n_seen += len(entries)
            _check_entries(entries, n_features, n_barcodes, last, path.name)
            last = int(entries[-1, 1])
            waiting = np.concatenate([waiting, entries])
            # The last barcode may go on in the next piece.
            while last - 1 - first >= BLOCK_ROWS:
                cut = int(np.searchsorted(waiting[:, 1], first + BLOCK_ROWS, side="right"))
                yield _block(waiting[:cut], barcodes[first : first + BLOCK_ROWS], first, is_gene, new_number, places)
                waiting, first = waiting[cut:], first + BLOCK_ROWS
        if n_seen != n_entries:
            what = f"has {n_seen} entries where its first line says {n_entries}: cut off"
            raise ArrayError("bad_text", what, path.name, "send the whole file")
        for start in range(first, n_barcodes, BLOCK_ROWS):
            cut = int(np.searchsorted(waiting[:, 1], start + BLOCK_ROWS, side="right"))
            yield _block(waiting[:cut], barcodes[start : start + BLOCK_ROWS], start, is_gene, new_number, places)
            waiting = waiting[cut:]


def _block(
    entries: NDArray[np.float64], ids: list[str], start: int, is_gene: NDArray[np.bool_],
    new_number: NDArray[np.int64], places: Mapping[str, NDArray[np.float64]],
) -> SectionBlock:  # fmt: skip
    for name in ids:
        if name not in places:
            raise ArrayError("unknown_spot", f"barcode '{name[:60]}' has no place", "tissue_positions", "add its place")
    place = np.array([places[name] for name in ids]).reshape(len(ids), 4)
    feature = entries[:, 0].astype(np.int64) - 1
    kept = is_gene[feature] & (entries[:, 2] != 0)
    row, gene, counts = entries[kept, 1].astype(np.int64) - 1 - start, new_number[feature[kept]], entries[kept, 2]
    order = np.lexsort((gene, row))
    indptr = np.searchsorted(row, np.arange(len(ids) + 1)).astype(np.int64)
    return SectionBlock(
        ids, place[:, :2], indptr, gene[order].astype(np.int32), counts[order],
        {"array_row": place[:, 2], "array_col": place[:, 3]},
    )  # fmt: skip


def _mtx_header(file: BinaryIO, where: str) -> tuple[int, int, int]:
    for at, line in enumerate(read_lines(file, where)):
        if at == 0 and not line.startswith("%%MatrixMarket matrix coordinate "):
            break
        if not line.startswith("%"):
            parts = line.split()
            if len(parts) == 3 and all(part.isascii() and part.isdigit() and len(part) < 16 for part in parts):
                return int(parts[0]), int(parts[1]), int(parts[2])
            break
    raise ArrayError("bad_text", "is no Matrix Market file of coordinates", where, "send Space Ranger's own")


def _mtx_entries(file: BinaryIO, where: str) -> Iterator[NDArray[np.float64]]:
    """Triples (feature, barcode, count), counted from 1, some hundred thousand at a time."""
    rest = b""
    while True:
        piece = file.read(PIECE_BYTES)
        text = rest + piece
        cut = text.rfind(b"\n") + 1 if piece else len(text)
        if piece and not cut:
            raise ArrayError("bad_text", "has a line longer than any entry", where, "send Space Ranger's own")
        rest = text[cut:]
        fields = text[:cut].split()
        if len(fields) % 3:
            raise ArrayError("bad_text", "has an entry of other than three numbers", where, "send the whole file")
        if fields:
            try:
                yield np.array(fields, dtype="S32").astype(np.float64).reshape(-1, 3)
            except ValueError as error:
                raise ArrayError("bad_text", f"has an entry that is no number: {str(error)[:80]}", where) from None
        if not piece:
            return


def _check_entries(entries: NDArray[np.float64], n_features: int, n_barcodes: int, last: int, where: str) -> None:
    feature, barcode = entries[:, 0], entries[:, 1]
    inside = (feature >= 1) & (feature <= n_features) & (barcode >= 1) & (barcode <= n_barcodes)
    if not (inside & (feature == np.floor(feature)) & (barcode == np.floor(barcode))).all():
        raise ArrayError("bad_text", "counts a feature or a barcode that is not listed", where, "send one run's files")
    if barcode[0] < last or (np.diff(barcode) < 0).any():
        raise ArrayError("bad_text", "is not sorted by barcode", where, "sort its entries by the second column")


def spot_places(spatial: Path) -> dict[str, NDArray[np.float64]]:
    """(x, y, array row, array column) of each barcode; x and y in pixels of the full image.

    Raises:
        ArrayError: `not_found`, `bad_text` or `duplicate_id`.
    """
    path = next((spatial / name for name in _POSITIONS if (spatial / name).is_file()), None)
    if path is None:
        raise ArrayError("not_found", f"has none of {', '.join(_POSITIONS)}", "spatial", "send the folder 'spatial'")
    found: dict[str, NDArray[np.float64]] = {}
    with open_text(path) as file:
        for at, row in enumerate(csv.reader(read_lines(file, path.name)), start=1):
            # Older versions have no header: barcode, in tissue, array row, array column, pixel row, pixel column.
            if at == 1 and row[:1] == ["barcode"]:
                continue
            where = f"{path.name}, line {at}"
            if len(row) != 6:
                raise ArrayError("bad_text", f"has {len(row)} fields where 6 belong", where, "send Space Ranger's own")
            if row[0] in found:
                raise ArrayError("duplicate_id", f"names barcode '{row[0][:60]}' twice", where, "name each once")
            array_row, array_column, pixel_row, pixel_column = (number(text, where) for text in row[2:])
            found[row[0]] = np.array([pixel_column, pixel_row, array_row, array_column])
    return found


def um_per_pixel(spatial: Path, places: Mapping[str, NDArray[np.float64]]) -> float | None:
    """Size of a pixel: as the file says it, or from the pitch of the spots; None if neither is there."""
    size = _scale_factors(spatial).get("microns_per_pixel")
    if isinstance(size, int | float) and 0 < size < 1_000:
        return float(size)
    return um_by_pitch(np.array(list(places.values())).reshape(-1, 4))


def um_by_pitch(places: NDArray[np.float64]) -> float | None:
    """Size of a unit by the pitch of a honeycomb of spots; None where the places are none.

    Args:
        places: (n_spots, 4): x, y, array row, array column.
    """
    by_place = {(row, column): (x, y) for x, y, row, column in places.tolist()}
    # In a row of the honeycomb every second column is taken.
    steps = [
        float(np.hypot(by_place[row, column + 2][0] - x, by_place[row, column + 2][1] - y))
        for (row, column), (x, y) in by_place.items()
        if (row, column + 2) in by_place and (row, column + 1) not in by_place
    ]
    middle = float(np.median(steps)) if steps else 0.0
    return PITCH_UM / middle if middle > 0 else None


def tissue_picture(spatial: Path) -> SectionImage | None:
    """The largest picture that Space Ranger leaves; None where there is none, or its scale is not said."""
    factors = _scale_factors(spatial)
    for name in ("hires", "lowres"):
        path, factor = spatial / f"tissue_{name}_image.png", factors.get(f"tissue_{name}_scalef")
        if path.is_file() and isinstance(factor, int | float) and 0 < factor <= 1:
            # The first pixel covers the full image's first ones, from half a pixel before their first centre on.
            return SectionImage(path, 1 / factor, (0.5 / factor - 0.5, 0.5 / factor - 0.5))
    return None


def _scale_factors(spatial: Path) -> Mapping[str, Any]:
    """What Space Ranger says of its pictures' sizes; nothing where the file is not there."""
    path = spatial / "scalefactors_json.json"
    if not path.is_file() or path.stat().st_size > PIECE_BYTES:
        return {}
    try:
        said = json.loads(path.read_bytes())
    except ValueError:
        raise ArrayError("bad_text", "is no JSON", path.name, "send Space Ranger's own") from None
    return said if isinstance(said, dict) else {}


def _either(folder: Path, name: str) -> Path:
    packed = folder / f"{name}.gz"
    return packed if packed.is_file() else folder / name


def _lines(folder: Path, name: str) -> Sequence[str]:
    path = _either(folder, name)
    with open_text(path) as file:
        return [line for line in read_lines(file, path.name) if line]
