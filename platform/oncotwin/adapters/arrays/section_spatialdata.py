"""Sections in SpatialData's layout: a table of counts, and shapes or points that say where its rows lie.

    tables/NAME             AnnData-Zarr; its attributes name the region it speaks of and the key of its instances
    shapes/REGION/shapes.parquet    circles or outlines (GeoParquet: well-known binary, or points as structures)
    points/REGION/points.parquet    points with columns x and y

Imported in a process under limits alone, since Parquet is decoded (see `bounded`). Places are the region's own
coordinates; its transformations are not applied, so the size of a unit must be given.

Source: Marconato et al. 2025, doi:10.1038/s41592-024-02212-x; OGC 06-103r4 (well-known binary); GeoParquet 1.1.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from oncotwin.adapters.arrays.anndata_zarr import StoredSection
from oncotwin.adapters.arrays.manifest import open_below
from oncotwin.adapters.arrays.section_blocks import SectionSource
from oncotwin.adapters.arrays.zarr_check import check_zarr
from oncotwin.domain.claim import ArrayError, check_path

BLOCK_ROWS = 4_096
_POINT, _POLYGON, _MULTIPOLYGON = 1, 3, 6
_HEIGHT, _MEASURE, _SYSTEM = 0x80000000, 0x40000000, 0x20000000
"""Flags of the extended form of well-known binary; the standard form adds thousands to the kind instead."""


def tables_below(folder: Path) -> list[Path]:
    """The tables of a folder in this layout; none where it is another."""
    tables = folder / "tables"
    return sorted(one for one in tables.iterdir() if (one / "obs").is_dir()) if tables.is_dir() else []


def read_spatialdata(folder: Path, table: Path) -> SectionSource:
    """One table of a folder.

    Raises:
        ArrayError: see `check_zarr` and `StoredSection`; `several_regions`, `unknown_layout` where its region is
            neither shapes nor points, or `unknown_spot` for a row without a place.
    """
    attributes = check_zarr(table).attributes[""]
    stored = StoredSection(table, lambda section: _places(folder, section, attributes))
    text = dict.fromkeys(stored.text_columns(), True) | dict.fromkeys(stored.number_columns(), False)
    return SectionSource(
        folder.name, "SpatialData", stored.genes, stored.gene_names, text, None, stored.blocks(BLOCK_ROWS),
        stored.left_out_columns(),
    )  # fmt: skip


def _places(folder: Path, section: StoredSection, attributes: Any) -> NDArray[np.float64]:
    """(n_rows, 2): centroid of each row's instance."""
    regions = attributes.get("region")
    regions = [regions] if isinstance(regions, str) else regions
    key = attributes.get("instance_key")
    if not isinstance(regions, list) or not isinstance(key, str) or not all(isinstance(one, str) for one in regions):
        raise ArrayError("unknown_layout", "has no places, and names no region for them", folder.name, "add a region")
    if len(regions) != 1:
        raise ArrayError(
            "several_regions", f"speaks of {len(regions)} regions, whose coordinates lie over each other", folder.name,
            "split the table by region",
        )  # fmt: skip
    known: dict[str, tuple[float, float]] = {}
    for name, place in _instances(folder, regions[0]):
        if name in known:
            raise ArrayError("duplicate_id", f"names instance '{name[:60]}' twice", regions[0], "name each once")
        known[name] = place
    column = section.column(key)
    names = column if isinstance(column, list) else [f"{value:.0f}" for value in column]
    missing = next((name for name in names if name not in known), None)
    if missing is not None:
        raise ArrayError("unknown_spot", f"instance '{missing[:60]}' is not in {regions[0]}", folder.name, "add it")
    return np.array([known[name] for name in names], dtype=np.float64).reshape(len(names), 2)


def _instances(folder: Path, region: str) -> Iterator[tuple[str, tuple[float, float]]]:
    """Name and centroid of each instance of a region."""
    for kind in ("shapes", "points"):
        segments = check_path(f"{kind}/{region}/{kind}.parquet", region)
        path = folder.joinpath(*segments)
        if not path.exists():
            continue
        # Points are written in parts: then what has the file's name is a folder.
        parts = sorted(one.name for one in path.iterdir() if one.suffix == ".parquet") if path.is_dir() else [""]
        for part in parts:
            with open_below(folder, [*segments, part] if part else segments):
                pass  # refuses links
            yield from _rows(path / part if part else path)
        return
    raise ArrayError(
        "unknown_layout", f"has region '{region[:60]}' neither in shapes nor in points", folder.name,
        "images of labels are not read: add shapes, or obsm/spatial",
    )  # fmt: skip


