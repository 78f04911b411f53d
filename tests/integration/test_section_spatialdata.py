"""Sections in SpatialData's layout: places from shapes or points, whatever their coding, and hostile ones a message."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from numpy.typing import NDArray

from oncotwin.adapters.arrays.anndata_zarr import StoredSection
from oncotwin.adapters.arrays.bounded import ProcessLimits
from oncotwin.adapters.arrays.section_spatialdata import centroid
from oncotwin.adapters.arrays.sections import import_section
from oncotwin.domain.claim import ArrayError

COUNTS = np.random.default_rng(12).poisson(0.8, (40, 9))
PLACES = np.random.default_rng(13).uniform(0, 500, (40, 2))
LIMITS = ProcessLimits(memory_bytes=4 << 30, cpu_s=60, wall_s=120)


def point(x: float, y: float) -> bytes:
    return struct.pack("<BI2d", 1, 1, x, y)


def polygon(*rings: NDArray[np.float64], order: str = "<") -> bytes:
    raw = struct.pack(order + "BII", order == "<", 3, len(rings))
    for ring in rings:
        raw += struct.pack(order + "I", len(ring)) + ring.astype(order + "f8").tobytes()
    return raw


def square(x: float, y: float, side: float) -> NDArray[np.float64]:
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1], [-1, -1]])
    return np.array([x, y]) + corners * side / 2


def table(
    folder: Path, name: str = "table", attributes: dict[str, Any] | None = None, *, coordinates: bool = False
) -> None:
    """A table of counts that speaks of the region `cells`."""
    root = zarr.create_group(folder / "tables" / name, zarr_format=3)
    said = {"region": "cells", "region_key": "region", "instance_key": "instance"} | (attributes or {})
    root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0", **said})
    for frame, names in (("obs", [f"c{at}" for at in range(40)]), ("var", [f"GENE{at}" for at in range(9)])):
        order = ["instance"] if frame == "obs" else []
        root.create_group(frame).attrs.update({"encoding-type": "dataframe", "_index": "_index", "column-order": order})
        text = root.create_array(f"{frame}/_index", shape=(len(names),), dtype="string", chunks=(16,))
        text[:] = np.array(names, dtype=object)
    root.create_array("obs/instance", data=np.arange(40)[::-1] + 100).attrs["encoding-type"] = "array"
    root.create_array("X", data=COUNTS.astype(np.float32)).attrs["encoding-type"] = "array"
    root.create_group("obsm")
    if coordinates:
        root.create_array("obsm/spatial", data=PLACES)


def parquet(path: Path, columns: dict[str, Any], index: Any) -> None:
    """A table as geopandas or dask writes it: the index is named in pandas' own metadata."""
    path.parent.mkdir(parents=True)
    made = pa.table(columns | {"__index_level_0__": pa.array(index)})
    about = {"index_columns": ["__index_level_0__"], "columns": [], "column_indexes": []}
    pq.write_table(made.replace_schema_metadata({b"pandas": json.dumps(about).encode()}), path)


def spatialdata(folder: Path, geometry: Any, index: Any = range(139, 99, -1), **more: Any) -> Path:
    zarr.create_group(folder, zarr_format=3)
    table(folder, **more)
    parquet(folder / "shapes" / "cells" / "shapes.parquet", {"geometry": geometry}, list(index))
    return folder


def places(folder: Path, um_per_unit: float = 2.0) -> NDArray[np.float64]:
    out = folder.parent / f"{folder.name}.out.zarr"
    made = import_section(folder, out, um_per_unit, limits=LIMITS)
    assert (made.n_rows, made.total_counts, made.platform) == (40, COUNTS.sum(), "SpatialData")
    return StoredSection(out).block(0, 40).coordinates


def test_places_come_from_circles_and_outlines(tmp_path: Path) -> None:
    circles = [point(x, y) for x, y in PLACES]
    np.testing.assert_allclose(places(spatialdata(tmp_path / "a", circles)), 2 * PLACES)
    # Whatever the order of the shapes, a row finds its own.
    turned = spatialdata(tmp_path / "b", circles[::-1], range(100, 140))
    np.testing.assert_allclose(places(turned), 2 * PLACES)
    outlines = [polygon(square(x, y, 9.0), order="<>"[at % 2]) for at, (x, y) in enumerate(PLACES)]
    np.testing.assert_allclose(places(spatialdata(tmp_path / "c", outlines)), 2 * PLACES)
    x, y = PLACES.T
    structures = pa.StructArray.from_arrays([pa.array(x), pa.array(y)], names=["x", "y"])
    np.testing.assert_allclose(places(spatialdata(tmp_path / "d", structures)), 2 * PLACES)


