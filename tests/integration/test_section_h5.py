"""Sections in HDF5: every storage of counts becomes the same AnnData-Zarr, and hostile files a message."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import csc_matrix, csr_matrix

from oncotwin.adapters.arrays.anndata_zarr import StoredSection
from oncotwin.adapters.arrays.bounded import ProcessLimits
from oncotwin.adapters.arrays.sections import ImportedSection, import_section
from oncotwin.adapters.arrays.zarr_check import check_zarr
from oncotwin.domain.claim import ArrayError

COUNTS = np.random.default_rng(11).poisson(0.8, (60, 17))
CELLS = [f"cell{at}" for at in range(60)]
GENES = [f"ENSG{at:011d}" for at in range(17)]
SYMBOLS = [f"GENE{at}" for at in range(17)]
LIMITS = ProcessLimits(memory_bytes=3 << 30, cpu_s=60, wall_s=120)


def put_matrix(file: Any, path: str, counts: NDArray[Any], kind: str) -> None:
    """Counts as AnnData stores them."""
    if kind == "array":
        file.create_dataset(path, data=counts.astype(np.float32), compression="gzip").attrs["encoding-type"] = "array"
        return
    made = csr_matrix(counts) if kind == "csr" else csc_matrix(counts)
    group = file.create_group(path)
    group.attrs["encoding-type"] = f"{kind}_matrix"
    group.attrs["shape"] = counts.shape
    group.create_dataset("data", data=made.data.astype(np.float32), compression="gzip")
    for name in ("indices", "indptr"):
        group.create_dataset(name, data=getattr(made, name))


def h5ad(path: Path, kind: str = "csr", change: Callable[[Any], None] | None = None) -> Path:
    """An AnnData file with two columns that are read and one that is not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        put_matrix(file, "X", COUNTS, kind)
        for frame, names, order in (("obs", CELLS, ["kind", "age", "odd"]), ("var", GENES, ["gene_symbols"])):
            group = file.create_group(frame)
            group.attrs["encoding-type"], group.attrs["_index"], group.attrs["column-order"] = "dataframe", "id", order
            group.create_dataset("id", data=names, dtype=h5py.string_dtype())
        file["var"].create_dataset("gene_symbols", data=SYMBOLS, dtype=h5py.string_dtype())
        kinds = file["obs"].create_group("kind")
        kinds.attrs["encoding-type"] = "categorical"
        kinds.create_dataset("codes", data=np.arange(60, dtype=np.int8) % 3 - 1)
        kinds.create_dataset("categories", data=["T", "B"], dtype=h5py.string_dtype())
        file["obs"].create_dataset("age", data=np.arange(60))
        file["obs"].create_group("odd").attrs["encoding-type"] = "nullable-integer"
        file.create_dataset("obsm/spatial", data=np.arange(120.0).reshape(60, 2))
        if change is not None:
            change(file)
    return path


def imported(source: Path, um_per_unit: float | None = 0.5) -> tuple[ImportedSection, StoredSection]:
    out = source.parent / f"{source.stem}.out.zarr"
    made = import_section(source, out, um_per_unit, limits=LIMITS)
    check_zarr(out)
    return made, StoredSection(out)


def dense(section: StoredSection) -> NDArray[np.int64]:
    block = section.block(0, section.n_rows)
    out = np.zeros((section.n_rows, section.n_genes), np.int64)
    out[np.repeat(np.arange(section.n_rows), np.diff(block.indptr)), block.indices] = block.counts
    return out


@pytest.mark.parametrize("kind", ["csr", "csc", "array"])
def test_an_anndata_file_is_read(tmp_path: Path, kind: str) -> None:
    made, section = imported(h5ad(tmp_path / "a.h5ad", kind))
    np.testing.assert_array_equal(dense(section), COUNTS)
    assert (made.n_rows, made.n_genes, made.total_counts) == (60, 17, COUNTS.sum())
    assert made.left_out == ("odd",)
    assert section.genes == GENES and section.gene_names == SYMBOLS
    block = section.block(0, 3)
    assert block.ids == CELLS[:3] and block.columns["kind"] == ["", "T", "B"]
    np.testing.assert_array_equal(block.columns["age"], [0, 1, 2])
    np.testing.assert_array_equal(block.coordinates, np.arange(6.0).reshape(3, 2) / 2)


