"""Sections in HDF5: AnnData files (`.h5ad`), and 10x Genomics' matrix (`.h5`) beside Space Ranger's places.

Imported in a process under limits alone (see `bounded`): the library that decodes HDF5 is C code that was not written
against hostile files. What a file names outside of itself (external links and storage, virtual datasets) is refused.

Source: AnnData on-disk format specification 0.1.0 (Virshup et al. 2024, doi:10.21105/joss.04371); 10x Genomics,
Feature-barcode matrices in HDF5; HDF5 user guide, chapters 4 (groups) and 5 (datasets).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_matrix

from oncotwin.adapters.arrays.section_blocks import Column, SectionBlock, SectionSource
from oncotwin.adapters.arrays.section_texts import is_plain_name
from oncotwin.adapters.arrays.section_visium import spot_places, tissue_picture, um_by_pitch, um_per_pixel
from oncotwin.domain.claim import ArrayError

BLOCK_ROWS = 4_096
_BLOCK_VALUES = 20_000_000
_FREE_BYTES = 1 << 24
_RATIO = 1_100
"""Deflate's best is 1,032 to one: what claims more was not stored."""
_CHUNK_BYTES = 1 << 28
_FILTERS = frozenset({h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32, 32_000})
"""32,000 is LZF, which comes with the library; others would be loaded from files."""
_LOOKED_AT = 10_000


def read_h5ad(path: Path) -> SectionSource:
    """An AnnData file with places in ``obsm/spatial``.

    Counts are the first of ``X``, ``layers/counts`` and ``raw/X`` that holds whole numbers; those passed over are
    said in `left_out`. The size of a unit is the file's own (``uns/spatial``, as Space Ranger's), or follows from the
    pitch of a honeycomb of spots.

    Raises:
        ArrayError: `bad_section`, `link`, `codec_not_allowed`, `too_large` or `bad_counts`.
    """
    with _opened(path) as file:
        counts, frame, passed_over = _counts(file)
        n_rows, n_genes = _shape(file, counts)
        var, obs = _Table(file, frame), _Table(file, "obs")
        genes = var.names()
        places = _dataset(file, "obsm/spatial")
        if len(genes) != n_genes or obs.n_rows != n_rows or places.shape[:1] != (n_rows,) or places.ndim != 2:
            raise _bad("has parts of different length")
        if places.shape[1] < 2:
            raise _bad("has coordinates that are no pairs")
        kinds = obs.kinds()
        names = next((var.texts(name) for name in ("gene_symbols", "gene_name", "feature_name") if var.has(name)), None)
        left_out = [*passed_over, *obs.left_out()]
        scale = _um_per_unit(file, obs, places)
    text = {name: kind != "numbers" for name, kind in kinds.items()}
    return SectionSource(path.name, "AnnData", genes, names, text, scale, _h5ad_blocks(path, counts), left_out)


def _h5ad_blocks(path: Path, counts: str) -> Iterator[SectionBlock]:
    with _opened(path) as file:
        obs, places = _Table(file, "obs"), _dataset(file, "obsm/spatial")
        text = obs.kinds()
        for start, stop, block in _row_blocks(file, counts):
            columns: dict[str, Column] = {
                name: obs.texts(name, start, stop) if kind != "numbers" else obs.numbers(name, start, stop)
                for name, kind in text.items()
            }
            where = np.asarray(places[start:stop, :2], dtype=np.float64)
            yield SectionBlock(obs.names(start, stop), where, *block, columns)


def read_10x_h5(path: Path) -> SectionSource:
    """Space Ranger's matrix in HDF5, with the folder ``spatial`` beside it; otherwise as `section_visium.read_visium`.

    Raises:
        ArrayError: as `read_h5ad`; `not_found` without places, `unknown_spot` for a barcode without one.
    """
    spatial = path.parent / "spatial"
    places = spot_places(spatial)
    with _opened(path) as file:
        kinds = _texts(_dataset(file, "matrix/features/feature_type"))
        ids = _texts(_dataset(file, "matrix/features/id"))
        names = _texts(_dataset(file, "matrix/features/name"))
    if not len(kinds) == len(ids) == len(names):
        raise _bad("has parts of different length")
    is_gene = np.array([kind == "Gene Expression" for kind in kinds], dtype=bool)
    kept = np.flatnonzero(is_gene).tolist()
    return SectionSource(
        path.name, "10x Visium", [ids[at] for at in kept], [names[at] for at in kept],
        {"array_row": False, "array_col": False}, um_per_pixel(spatial, places), _10x_blocks(path, is_gene, places),
        sorted(set(kinds) - {"Gene Expression"}), tissue_picture(spatial),
    )  # fmt: skip


