"""The exported history: what fastparquet writes, pyarrow and fastparquet read alike, and xarray opens labelled."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import fastparquet
import numpy as np
import pandas as pd
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from oncotwin.adapters import parquet_history
from oncotwin.adapters.parquet_history import ParquetHistory, open_posterior, read_table, write_table
from oncotwin.domain.errors import ConfigurationError

COMPONENTS = ("log_growth", "lesion T1: log_sensitive")
DAYS = ["1995-06-27", "2300-01-02T03:04:05.678901"]
Table = dict[str, NDArray[Any]]


def posterior(institution: str, patient: str, times: list[str], version: str = "3") -> Table:
    """Rows of one patient: two components after each event; the median tells which."""
    n, k = len(times), len(COMPONENTS)
    median = np.array([10.0 * i + j for i in range(n) for j in range(k)])
    return {
        "institution": np.array([institution] * n * k), "patient": np.array([patient] * n * k),
        "time": np.repeat(np.array(times, dtype="datetime64[us]"), k), "model": np.array(["tumour_burden"] * n * k),
        "component": np.array(COMPONENTS * n), "model_version": np.array([version] * n * k), "q05": median - 1,
        "q50": median, "q95": median + 1,
    }


def export(root: Path, *tables: Table) -> None:
    """One export of the posterior."""
    history = ParquetHistory(root)
    history.clear("estimates")
    for table in tables:
        history.append("estimates", table, "time")


def read_by_fastparquet(folder: Path) -> pd.DataFrame:
    """The table as fastparquet reads it; it leaves its files open, so they are given to it as bytes."""

    def open_with(path: str, mode: str = "rb") -> io.BytesIO:
        assert mode == "rb"
        return io.BytesIO(Path(path).read_bytes())

    return fastparquet.ParquetFile(str(folder), open_with=open_with).to_pandas()


def test_both_readers_see_what_was_written(tmp_path: Path) -> None:
    columns: Table = {
        "institution": np.array(["north", "north", "007"]), "patient": np.array(["p1", "süd-ß", "p1"]),
        "time": np.array([DAYS[0], DAYS[1], DAYS[0]], dtype="datetime64[us]"),
        "value": np.array([1.0, np.nan, -0.1]), "n": np.array([1, 2, 3]), "censored": np.array([True, False, True]),
    }
    history = ParquetHistory(tmp_path / "new" / "export")
    assert history.append("forecasts", columns, "time") == 3
    assert history.append("forecasts", {name: values[:1] for name, values in columns.items()}, "time") == 1
    folder = history.root / "forecasts"
    assert {path.parent.relative_to(folder).as_posix() for path in folder.rglob("*.parquet")} == {
        "institution=north/month=1995-06", "institution=north/month=2300-01", "institution=007/month=1995-06",
    }
    by_arrow = ds.dataset(str(folder), partitioning="hive").to_table().to_pandas()
    for frame in (by_arrow, read_by_fastparquet(folder), read_table(history.root, "forecasts")):
        assert len(frame) == 4
        found = frame[frame["patient"] == "süd-ß"].iloc[0]
        assert (found["institution"], found["month"], found["n"], found["censored"]) == ("north", "2300-01", 2, False)
        assert found["time"] == pd.Timestamp(np.datetime64(DAYS[1])).tz_localize("UTC")
        assert np.isnan(found["value"])
        assert sorted(frame["value"].dropna()) == [-0.1, 1.0, 1.0]
    assert read_table(history.root, "forecasts", institution="007")["n"].tolist() == [3]


def test_one_table_is_one_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "forecasts.parquet"
    for n in (3, 2):
        write_table(path, {"q05": np.arange(float(n)), "time": np.array([DAYS[1]] * n, dtype="datetime64[us]")})
    table = pq.read_table(path)
    assert table.column("q05").to_pylist() == [0.0, 1.0]
    assert str(table.schema.field("time").type) == "timestamp[us, tz=UTC]"
    with pytest.raises(ConfigurationError, match="writable"):
        write_table(tmp_path / "new" / "forecasts.parquet" / "below.parquet", {"q05": np.zeros(1)})


def test_a_second_export_takes_the_place_of_the_first(tmp_path: Path) -> None:
    for version in ("1", "2"):
        export(tmp_path, posterior("north", "p1", DAYS, version))
    assert set(open_posterior(tmp_path)["model_version"].values.ravel()) == {"2"}


def test_a_posterior_opens_labelled(tmp_path: Path) -> None:
    export(
        tmp_path, posterior("north", "p1", DAYS), posterior("007", "p1", DAYS[1:], "4"),
        # Two events of one moment: the later in the fold is what was believed.
        posterior("north", "p2", [DAYS[0], DAYS[0]]),
    )
    found = open_posterior(tmp_path)
    assert dict(found.sizes) == {"patient": 3, "time": 2, "state": 2, "quantile": 3}
    assert list(found["patient"].values) == ["007/p1", "north/p1", "north/p2"]
    assert list(found["quantile"].values) == [0.05, 0.5, 0.95]
    assert found["time"].values[1] == np.datetime64(DAYS[1])
    one = found["estimate"].sel(patient="north/p1", state="tumour_burden.lesion T1: log_sensitive")
    np.testing.assert_array_equal(one.values, [[0.0, 1.0, 2.0], [10.0, 11.0, 12.0]])
    assert found["model_version"].sel(patient="007/p1").values.tolist() == ["", "4"]
    assert np.isnan(found["estimate"].sel(patient="007/p1").values[0]).all()
    last = found["estimate"].sel(patient="north/p2", state="tumour_burden.log_growth", quantile=0.5)
    assert last.values[0] == 10.0
    assert list(open_posterior(tmp_path, institution="007")["patient"].values) == ["007/p1"]
    assert list(open_posterior(tmp_path, patients=["north/p1"])["patient"].values) == ["north/p1"]
    with pytest.raises(ConfigurationError, match="no rows"):
        open_posterior(tmp_path, institution="south")


def test_a_posterior_too_large_to_be_dense_is_asked_for_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(tmp_path, posterior("north", "p1", DAYS), posterior("007", "p1", DAYS))
    monkeypatch.setattr(parquet_history, "_MAX_CELLS", 12)
    with pytest.raises(ConfigurationError, match="in parts"):
        open_posterior(tmp_path)
    assert open_posterior(tmp_path, institution="007").sizes["patient"] == 1


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="oncotwin export"):
        open_posterior(tmp_path)
    history = ParquetHistory(tmp_path)
    assert history.append("estimates", {"institution": np.array([]), "time": np.array([])}, "time") == 0
    export(tmp_path, posterior("north", "p1", DAYS))
    other = {"institution": np.array(["north"]), "time": np.array(DAYS[:1], dtype="datetime64[us]")}
    with pytest.raises(ConfigurationError, match="other table"):
        history.append("estimates", other, "time")
    precious = tmp_path / "forecasts" / "thesis.txt"
    precious.parent.mkdir()
    precious.write_text("years of work")
    with pytest.raises(ConfigurationError, match="another folder"):
        history.clear("forecasts")
    assert precious.read_text() == "years of work"
