"""Parquet by fastparquet: the one module that knows the engine, so that another can take its place.

fastparquet's upstream has announced its retirement. Tables are read back by pyarrow, which lets the partitions' types
be said: read by guessing, institution "007" would become the number 7.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fastparquet
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import xarray as xr

from oncotwin.domain.errors import ConfigurationError
from oncotwin.ports.history import Columns

_QUANTILES = {"q05": 0.05, "q50": 0.50, "q95": 0.95}
_LAYOUT = ds.partitioning(pa.schema([("institution", pa.string()), ("month", pa.string())]), flavor="hive")
_MAX_CELLS = 250_000_000
"""A labelled array is dense: more cells than this, 2 GB, must be asked for in parts."""


def write_table(path: Path, columns: Columns) -> None:
    """Write one table as one Parquet file, whatever was there before.

    Times without a zone are marked as UTC.

    Raises:
        ConfigurationError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fastparquet.write(str(path), _frame(columns), compression="SNAPPY", write_index=False)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written ({error}); choose a writable folder") from error


class ParquetHistory:
    """See `HistoryWriter`: one folder a table, ``institution=I/month=YYYY-MM/part.N.parquet`` below it."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def root(self) -> Path:
        """Folder of the tables."""
        return self._root

    def clear(self, name: str) -> None:
        """Drop a table that is to be written anew.

        Raises:
            ConfigurationError: the folder of that name is no exported table, so it is left alone.
        """
        folder = self._root / name
        if folder.exists() and not (folder / "_metadata").exists() and any(folder.iterdir()):
            raise ConfigurationError(f"{folder} is there and is no exported table; export to another folder")
        shutil.rmtree(folder, ignore_errors=True)

    def append(self, name: str, columns: Columns, time_column: str) -> int:
        """Add rows to a table, partitioned by ``institution`` and by the month of a time column.

        Returns:
            Number of rows added.
        Raises:
            ConfigurationError: the folder cannot be written to, or holds a table of other columns.
        """
        frame = _frame(columns)
        if frame.empty:
            return 0
        frame["month"] = frame[time_column].dt.strftime("%Y-%m")
        folder = self._root / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            fastparquet.write(
                str(folder), frame, file_scheme="hive", partition_on=["institution", "month"], compression="SNAPPY",
                write_index=False, append=(folder / "_metadata").exists(),
            )
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"table {name} cannot be written to {self._root} ({error}); export to a writable folder that holds no "
                "other table of this name"
            ) from error
        return len(frame)


def drop_patient(root: Path, name: str, institution: str, patient: str) -> int:
    """Write a table's files anew without one patient.

    The table's metadata, which hold the smallest and greatest value of every column, are made anew each time: whoever
    was interrupted calls again.

    Returns:
        Rows taken away.
    Raises:
        ConfigurationError: a file cannot be read or written.
    """
    folder = root / name
    if not (folder / "_metadata").exists():
        return 0
    n = 0
    try:
        for path in sorted(folder.glob(f"institution={institution}/month=*/*.parquet")):
            table = pq.ParquetFile(path).read()
            kept = table.filter(pc.not_equal(table["patient"], patient))
            if kept.num_rows == table.num_rows:
                continue
            n += table.num_rows - kept.num_rows
            if kept.num_rows == 0:
                path.unlink()
                continue
            fresh = path.with_suffix(".new")
            fastparquet.write(str(fresh), kept.to_pandas(), compression="SNAPPY", write_index=False)
            fresh.replace(path)
        files = sorted(str(path) for path in folder.glob("institution=*/month=*/*.parquet"))
        if files:
            fastparquet.writer.merge(files, root=str(folder))
        else:
            shutil.rmtree(folder)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ConfigurationError(
            f"table {folder} cannot be written without a patient ({error}); make it writable, then "
            "`oncotwin erase --resume`"
        ) from error
    return n


def read_table(
    root: Path, name: str, columns: Sequence[str] | None = None, institution: str | None = None
) -> pd.DataFrame:
    """A table written by `ParquetHistory`, or one institution's part of it.

    Raises:
        ConfigurationError: there is none.
    """
    folder = root / name
    if not (folder / "_metadata").exists():
        raise ConfigurationError(f"{folder} holds no table {name!r}; run `oncotwin export {root}`")
    chosen = None if institution is None else ds.field("institution") == institution
    # The metadata of fastparquet are files without the ending; pyarrow passes over names with an underscore.
    table = ds.dataset(str(folder), partitioning=_LAYOUT)
    return table.to_table(columns=list(columns) if columns else None, filter=chosen).to_pandas()


def open_posterior(
    root: Path, *, institution: str | None = None, patients: Sequence[str] | None = None
) -> xr.Dataset:
    """The exported posterior as a labelled Dataset.

    Args:
        institution: only of this one. patients: only these, as ``<institution>/<patient>``.
    Returns:
        ``estimate`` over (patient, time, state, quantile) in the models' own scales, NaN where a patient has no
        estimate at a time or no such state, and ``model_version`` over (patient, time); ``patient`` is
        ``<institution>/<patient>``, ``state`` is ``<model>.<component>``, ``time`` is UTC. Of several events at one
        time the last in the fold counts.
    Raises:
        ConfigurationError: nothing of what was asked for is there, or it is too much for one dense array.
    """
    wanted = ["institution", "patient", "time", "model", "component", "model_version", *_QUANTILES]
    frame = read_table(root, "estimates", wanted, institution)
    names = frame["institution"] + "/" + frame["patient"]
    if patients is not None:
        frame, names = frame[names.isin(set(patients))], names[names.isin(set(patients))]
    if frame.empty:
        raise ConfigurationError(f"the posterior in {root} has no rows of what was asked for")
    patient_names, patient_at = np.unique(names.to_numpy(dtype=str), return_inverse=True)
    states = (frame["model"] + "." + frame["component"]).to_numpy(dtype=str)
    state_names, state_at = np.unique(states, return_inverse=True)
    times, time_at = np.unique(frame["time"].dt.tz_convert(None).to_numpy(), return_inverse=True)
    shape = (len(patient_names), len(times), len(state_names), len(_QUANTILES))
    if int(np.prod(shape)) > _MAX_CELLS:
        raise ConfigurationError(
            f"the posterior of {shape[0]:,} patients at {shape[1]:,} times has {int(np.prod(shape)):,} cells; open it "
            "in parts by `institution` or `patients`"
        )
    values: Any = np.full(shape, np.nan)
    for place, quantile in enumerate(_QUANTILES):
        values[patient_at, time_at, state_at, place] = frame[quantile].to_numpy()
    versions: Any = np.full(shape[:2], "", dtype=object)
    versions[patient_at, time_at] = frame["model_version"].to_numpy()
    return xr.Dataset(
        {
            "estimate": (("patient", "time", "state", "quantile"), values),
            "model_version": (("patient", "time"), versions.astype(str)),
        },
        coords={
            "patient": patient_names, "time": times, "state": state_names, "quantile": list(_QUANTILES.values()),
        },
        attrs={"source": str(root), "scale": "each model's own (mostly logarithms)"},
    )


def _frame(columns: Columns) -> pd.DataFrame:
    """Columns as a frame, times marked as UTC."""
    frame = pd.DataFrame(dict(columns))
    for name in frame.columns:
        if frame[name].dtype.kind == "M" and getattr(frame[name].dt, "tz", None) is None:
            frame[name] = frame[name].dt.tz_localize("UTC")
    return frame