def _10x_blocks(
    path: Path, is_gene: NDArray[np.bool_], known: Mapping[str, NDArray[np.float64]]
) -> Iterator[SectionBlock]:
    new_number = np.cumsum(is_gene) - 1
    with _opened(path) as file:
        barcodes = _dataset(file, "matrix/barcodes")
        # Features by barcodes in compressed columns are barcodes by features in compressed rows.
        for start, stop, (indptr, indices, counts) in _compressed(file, "matrix", len(barcodes), len(is_gene)):
            ids = _texts(barcodes, start, stop)
            missing = next((name for name in ids if name not in known), None)
            if missing is not None:
                raise ArrayError("unknown_spot", f"barcode '{missing[:60]}' has no place", path.name, "add its place")
            place = np.array([known[name] for name in ids]).reshape(len(ids), 4)
            kept = is_gene[indices]
            ends = np.concatenate([[0], np.cumsum(kept)])[indptr]
            columns: dict[str, Column] = {"array_row": place[:, 2], "array_col": place[:, 3]}
            genes = new_number[indices[kept]].astype(np.int32)
            yield SectionBlock(ids, place[:, :2], ends.astype(np.int64), genes, counts[kept], columns)


def _opened(path: Path) -> Any:
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise ArrayError("cannot_decode", f"is no HDF5: {str(error)[:100]}", path.name, "send the whole file") from None


def _node(file: Any, path: str) -> Any:
    """A group or dataset, reached through hard links alone."""
    here = file
    for segment in path.split("/"):
        if not isinstance(here, h5py.Group) or not here.id.links.exists(segment.encode()):
            raise _bad(f"lacks {path}")
        if here.id.links.get_info(segment.encode()).type != h5py.h5l.TYPE_HARD:
            raise ArrayError("link", f"reaches {path} through a link", "", "store the data themselves in the file")
        here = here[segment]
    return here


def _has(file: Any, path: str) -> bool:
    try:
        _node(file, path)
    except ArrayError as error:
        if error.reason_code == "link":
            raise
        return False
    return True


def _dataset(file: Any, path: str) -> Any:
    """A dataset whose bytes lie in this file, as many as it claims.

    Raises:
        ArrayError: `bad_section`, `link`, `codec_not_allowed` or `too_large`.
    """
    found = _node(file, path)
    if not isinstance(found, h5py.Dataset) or found.shape is None:
        raise _bad(f"has other than numbers or text where {path} belongs")
    if found.external or found.is_virtual:
        raise ArrayError("link", f"keeps {path} in another file", "", "store the data themselves in the file")
    plan = found.id.get_create_plist()
    filters = {plan.get_filter(at)[0] for at in range(plan.get_nfilters())}
    if filters - _FILTERS:
        raise ArrayError("codec_not_allowed", f"codes {path} by filters {sorted(filters)}", "", "use gzip or LZF")
    size = int(found.dtype.itemsize)
    claimed = prod(found.shape) * size
    if claimed > max(_FREE_BYTES, _RATIO * found.id.get_storage_size()):
        raise ArrayError("too_large", f"claims {claimed:,} bytes in {path} that are not there", "", "crop the array")
    if found.chunks is not None and prod(found.chunks) * size > _CHUNK_BYTES:
        raise ArrayError("too_large", f"has chunks of more than {_CHUNK_BYTES:,} bytes in {path}", "", "use smaller")
    return found


def _said(node: Any, name: str) -> str:
    value = node.attrs.get(name, "")
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _texts(dataset: Any, start: int = 0, stop: int | None = None) -> list[str]:
    return [one.decode() if isinstance(one, bytes) else str(one) for one in dataset[start:stop].tolist()]