def _rows(path: Path) -> Iterator[tuple[str, tuple[float, float]]]:
    file = pq.ParquetFile(path)
    columns = file.schema_arrow.names
    index = _index(file.schema_arrow)
    wanted = ["geometry"] if "geometry" in columns else ["x", "y"]
    if not set(wanted) <= set(columns):
        raise ArrayError("missing_column", "has neither geometry nor x and y", path.name, "write it with spatialdata")
    n_read = 0
    for batch in file.iter_batches(BLOCK_ROWS, columns=[*wanted, *([index] if index else [])]):
        names = batch.column(index).to_pylist() if index else range(n_read, n_read + len(batch))
        n_read += len(batch)
        for name, x, y in zip(names, *_coordinates(batch, wanted, path.name), strict=True):
            yield str(name), (float(x), float(y))


def _index(schema: pa.Schema) -> str | None:
    """Column that names the rows; None where they are numbered."""
    named = (schema.pandas_metadata or {}).get("index_columns", [])
    return str(named[0]) if len(named) == 1 and isinstance(named[0], str) else None


def _coordinates(batch: pa.RecordBatch, wanted: Sequence[str], where: str) -> tuple[Sequence[Any], Sequence[Any]]:
    if wanted != ["geometry"]:
        return batch.column("x").to_pylist(), batch.column("y").to_pylist()
    geometry = batch.column("geometry")
    if pa.types.is_struct(geometry.type):
        return geometry.field("x").to_pylist(), geometry.field("y").to_pylist()
    if not (pa.types.is_binary(geometry.type) or pa.types.is_large_binary(geometry.type)):
        raise ArrayError("type_not_allowed", f"has geometries of type {geometry.type}", where, "write them as WKB")
    pairs = [centroid(raw, where) for raw in geometry.to_pylist()]
    return [x for x, _ in pairs], [y for _, y in pairs]


def centroid(raw: bytes | None, where: str = "") -> tuple[float, float]:
    """Centroid of a point, polygon or multipolygon in well-known binary; holes are left out of the area.

    Raises:
        ArrayError: `cannot_decode`: another geometry, cut off, or without area.
    """
    try:
        (x, y, area), _ = _moments(raw or b"", 0)
    except (struct.error, ValueError) as error:
        raise ArrayError("cannot_decode", f"has a geometry that cannot be read: {error}", where) from None
    if area == 0.0:
        raise ArrayError("cannot_decode", "has an outline without area", where, "leave such cells out")
    return x / area, y / area


def _moments(raw: bytes, at: int) -> tuple[NDArray[np.float64], int]:
    """Area, and area times centroid, of the geometry that begins at a byte, and where it ends; a point's area is 1."""
    order = "<" if raw[at : at + 1] == b"\x01" else ">"
    (kind,) = struct.unpack_from(order + "I", raw, at + 1)
    at += 9 if kind & _SYSTEM else 5
    thousands, plain = divmod(kind & ~(_HEIGHT | _MEASURE | _SYSTEM), 1000)
    width = 2 + (bool(kind & _HEIGHT) or thousands in (1, 3)) + (bool(kind & _MEASURE) or thousands in (2, 3))
    if plain == _POINT:
        x, y = struct.unpack_from(order + "2d", raw, at)
        return np.array([x, y, 1.0]), at + 8 * width
    if plain not in (_POLYGON, _MULTIPOLYGON):
        raise ValueError(f"kind {kind} is neither point nor polygon")
    (n,) = struct.unpack_from(order + "I", raw, at)
    at += 4
    total = np.zeros(3)
    for part in range(n):
        if plain == _MULTIPOLYGON:
            moments, at = _moments(raw, at)
            total += moments
            continue
        (n_points,) = struct.unpack_from(order + "I", raw, at)
        ring = np.frombuffer(raw, order + "f8", n_points * width, at + 4).reshape(n_points, width)[:, :2]
        at += 4 + 8 * n_points * width
        total += _ring(ring) if part == 0 else -_ring(ring)
    return total, at


def _ring(ring: NDArray[np.float64]) -> NDArray[np.float64]:
    """Area, and area times centroid, of a closed ring, whichever way round it runs (Gauss's formula)."""
    if len(ring) < 4:
        raise ValueError(f"a ring of {len(ring)} points")
    # About its own first point: far from the origin the products would lose what they are to differ by.
    x, y = (ring - ring[0]).T
    cross = x[:-1] * y[1:] - x[1:] * y[:-1]
    area = float(cross.sum()) / 2
    first = np.array([(x[:-1] + x[1:]) @ cross, (y[:-1] + y[1:]) @ cross]) / 6
    moments = np.array([*(first + area * ring[0]), area])
    return moments if area >= 0 else -moments
