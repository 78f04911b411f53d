"""Nuclei of a slide on their way to a table whose order does not depend on tiles, whatever their number.

They are put down on disk by squares of about a millimetre as tiles come in, and taken up square by square: what is held
in memory are those of one square. The table has the squares row by row, and within each its nuclei by their seeds, row
by row.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from oncotwin.adapters.arrays.slide_signature_passes import unpacked
from oncotwin.spatial.slide_grid import SlideGrid
from oncotwin.spatial.slide_maps import USABLE
from oncotwin.spatial.slide_nuclei import Nuclei, measure

Table = NDArray[np.int32]

SQUARE_PIXELS = 2_048
"""Working pixels along a square."""
ROWS_AT_ONCE = 1 << 16
_N_COLUMNS = len(Nuclei.__dataclass_fields__)
_SCHEMA = pa.schema(
    [(name, pa.float64()) for name in ("x_um", "y_um", "area_um2", "eccentricity", "intensity")]
    + [("usable", pa.bool_())]
)


class NucleiSpool:
    """Tables of nuclei, put down in any order and taken up in that of their places."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w+b")
        self._pieces: dict[tuple[int, int], list[tuple[int, int]]] = {}
        self.n_nuclei = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, nuclei: Table) -> None:
        """Put down the nuclei (n, 9) of a tile."""
        squares = nuclei[:, :2] // SQUARE_PIXELS
        order = np.lexsort((squares[:, 1], squares[:, 0]))
        nuclei, squares = nuclei[order], squares[order]
        cuts = np.flatnonzero((np.diff(squares, axis=0) != 0).any(axis=1)) + 1
        self._file.seek(0, 2)
        for piece, square in zip(np.split(nuclei, cuts), np.split(squares, cuts), strict=True):
            if len(piece):
                place = int(square[0, 0]), int(square[0, 1])
                self._pieces.setdefault(place, []).append((self._file.tell(), len(piece)))
                self._file.write(piece.astype("<i4").tobytes())
        self.n_nuclei += len(nuclei)

    def by_square(self) -> Iterator[Table]:
        """The nuclei of each square, by row and column of their seeds."""
        for place in sorted(self._pieces):
            parts = [self._read(*piece) for piece in self._pieces[place]]
            table = np.concatenate(parts)
            yield table[np.lexsort((table[:, 1], table[:, 0]))]

    def _read(self, offset: int, n: int) -> Table:
        self._file.seek(offset)
        content = self._file.read(4 * _N_COLUMNS * n)
        return np.frombuffer(content, "<i4").astype(np.int32).reshape(n, _N_COLUMNS)


def write_nuclei(path: Path, spool: NucleiSpool, grid: SlideGrid, quality: NDArray[np.uint8], cell: int) -> int:
    """Write ``nuclei.parquet``, in row groups of fixed size.

    Args:
        path: of the file.
        spool: with all nuclei.
        grid: of the slide.
        quality: (rows, columns) of the map, by `cell_quality`.
        cell: side of a map's cell in working pixels.
    Returns:
        how many nuclei lie where the slide is usable; the table says so of each.
    """
    rest, n_usable = _SCHEMA.empty_table(), 0
    with pq.ParquetWriter(path, _SCHEMA, compression="snappy") as writer:
        for table in spool.by_square():
            usable = quality[table[:, 0] // cell, table[:, 1] // cell] == USABLE
            n_usable += int(np.count_nonzero(usable))
            measured = measure(unpacked(table), grid)
            columns = [pa.array(getattr(measured, name)) for name in _SCHEMA.names[:-1]]
            rest = pa.concat_tables([rest, pa.table([*columns, pa.array(usable)], schema=_SCHEMA)])
            while rest.num_rows >= ROWS_AT_ONCE:
                writer.write_table(rest.slice(0, ROWS_AT_ONCE).combine_chunks())
                rest = rest.slice(ROWS_AT_ONCE)
        writer.write_table(rest.combine_chunks())
    return n_usable