class _Table:
    """A table of the file: the names of its rows, and those of its columns that can be read."""

    def __init__(self, file: Any, path: str) -> None:
        self._file, self._path = file, path
        self._group = _node(file, path)
        if not isinstance(self._group, h5py.Group):
            raise _bad(f"keeps {path} as one compound array: the format of before 2019")
        self._names = _dataset(file, f"{path}/{_said(self._group, '_index') or '_index'}")
        self.n_rows = int(self._names.shape[0])

    def names(self, start: int = 0, stop: int | None = None) -> list[str]:
        """Of rows."""
        return _texts(self._names, start, stop)

    def has(self, column: str) -> bool:
        return _has(self._file, f"{self._path}/{column}")

    def kinds(self) -> dict[str, str]:
        """Columns that can be read, in order: `numbers`, `text` or `classes`."""
        found = {name: self._kind(name) for name in self._order()}
        return {name: kind for name, kind in found.items() if kind}

    def left_out(self) -> list[str]:
        """Columns that cannot be read."""
        return [name for name in self._order() if not self._kind(name)]

    def numbers(self, column: str, start: int = 0, stop: int | None = None) -> NDArray[np.float64]:
        """Values of a column of numbers."""
        return np.asarray(_dataset(self._file, f"{self._path}/{column}")[start:stop], dtype=np.float64)

    def texts(self, column: str, start: int = 0, stop: int | None = None) -> list[str]:
        """Values of a column of text or of classes; "" where none is said."""
        path = f"{self._path}/{column}"
        if isinstance(_node(self._file, path), h5py.Dataset):
            return _texts(_dataset(self._file, path), start, stop)
        codes = _dataset(self._file, f"{path}/codes")[start:stop]
        classes = [*_texts(_dataset(self._file, f"{path}/categories")), ""]
        if len(codes) and not -1 <= codes.min() <= codes.max() < len(classes) - 1:
            raise _bad(f"has codes in {path} beyond its categories")
        return [classes[code] for code in codes.tolist()]

    def _order(self) -> list[str]:
        order = self._group.attrs.get("column-order", ())
        return [one.decode("utf-8", "replace") if isinstance(one, bytes) else str(one) for one in np.ravel(order)]

    def _kind(self, column: str) -> str:
        path = f"{self._path}/{column}"
        if not is_plain_name(column) or not _has(self._file, path):
            return ""
        node = _node(self._file, path)
        if isinstance(node, h5py.Group):
            return "classes" if _said(node, "encoding-type") == "categorical" else ""
        found = _dataset(self._file, path)
        if found.shape != (self.n_rows,):
            return ""
        return "numbers" if found.dtype.kind in "iufb" else "text" if found.dtype.kind in "SO" else ""


def _counts(file: Any) -> tuple[str, str, list[str]]:
    """Path of the counts, path of the table of their genes, and the matrices that were passed over."""
    passed_over: list[str] = []
    for path, frame in (("X", "var"), ("layers/counts", "var"), ("raw/X", "raw/var")):
        if _has(file, path) and _has(file, frame):
            values = _first_values(file, path)
            if (values == np.floor(values)).all() and (values >= 0).all():
                return path, frame, passed_over
            passed_over.append(f"{path} (no counts)")
    raise ArrayError(
        "bad_counts", f"has no raw counts: {', '.join(passed_over) or 'no matrix at all'}", "",
        "store raw counts in X, or in layers/counts",
    )  # fmt: skip


