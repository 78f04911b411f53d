"""The history that analysts read: tables of estimates, innovations and forecasts, outside the store."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Columns = Mapping[str, NDArray[np.generic] | NDArray[Any]]
"""Column name -> values, all of one length; times as ``datetime64[us]`` in UTC."""


class HistoryWriter(Protocol):
    """Writes tables; the store stays the source of truth."""

    def clear(self, name: str) -> None:
        """Drop a table that is to be written anew."""
        ...

    def append(self, name: str, columns: Columns, time_column: str) -> int:
        """Add rows to a table, partitioned by ``institution`` and by the month of a time column.

        Returns:
            Rows written.
        """
        ...

    @property
    def root(self) -> Path:
        """Folder of the tables."""
        ...