def test_raw_counts_are_found_where_they_lie(tmp_path: Path) -> None:
    def normalised(file: Any) -> None:
        file["X/data"][...] = np.log1p(file["X/data"][...])
        put_matrix(file, "layers/counts", COUNTS, "csr")

    made, section = imported(h5ad(tmp_path / "a.h5ad", change=normalised))
    np.testing.assert_array_equal(dense(section), COUNTS)
    assert made.left_out == ("X (no counts)", "odd")

    def only_raw(file: Any) -> None:
        file["X/data"][...] = file["X/data"][...] / 3
        put_matrix(file, "raw/X", COUNTS[:, :5], "csr")
        var = file.create_group("raw/var")
        var.attrs["_index"] = "id"
        var.create_dataset("id", data=GENES[:5], dtype=h5py.string_dtype())

    _, section = imported(h5ad(tmp_path / "b.h5ad", change=only_raw))
    np.testing.assert_array_equal(dense(section), COUNTS[:, :5])
    assert section.genes == GENES[:5]


def test_the_size_of_a_unit_is_the_file_s_or_the_spots_own(tmp_path: Path) -> None:
    def said(file: Any) -> None:
        file.create_dataset("uns/spatial/lib/scalefactors/microns_per_pixel", data=0.27)

    assert imported(h5ad(tmp_path / "a.h5ad", change=said), None)[0].um_per_unit == 0.27

    def honeycomb(file: Any) -> None:
        row, column = np.divmod(np.arange(60), 10)
        file["obs"].attrs["column-order"] = ["array_row", "array_col"]
        file["obs/array_row"], file["obs/array_col"] = row, 2 * column + row % 2
        file["obsm/spatial"][...] = np.column_stack([40.0 * column + 20 * (row % 2), 34.6 * row])

    assert imported(h5ad(tmp_path / "b.h5ad", change=honeycomb), None)[0].um_per_unit == pytest.approx(2.5)
    rejected(h5ad(tmp_path / "c" / "c.h5ad"), "no_pixel_size", "--um-per-unit", None)


def tenx(folder: Path, change: Callable[[Any], None] | None = None) -> Path:
    """A folder of Space Ranger with its matrix in HDF5; one feature is an antibody."""
    (folder / "spatial").mkdir(parents=True)
    with (folder / "spatial" / "tissue_positions.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres"])
        for at, name in enumerate(CELLS):
            row, column = divmod(at, 10)
            rows.writerow([name, 1, row, 2 * column, 35 * row, 40 * column])
    (folder / "spatial" / "scalefactors_json.json").write_text(json.dumps({"microns_per_pixel": 2.5}))
    made = csr_matrix(COUNTS)
    with h5py.File(folder / "filtered_feature_bc_matrix.h5", "w") as file:
        group = file.create_group("matrix")
        for name, values in (("data", made.data), ("indices", made.indices), ("indptr", made.indptr)):
            group.create_dataset(name, data=values)
        group.create_dataset("shape", data=COUNTS.shape[::-1])
        group.create_dataset("barcodes", data=np.array(CELLS, "S"))
        group.create_dataset("features/id", data=np.array(GENES, "S"))
        group.create_dataset("features/name", data=np.array(SYMBOLS, "S"))
        kinds = ["Gene Expression"] * 17
        kinds[3] = "Antibody Capture"
        group.create_dataset("features/feature_type", data=np.array(kinds, "S"))
        if change is not None:
            change(file)
    return folder


def test_a_matrix_of_10x_is_read_with_the_places_beside_it(tmp_path: Path) -> None:
    made, section = imported(tenx(tmp_path / "v"), None)
    np.testing.assert_array_equal(dense(section), np.delete(COUNTS, 3, axis=1))
    assert made.left_out == ("Antibody Capture",) and made.um_per_unit == 2.5 and made.platform == "10x Visium"
    assert section.gene_names is not None and section.gene_names[3] == "GENE4"
    np.testing.assert_array_equal(section.block(11, 12).coordinates, [[100.0, 87.5]])
    alone = import_section(tmp_path / "v" / "filtered_feature_bc_matrix.h5", tmp_path / "b.zarr", limits=LIMITS)
    assert alone.total_counts == made.total_counts