def _first_values(file: Any, path: str) -> NDArray[np.float64]:
    if isinstance(_node(file, path), h5py.Group):
        return np.asarray(_dataset(file, f"{path}/data")[:_LOOKED_AT], dtype=np.float64)
    found = _dataset(file, path)
    n_rows = max(1, _LOOKED_AT // max(int(found.shape[-1]), 1))
    return np.asarray(found[:n_rows], dtype=np.float64).ravel()


def _shape(file: Any, path: str) -> tuple[int, int]:
    node = _node(file, path)
    shape: Any = np.ravel(node.attrs.get("shape", ())) if isinstance(node, h5py.Group) else node.shape
    if len(shape) != 2:
        raise _bad(f"has counts in {path} without rows and columns")
    return int(shape[0]), int(shape[1])


_Rows = tuple[NDArray[np.int64], NDArray[np.int32], NDArray[Any]]
"""Where each row begins, genes and counts, as in `SectionBlock`."""


def _row_blocks(file: Any, path: str) -> Iterator[tuple[int, int, _Rows]]:
    """First and last row of each block, and its counts."""
    node, (n_rows, n_genes) = _node(file, path), _shape(file, path)
    kind = _said(node, "encoding-type")
    if isinstance(node, h5py.Dataset):
        yield from _full(_dataset(file, path), n_rows, n_genes)
    elif kind == "csr_matrix":
        yield from _compressed(file, path, n_rows, n_genes)
    elif kind == "csc_matrix":
        yield from _turned(file, path, n_rows, n_genes)
    else:
        raise _bad(f"has counts stored as '{kind[:40]}'")


def _full(dataset: Any, n_rows: int, n_genes: int) -> Iterator[tuple[int, int, _Rows]]:
    at_once = max(1, min(BLOCK_ROWS, _BLOCK_VALUES // max(n_genes, 1)))
    for start in range(0, n_rows, at_once):
        values = dataset[start : start + at_once]
        row, gene = np.nonzero(values)
        indptr = np.searchsorted(row, np.arange(len(values) + 1)).astype(np.int64)
        yield start, start + len(values), (indptr, gene.astype(np.int32), values[row, gene])


def _compressed(file: Any, path: str, n_rows: int, n_genes: int) -> Iterator[tuple[int, int, _Rows]]:
    indptr, indices, data = (_dataset(file, f"{path}/{name}") for name in ("indptr", "indices", "data"))
    if indptr.shape != (n_rows + 1,) or indices.shape != data.shape:
        raise _bad(f"has parts of {path} that do not fit each other")
    for start in range(0, n_rows, BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, n_rows)
        pointers = indptr[start : stop + 1].astype(np.int64)
        low, high = int(pointers[0]), int(pointers[-1])
        if low < 0 or (np.diff(pointers) < 0).any() or high > data.shape[0]:
            raise _bad(f"has rows {start} to {stop} of {path} that begin before the one above ends, or beyond the end")
        genes, counts = indices[low:high].astype(np.int64), data[low:high]
        if len(genes) and not 0 <= genes.min() <= genes.max() < n_genes:
            raise _bad(f"counts genes in rows {start} to {stop} that it does not have")
        pointers -= low
        row = np.repeat(np.arange(stop - start), np.diff(pointers))
        order = np.lexsort((genes, row))
        # A zero that is stored says no more than one that is not.
        order = order[counts[order] != 0]
        ends = np.searchsorted(row[order], np.arange(stop - start + 1)).astype(np.int64)
        yield start, stop, (ends, genes[order].astype(np.int32), counts[order])


def _turned(file: Any, path: str, n_rows: int, n_genes: int) -> Iterator[tuple[int, int, _Rows]]:
    """Compressed columns: a row is whole once all are read; they are turned in memory, within the process's limit."""
    parts = [_dataset(file, f"{path}/{name}")[:] for name in ("data", "indices", "indptr")]
    if len(parts[1]) and not 0 <= parts[1].min() <= parts[1].max() < n_rows:
        raise _bad(f"counts rows in {path} that it does not have")
    try:
        columns = csc_matrix(tuple(parts), shape=(n_rows, n_genes))
        columns.check_format(full_check=True)
    except ValueError as error:
        raise _bad(f"has parts of {path} that do not fit each other: {str(error)[:60]}") from None
    matrix = columns.tocsr()
    matrix.eliminate_zeros()
    matrix.sort_indices()
    for start in range(0, n_rows, BLOCK_ROWS):
        block = matrix[start : start + BLOCK_ROWS]
        rows = (block.indptr.astype(np.int64), block.indices.astype(np.int32), block.data)
        yield start, start + block.shape[0], rows


def _um_per_unit(file: Any, obs: _Table, places: Any) -> float | None:
    """Micrometres per unit of the coordinates, where the file says it or its spots show it."""
    if _has(file, "uns/spatial"):
        libraries = list(_node(file, "uns/spatial"))
        said = f"uns/spatial/{libraries[0]}/scalefactors/microns_per_pixel" if len(libraries) == 1 else ""
        if said and "/" not in libraries[0] and _has(file, said):
            size = float(np.ravel(_dataset(file, said)[()])[0])
            if 0 < size < 1_000:
                return size
    if all(obs.kinds().get(name) == "numbers" for name in ("array_row", "array_col")):
        where = np.asarray(places[:, :2], dtype=np.float64)
        return um_by_pitch(np.column_stack([where, obs.numbers("array_row"), obs.numbers("array_col")]))
    return None


def _bad(what: str) -> ArrayError:
    return ArrayError("bad_section", f"the section {what}", "", "write it again with anndata, or Space Ranger")