def test_places_come_from_points_or_from_the_table_itself(tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "a", zarr_format=3)
    table(tmp_path / "a")
    for part in range(2):
        own, path = slice(20 * part, 20 * part + 20), tmp_path / "a" / "points" / "cells" / "points.parquet"
        columns = {"x": pa.array(PLACES[own, 0]), "y": pa.array(PLACES[own, 1])}
        parquet(path / f"part.{part}.parquet" / "x", columns, range(139, 99, -1)[own])
        (path / f"part.{part}.parquet" / "x").rename(path / f"p{part}.parquet")
        (path / f"part.{part}.parquet").rmdir()
    np.testing.assert_allclose(places(tmp_path / "a"), 2 * PLACES)
    zarr.create_group(tmp_path / "b", zarr_format=3)
    table(tmp_path / "b", coordinates=True)
    np.testing.assert_allclose(places(tmp_path / "b"), 2 * PLACES)


def test_one_of_several_tables_is_named(tmp_path: Path) -> None:
    folder = spatialdata(tmp_path / "a", [point(x, y) for x, y in PLACES])
    table(folder, "other")
    rejected(folder, "several_tables", "tables/other")
    made = import_section(folder / "tables" / "table", tmp_path / "out.zarr", 1.0, limits=LIMITS)
    assert made.total_counts == COUNTS.sum()


def test_centroids_are_those_of_geometry() -> None:
    triangle = np.array([[0.0, 0], [6, 0], [0, 3], [0, 0]])
    assert centroid(polygon(triangle)) == pytest.approx((2.0, 1.0))
    assert centroid(polygon(triangle[::-1])) == pytest.approx((2.0, 1.0))
    far = triangle + 1e7
    assert centroid(polygon(far)) == pytest.approx((1e7 + 2, 1e7 + 1), abs=1e-6)
    # A square of side 4 about nil without a square of side 2 about (1, 0): areas 16 and 4.
    assert centroid(polygon(square(0, 0, 4), square(1, 0, 2))) == pytest.approx((-4 / 12, 0.0))
    parts = polygon(square(0, 0, 2)) + polygon(square(9, 3, 4))
    several = struct.pack("<BII", 1, 6, 2) + parts
    assert centroid(several) == pytest.approx((9 * 16 / 20, 3 * 16 / 20))
    with_height = struct.pack("<BI3d", 1, 1001, 4.0, 5.0, 6.0)
    extended = struct.pack("<BII3d", 1, 0xA0000001, 4326, 4.0, 5.0, 6.0)
    assert centroid(with_height) == centroid(extended) == (4.0, 5.0)


@pytest.mark.parametrize(
    "raw",
    [
        None, b"", b"\x01", point(1, 2)[:-1], polygon(square(0, 0, 1))[:-1], polygon(square(0, 0, 0)),
        polygon(square(0, 0, 1)[:3]), struct.pack("<BII", 1, 3, 2**32 - 1), struct.pack("<BI", 1, 2) + bytes(40),
    ],
)  # fmt: skip
def test_geometries_that_are_none(raw: bytes | None) -> None:
    with pytest.raises(ArrayError, match=r"geometry|area"):
        centroid(raw)


def rejected(folder: Path, code: str, said: str = "", um_per_unit: float | None = 1.0) -> None:
    """The section is rejected and nothing is left of the attempt."""
    out = folder.parent / "made" / "a.zarr"
    with pytest.raises(ArrayError) as caught:
        import_section(folder, out, um_per_unit, limits=LIMITS)
    assert caught.value.reason_code == code, caught.value
    assert said in str(caught.value)
    assert not list(out.parent.iterdir())


def test_hostile_folders(tmp_path: Path) -> None:
    circles = [point(x, y) for x, y in PLACES]
    rejected(spatialdata(tmp_path / "a", circles, range(40)), "unknown_spot", "139")
    rejected(spatialdata(tmp_path / "b", circles, [139] * 40), "duplicate_id", "139")
    rejected(spatialdata(tmp_path / "c", [b"x"] * 40), "cannot_decode", "geometry")
    rejected(spatialdata(tmp_path / "d", [1.0] * 40), "type_not_allowed", "WKB")
    rejected(spatialdata(tmp_path / "e", circles, attributes={"region": "labels"}), "unknown_layout", "labels")
    rejected(spatialdata(tmp_path / "f", circles, attributes={"region": ["a", "b"]}), "several_regions")
    rejected(spatialdata(tmp_path / "g", circles, attributes={"region": "../../x"}), "bad_path")
    rejected(spatialdata(tmp_path / "h", circles), "no_pixel_size", um_per_unit=None)
    linked = spatialdata(tmp_path / "i", circles)
    path = linked / "shapes" / "cells" / "shapes.parquet"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    rejected(linked, "link")
    path.unlink()
    path.write_bytes((tmp_path / "elsewhere").read_bytes()[:-30])
    rejected(linked, "cannot_decode")
    nowhere = [point(np.nan, 1.0), *circles[1:]]
    rejected(spatialdata(tmp_path / "j", nowhere), "bad_coordinates", "row 1")