def rejected(source: Path, code: str, said: str = "", um_per_unit: float | None = 1.0) -> None:
    """The section is rejected and nothing is left of the attempt."""
    out = source.parent / "made" / "a.zarr"
    with pytest.raises(ArrayError) as caught:
        import_section(source, out, um_per_unit, limits=LIMITS)
    assert caught.value.reason_code == code, caught.value
    assert said in str(caught.value)
    assert not list(out.parent.iterdir())


def replaced(path: str, **how: Any) -> Callable[[Any], None]:
    """Another dataset in one's place."""

    def change(file: Any) -> None:
        del file[path]
        file.create_dataset(path, **how)

    return change


def linked(file: Any) -> None:
    del file["obsm/spatial"]
    file["obsm/spatial"] = h5py.ExternalLink("other.h5", "/places")


def virtual(file: Any) -> None:
    del file["obsm/spatial"]
    layout = h5py.VirtualLayout((60, 2), "f8")
    layout[:] = h5py.VirtualSource("other.h5", "places", (60, 2))
    file.create_virtual_dataset("obsm/spatial", layout)


def fraction(file: Any) -> None:
    """Beyond what is looked at to choose the matrix only the check of rows sees it."""
    file["X/data"][...] = 0.5


def beyond(file: Any) -> None:
    file["X/indices"][5] = 17


def twice(file: Any) -> None:
    file["obs/id"][7] = "cell3"


def negative(file: Any) -> None:
    file["X/data"][5] = -1


def nowhere(file: Any) -> None:
    file["obsm/spatial"][5] = np.nan


def compound(file: Any) -> None:
    del file["obs"]
    file.create_dataset("obs", data=np.zeros(60, [("index", "S5")]))


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (linked, "link", "link"),
        (virtual, "link", "another file"),
        (replaced("obsm/spatial", shape=(60, 2), dtype="u1", external=[("other.bin", 0, 120)]), "link", "another file"),
        (replaced("obsm/spatial", shape=(1 << 40, 2), dtype="f8", chunks=(64, 2)), "too_large", "not there"),
        (replaced("X/data", shape=(1 << 27,), dtype="f8", chunks=(1 << 26,), fillvalue=1.0), "too_large", "not there"),
        (replaced("obsm/spatial", data=np.zeros((5, 2))), "bad_section", "different length"),
        (replaced("X/indptr", data=np.zeros(61, int)[::-1] + 1_000), "bad_section", "beyond"),
        (replaced("X/indices", data=np.zeros(3, int)), "bad_section", "fit"),
        (fraction, "bad_counts", "no raw counts"),
        (negative, "bad_counts", "no raw counts"),
        (beyond, "bad_section", "does not have"),
        (twice, "duplicate_id", "row 4"),
        (nowhere, "bad_coordinates", "row 6"),
        (compound, "bad_section", "2019"),
    ],
)  # fmt: skip
def test_hostile_anndata_files(tmp_path: Path, change: Callable[[Any], None], code: str, said: str) -> None:
    rejected(h5ad(tmp_path / "a.h5ad", change=change), code, said)


def test_files_that_are_cut_off_or_something_else(tmp_path: Path) -> None:
    path = h5ad(tmp_path / "a.h5ad")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    rejected(path, "cannot_decode")
    path.write_bytes(b"nothing")
    rejected(path, "cannot_decode", "no HDF5")


def test_hostile_matrices_of_10x(tmp_path: Path) -> None:
    def stranger(file: Any) -> None:
        file["matrix/barcodes"][7] = b"other"

    rejected(tenx(tmp_path / "a", stranger), "unknown_spot", "other")
    rejected(tenx(tmp_path / "b", replaced("matrix/features/id", data=np.array(GENES[:3], "S"))), "bad_section")
    (tenx(tmp_path / "c") / "spatial" / "tissue_positions.csv").unlink()
    rejected(tmp_path / "c", "not_found", "tissue_positions")
