"""Sections stored as AnnData-Zarr: written row by row in whole shards, read back in blocks of rows.

Coordinates are stored in micrometres (`obsm/spatial`), counts as compressed rows (`X`), names in `obs` and `var`.

Source: AnnData on-disk format specification 0.1.0 (Virshup et al. 2024, doi:10.21105/joss.04371), Zarr version 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, BloscShuffle, ZstdCodec

from oncotwin.adapters.arrays.section_blocks import Column, SectionBlock
from oncotwin.domain.claim import ArrayError

CHUNK_ROWS = 1 << 16
SHARD_ROWS = 1 << 22

_DATAFRAME = {"encoding-type": "dataframe", "encoding-version": "0.2.0"}
_DICT = {"encoding-type": "dict", "encoding-version": "0.1.0"}
_ARRAY = {"encoding-type": "array", "encoding-version": "0.2.0"}
_TEXT = {"encoding-type": "string-array", "encoding-version": "0.2.0"}
_ANNDATA = {"encoding-type": "anndata", "encoding-version": "0.1.0"}
_INDEX = "_index"
OWN = "oncotwin"
"""Entry of `uns` with what this platform says of the section."""


class _Growing:
    """An array that grows by whole shards; only the last one may be shorter."""

    def __init__(self, group: zarr.Group, name: str, kind: str, n_columns: int = 0) -> None:
        trailing = (n_columns,) if n_columns else ()
        text = kind == "text"
        self._array = group.create_array(
            name,
            shape=(0, *trailing),
            chunks=(CHUNK_ROWS, *trailing),
            shards=(SHARD_ROWS, *trailing),
            dtype="string" if text else kind,
            compressors=ZstdCodec(level=3) if text else BloscCodec(cname="lz4", shuffle=BloscShuffle.shuffle),
            attributes=dict(_TEXT if text else _ARRAY),
        )
        self._kind = object if text else np.dtype(kind)
        self._waiting: list[NDArray[Any]] = []
        self._n_waiting = 0
        self._n_written = 0

    def append(self, values: Any) -> None:
        """Add rows at the end."""
        self._waiting.append(np.asarray(values, dtype=self._kind))
        self._n_waiting += len(values)
        if self._n_waiting >= SHARD_ROWS:
            self._flush(whole=True)

    def close(self) -> None:
        """Write what is left."""
        self._flush(whole=False)

    def _flush(self, *, whole: bool) -> None:
        rows = np.concatenate(self._waiting) if self._waiting else np.empty(0, self._kind)
        n = len(rows) - len(rows) % SHARD_ROWS if whole else len(rows)
        if n:
            start = self._n_written
            self._array.resize((start + n, *self._array.shape[1:]))
            self._array[start : start + n] = rows[:n]
            self._n_written += n
        self._waiting, self._n_waiting = [rows[n:]], len(rows) - n


class SectionWriter:
    """Writes one section; the folder is whole once `close` has returned. Memory: one shard of each array."""

    def __init__(self, out: Path, genes: Sequence[str], gene_names: Sequence[str] | None,
                 column_is_text: Mapping[str, bool]) -> None:  # fmt: skip
        self._root = zarr.create_group(out, zarr_format=3)
        self._n_genes = len(genes)
        for name in ("obsm", "varm", "obsp", "varp", "layers", "uns"):
            self._root.create_group(name, attributes=_DICT)
        names = {} if gene_names is None else {"gene_name": gene_names}
        var = self._root.create_group("var", attributes=_DATAFRAME | {"_index": _INDEX, "column-order": list(names)})
        for name, values in {_INDEX: genes, **names}.items():
            column = _Growing(var, name, "text")
            column.append(list(values))
            column.close()
        obs = self._root.create_group(
            "obs", attributes=_DATAFRAME | {"_index": _INDEX, "column-order": list(column_is_text)}
        )
        self._matrix = self._root.create_group("X")
        self._ids = _Growing(obs, _INDEX, "text")
        self._columns = {name: _Growing(obs, name, "text" if text else "f8") for name, text in column_is_text.items()}
        self._coordinates = _Growing(self._group("obsm"), "spatial", "f8", 2)
        self._indptr = _Growing(self._matrix, "indptr", "i8")
        self._indices = _Growing(self._matrix, "indices", "i4")
        self._counts = _Growing(self._matrix, "data", "i4")
        self._indptr.append([0])
        self._n_rows = self._n_counts = 0

    def append(self, block: SectionBlock, um_per_unit: float) -> None:
        """Add rows; coordinates are turned into micrometres."""
        self._ids.append(block.ids)
        self._coordinates.append(block.coordinates * um_per_unit)
        self._indptr.append(block.indptr[1:] + self._n_counts)
        self._indices.append(block.indices)
        self._counts.append(block.counts)
        for name, column in self._columns.items():
            column.append(block.columns[name])
        self._n_rows += len(block.ids)
        self._n_counts += len(block.counts)

    def close(self, said: Mapping[str, str | float]) -> None:
        """Write what is left, and what is said of the section."""
        for array in (self._ids, self._coordinates, self._indptr, self._indices, self._counts, *self._columns.values()):
            array.close()
        own = self._group("uns").create_group(OWN, attributes=_DICT)
        for name, value in said.items():
            kind = "string" if isinstance(value, str) else "numeric-scalar"
            scalar = own.create_array(
                name, shape=(), dtype="string" if isinstance(value, str) else "f8",
                attributes={"encoding-type": kind, "encoding-version": "0.2.0"},
            )  # fmt: skip
            scalar[...] = value
        self._matrix.attrs.update(
            {"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": [self._n_rows, self._n_genes]}
        )
        # Last, so that a folder without it was not finished.
        self._root.attrs.update(_ANNDATA)

    def _group(self, name: str) -> zarr.Group:
        found = self._root[name]
        assert isinstance(found, zarr.Group)
        return found


class StoredSection:
    """A section read back; check a foreign folder with `check_zarr` before it is opened."""

    def __init__(self, folder: Path, place: Callable[[StoredSection], NDArray[np.float64]] | None = None) -> None:
        """Open a folder; `place` finds the coordinates (n_rows, 2) of a section that stores none itself."""
        # A consolidated copy of the headers may be stale.
        self._root = zarr.open_group(folder, mode="r", use_consolidated=False)
        self._where = folder.name
        if self._root.attrs.get("encoding-type") != "anndata":
            raise self._bad("is no AnnData folder, or was not finished")
        self._matrix = self._part("X")
        kind = self._matrix.attrs.get("encoding-type")
        if kind not in ("csr_matrix", "array"):
            raise self._bad(f"has counts stored as '{kind}'; only compressed rows and full rows are read")
        shape = self._matrix.attrs.get("shape") if kind == "csr_matrix" else self._array("X").shape
        if not isinstance(shape, list | tuple) or len(shape) != 2:
            raise self._bad("has counts without a shape")
        self.n_rows, self.n_genes = (int(str(n)) for n in shape)
        self._sparse = kind == "csr_matrix"
        self.genes = self._text(*self._index("var"))
        self._ids = self._index("obs")
        self.coordinate_array: zarr.Array[Any] | NDArray[np.float64] = (
            self._array("obsm/spatial") if place is None or "obsm/spatial" in self._root else place(self)
        )
        if len(self.genes) != self.n_genes or self.coordinate_array.shape[:1] != (self.n_rows,):
            raise self._bad("has parts of different length")
        if self.coordinate_array.ndim != 2 or self.coordinate_array.shape[1] < 2:
            raise self._bad("has coordinates that are no pairs")

    @property
    def gene_names(self) -> list[str] | None:
        """Symbols, where `genes` are other identifiers."""
        return self._text(self._array("var/gene_name"), None) if "var/gene_name" in self._root else None

    def said(self, name: str) -> str | float | None:
        """What this platform says of the section: `platform`, `um_per_unit`, `source`; None if it does not."""
        path = f"uns/{OWN}/{name}"
        if path not in self._root:
            return None
        value = np.asarray(self._array(path)[...]).item()
        return value if isinstance(value, str) else float(value)

    def text_columns(self) -> list[str]:
        """Columns of `obs` that hold text, in order."""
        return [name for name, kind in self._column_kinds().items() if kind != "array"]

    def number_columns(self) -> list[str]:
        """Columns of `obs` that hold numbers, in order."""
        return [name for name, kind in self._column_kinds().items() if kind == "array"]

    def left_out_columns(self) -> list[str]:
        """Columns of `obs` of kinds that are not read."""
        order = self._part("obs").attrs.get("column-order")
        return [str(name) for name in (order if isinstance(order, list) else []) if name not in self._column_kinds()]

    def blocks(self, n_rows: int) -> Iterator[SectionBlock]:
        """Rows, so many at a time; columns are read by `column`."""
        for start in range(0, self.n_rows, n_rows):
            yield self.block(start, min(start + n_rows, self.n_rows))

    def block(self, start: int, stop: int) -> SectionBlock:
        """Rows from `start` up to `stop`, with all their columns.

        Raises:
            ArrayError: the compressed rows contradict themselves.
        """
        columns: dict[str, Column] = {name: self.column(name, start, stop) for name in self._column_kinds()}
        coordinates = np.asarray(self.coordinate_array[start:stop, :2], dtype=np.float64)
        indptr, indices, counts = self._compressed(start, stop) if self._sparse else self._full(start, stop)
        return SectionBlock(self._text(*self._ids, start, stop), coordinates, indptr, indices, counts, columns)

    def column(self, name: str, start: int = 0, stop: int | None = None) -> Column:
        """Values of one column of `obs`."""
        path = f"obs/{name}"
        kind = self._part(path).attrs.get("encoding-type")
        if kind == "array":
            return np.asarray(self._array(path)[start:stop], dtype=np.float64)
        if kind == "categorical":
            codes = np.asarray(self._array(f"{path}/codes")[start:stop])
            names = [*self._text(self._array(f"{path}/categories"), None), ""]
            if len(codes) and not -1 <= codes.min() <= codes.max() < len(names) - 1:
                raise self._bad(f"has codes in {path} beyond its categories")
            return [names[code] for code in codes]
        return self._text(self._array(path), None, start, stop)

    def _compressed(self, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[Any]]:
        pointers = np.asarray(self._array("X/indptr")[start : stop + 1], dtype=np.int64)
        data = self._array("X/data")
        if len(pointers) != stop - start + 1 or (np.diff(pointers) < 0).any() or pointers[0] < 0:
            raise self._bad(f"has rows {start} to {stop} that begin before the one above ends")
        low, high = int(pointers[0]), int(pointers[-1])
        indices = np.asarray(self._array("X/indices")[low:high])
        counts = np.asarray(data[low:high])
        if high > data.shape[0] or len(indices) != len(counts):
            raise self._bad(f"has rows {start} to {stop} beyond its counts")
        if len(indices) and not 0 <= indices.min() <= indices.max() < self.n_genes:
            raise self._bad(f"counts genes in rows {start} to {stop} that it does not have")
        return pointers - low, indices.astype(np.int32), counts

    def _full(self, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[Any]]:
        rows = np.asarray(self._array("X")[start:stop])
        row, gene = np.nonzero(rows)
        return np.searchsorted(row, np.arange(stop - start + 1)), gene.astype(np.int32), rows[row, gene]

    def _column_kinds(self) -> dict[str, str]:
        order = self._part("obs").attrs.get("column-order")
        kinds: dict[str, str] = {}
        for name in order if isinstance(order, list) else []:
            kind = str(self._part(f"obs/{name}").attrs.get("encoding-type"))
            if kind in ("array", "string-array", "categorical"):
                kinds[str(name)] = kind
        return kinds

    def _index(self, frame: str) -> tuple[zarr.Array[Any], zarr.Array[Any] | None]:
        """Array of a table's names, and which of them are missing, where the table says so."""
        path = f"{frame}/{self._part(frame).attrs.get('_index', _INDEX)}"
        if isinstance(self._part(path), zarr.Group):
            return self._array(f"{path}/values"), self._array(f"{path}/mask")
        return self._array(path), None

    def _text(
        self, array: zarr.Array[Any], mask: zarr.Array[Any] | None, start: int = 0, stop: int | None = None
    ) -> list[str]:
        values = [str(value) for value in np.asarray(array[start:stop])]
        if mask is not None and np.asarray(mask[start:stop]).any():
            raise self._bad("has rows without a name")
        return values

    def _part(self, path: str) -> Any:
        if path not in self._root:
            raise self._bad(f"lacks {path}")
        return self._root[path]

    def _array(self, path: str) -> zarr.Array[Any]:
        found = self._part(path)
        if not isinstance(found, zarr.Array):
            raise self._bad(f"has a group where the array {path} belongs")
        return found

    def _bad(self, what: str) -> ArrayError:
        return ArrayError(
            "bad_section", f"the section {what}", self._where, "write it with anndata, or import it again"
        )
