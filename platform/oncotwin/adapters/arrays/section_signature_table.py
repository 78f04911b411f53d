"""The table of a section's cells, one row a row of the input, written some rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

ROWS_AT_ONCE = 1 << 16

IntArray = NDArray[np.int64]
TextOf = Callable[[int, int], list[str]]


def write_cells(
    path: Path, n_rows: int, cell_of: IntArray, texts: Mapping[str, TextOf], columns: Mapping[str, NDArray[Any]],
    every_row: Mapping[str, NDArray[Any]],
) -> None:
    """Write the table.

    Args:
        path: of the file.
        n_rows: rows of the input, in whose order the table is.
        cell_of: (n_rows,) place of a row among the cells that were kept, -1 where it was refused.
        texts: columns of text, by what reads their rows from a first to an end.
        columns: (n_cells,) of the kept cells; a refused row has NaN, -1 or false.
        every_row: (n_rows,) of all rows.
    """
    writer: pq.ParquetWriter | None = None
    for first in range(0, n_rows, ROWS_AT_ONCE):
        end = min(first + ROWS_AT_ONCE, n_rows)
        own = cell_of[first:end]
        table = pa.table(
            {name: pa.array(read(first, end), pa.string()) for name, read in texts.items()}
            | {name: pa.array(np.ascontiguousarray(values[first:end])) for name, values in every_row.items()}
            | {name: pa.array(_spread(values, own)) for name, values in columns.items()}
        )
        writer = writer or pq.ParquetWriter(path, table.schema, compression="snappy")
        writer.write_table(table)
    if writer is not None:
        writer.close()


def _spread(values: NDArray[Any], own: IntArray) -> NDArray[Any]:
    blank = {"f": np.nan, "b": False}.get(values.dtype.kind, -1)
    spread = np.full(len(own), blank, dtype=values.dtype)
    spread[own >= 0] = values[own[own >= 0]]
    return spread
