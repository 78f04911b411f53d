"""Sections: every layout becomes the same AnnData-Zarr, whatever the blocks, and hostile ones a message."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from oncotwin.adapters.arrays import anndata_zarr, section_tables, section_visium, sections
from oncotwin.adapters.arrays.anndata_zarr import StoredSection
from oncotwin.adapters.arrays.manifest import read_manifest
from oncotwin.adapters.arrays.sections import import_section
from oncotwin.adapters.arrays.zarr_check import check_zarr
from oncotwin.domain.claim import ArrayError, manifest_hash

COUNTS = np.random.default_rng(5).poisson(0.7, (60, 23))
SPOTS = [f"{row // 10 + 2}x{row % 10 + 3}" for row in range(60)]
GENES = [f"GENE{at}" for at in range(23)]


def count_table(folder: Path, counts: Any = COUNTS, spots: list[str] = SPOTS, genes: list[str] = GENES) -> Path:
    """Spots by genes, as a printed array gives them."""
    path = folder / "ST-cnts" / "A1.tsv.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = ["\t".join(["", *genes])]
    rows += ["\t".join([spot, *map(str, row)]) for spot, row in zip(spots, counts, strict=True)]
    path.write_bytes(gzip.compress("\n".join(rows).encode() + b"\n"))
    return path


def visium(folder: Path, counts: NDArray[Any] = COUNTS, **changes: bytes) -> Path:
    """A folder of Space Ranger: 100 um are 40 pixels."""
    barcodes = [f"AACC{at:03d}-1" for at in range(len(counts))]
    features = [f"ENSG{at:05d}\t{gene}\tGene Expression" for at, gene in enumerate(GENES)]
    features[3] = "CD3\tCD3\tAntibody Capture"
    row, gene = np.nonzero(counts)
    entries = [f"{g + 1} {r + 1} {counts[r, g]}" for r, g in zip(row, gene, strict=True)]
    head = f"%%MatrixMarket matrix coordinate integer general\n%metadata\n{len(GENES)} {len(counts)} {len(entries)}\n"
    places = [
        f"{name},1,{at // 10},{2 * (at % 10) + at // 10 % 2},{35 * (at // 10)},{40 * (at % 10) + 20 * (at // 10 % 2)}"
        for at, name in enumerate(barcodes)
    ]
    columns = "barcode,in_tissue,array_row,array_col,pxl_row_in_fullres,pxl_col_in_fullres\n"
    files = {
        "filtered_feature_bc_matrix/barcodes.tsv.gz": gzip.compress("\n".join(barcodes).encode()),
        "filtered_feature_bc_matrix/features.tsv.gz": gzip.compress("\n".join(features).encode()),
        "filtered_feature_bc_matrix/matrix.mtx.gz": gzip.compress((head + "\n".join(entries) + "\n").encode()),
        "spatial/tissue_positions.csv": (columns + "\n".join(places)).encode(),
        "spatial/scalefactors_json.json": b'{"spot_diameter_fullres": 26.0}',
    }
    by_name = {Path(name).name.split(".")[0]: name for name in files}
    for name, content in {**files, **{by_name[name]: content for name, content in changes.items()}}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def cell_table(folder: Path, *rows: str, header: str = "image_number,cell_id,cell_x,cell_y,cell_type,age") -> Path:
    path = folder / "cells.csv"
    path.write_text("\n".join([header, *rows]))
    return path


def dense(section: StoredSection, n_rows: int = 7) -> NDArray[np.int64]:
    """All counts, read back in small blocks."""
    out = np.zeros((section.n_rows, section.n_genes), np.int64)
    start = 0
    for block in section.blocks(n_rows):
        for row in range(len(block.ids)):
            low, high = block.indptr[row : row + 2]
            out[start + row, block.indices[low:high]] = block.counts[low:high]
        start += len(block.ids)
    return out


def test_a_count_table_is_read_back_as_it_was(tmp_path: Path) -> None:
    made = import_section(count_table(tmp_path), tmp_path / "a.zarr", 200.0)
    assert (made.n_rows, made.n_genes, made.total_counts) == (60, 23, COUNTS.sum())
    check_zarr(tmp_path / "a.zarr")
    section = StoredSection(tmp_path / "a.zarr")
    np.testing.assert_array_equal(dense(section), COUNTS)
    assert section.genes == GENES
    assert section.block(0, 60).ids == SPOTS
    np.testing.assert_array_equal(section.block(11, 12).coordinates, [[600.0, 800.0]])
    assert section.said("um_per_unit") == 200.0 and section.said("platform") == "spatial transcriptomics array"
    root = json.loads((tmp_path / "a.zarr" / "zarr.json").read_text())["attributes"]
    assert root == {"encoding-type": "anndata", "encoding-version": "0.1.0"}


def test_the_first_printed_arrays_have_a_known_pitch_and_a_folder_of_several_is_asked_for_one(tmp_path: Path) -> None:
    count_table(tmp_path)
    assert import_section(tmp_path, tmp_path / "a.zarr").um_per_unit == 200.0
    table = tmp_path / "ST-cnts" / "A1.tsv.gz"
    (tmp_path / "ST-cnts" / "B2.tsv.gz").write_bytes(table.read_bytes())
    assert import_section(tmp_path, tmp_path / "b.zarr", section="B2").n_rows == 60
    assert "A1, B2" in rejected(tmp_path, "several_sections", tmp_path.name)
    assert "A1, B2" in rejected(tmp_path, "not_found", tmp_path.name, section="C3")


def test_spot_file_and_labels_beside_a_count_table_are_used(tmp_path: Path) -> None:
    path = count_table(tmp_path)
    (tmp_path / "ST-spotfiles").mkdir()
    lines = ["x\ty\tnew_x\tnew_y\tpixel_x\tpixel_y\tselected"]
    lines += [f"{x}\t{y}\t{x}.1\t{y}.2\t{x}00\t{y}00\t1" for x, y in (spot.split("x") for spot in SPOTS)]
    (tmp_path / "ST-spotfiles" / "A1_selection.tsv").write_text("\n".join(lines))
    (tmp_path / "ST-pat" / "lbl").mkdir(parents=True)
    labels = "Row.names\tx\ty\tpixel_x\tpixel_y\tlabel\na\t2.02\t2.99\t1\t1\tinvasive cancer\nb\tNA\tNA\t1\t1\tlost"
    (tmp_path / "ST-pat" / "lbl" / "A1_labeled_coordinates.tsv").write_text(labels)
    import_section(path, tmp_path / "a.zarr", 200.0)
    block = StoredSection(tmp_path / "a.zarr").block(0, 2)
    np.testing.assert_allclose(block.coordinates, [[420.0, 640.0], [420.0, 840.0]])
    assert block.columns["label"] == ["invasive cancer", ""]
    np.testing.assert_array_equal(block.columns["pixel_y"], [300, 400])
    np.testing.assert_array_equal(block.columns["array_y"], [3, 4])


def test_a_visium_folder_is_read_with_its_pixel_size_from_the_pitch(tmp_path: Path) -> None:
    made = import_section(visium(tmp_path / "v"), tmp_path / "a.zarr")
    assert made.um_per_unit == pytest.approx(2.5)
    assert made.left_out == ("Antibody Capture",)
    section = StoredSection(tmp_path / "a.zarr")
    np.testing.assert_array_equal(dense(section), np.delete(COUNTS, 3, axis=1))
    assert section.genes[3] == "ENSG00004"
    assert section.gene_names is not None and section.gene_names[3] == "GENE4"
    np.testing.assert_allclose(section.block(11, 12).coordinates, [[150.0, 87.5]])
    stated = visium(tmp_path / "hd", scalefactors_json=b'{"microns_per_pixel": 0.3}')
    assert import_section(stated, tmp_path / "b.zarr").um_per_unit == 0.3


def test_a_table_of_cells_is_read(tmp_path: Path) -> None:
    path = cell_table(tmp_path, "1,a,0.5,1.5,7,60", "2,b,0,0,7,61", "1,c,2,3,8,NA")
    made = import_section(path, tmp_path / "a.zarr", 1.0, only={"image_number": "1"})
    assert (made.n_rows, made.n_genes) == (2, 0)
    block = StoredSection(tmp_path / "a.zarr").block(0, 2)
    assert block.ids == ["a", "c"] and block.columns["cell_type"] == ["7", "8"]
    np.testing.assert_array_equal(block.columns["age"], [60, np.nan])
    np.testing.assert_array_equal(block.coordinates, [[0.5, 1.5], [2, 3]])


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("sparse", [True, False])
def test_an_anndata_of_somebody_else_is_read(tmp_path: Path, version: Any, sparse: bool) -> None:
    """Its names may be nullable, its classes categorical, its counts floats."""
    root = zarr.create_group(tmp_path / "f", zarr_format=version)
    root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})

    def put(path: str, values: Any, **attributes: str) -> None:
        array = root.create_array(path, data=np.asarray(values))
        array.attrs.update(attributes)

    for frame, names in (("obs", SPOTS), ("var", GENES)):
        order = ["kind", "age", "odd"] if frame == "obs" else []
        root.create_group(frame).attrs.update({"encoding-type": "dataframe", "_index": "names", "column-order": order})
        text = root.create_array(f"{frame}/names/values", shape=(len(names),), dtype="string", chunks=(16,))
        text[:] = np.array(names, dtype=object)
        put(f"{frame}/names/mask", np.zeros(len(names), bool))
    root["obs"].create_group("kind").attrs["encoding-type"] = "categorical"  # type: ignore[union-attr]
    root["obs"].create_group("odd").attrs["encoding-type"] = "nullable-integer"  # type: ignore[union-attr]
    put("obs/kind/codes", np.arange(60, dtype=np.int8) % 3 - 1)
    text = root.create_array("obs/kind/categories", shape=(2,), dtype="string", chunks=(2,))
    text[:] = np.array(["T", "B"], dtype=object)
    put("obs/age", np.arange(60), **{"encoding-type": "array"})
    put("obsm/spatial", np.arange(120.0).reshape(60, 2))
    if sparse:
        row, gene = np.nonzero(COUNTS)
        root.create_group("X").attrs.update({"encoding-type": "csr_matrix", "shape": [60, 23]})
        put("X/data", COUNTS[row, gene].astype(np.float32))
        put("X/indices", gene.astype(np.int32))
        put("X/indptr", np.searchsorted(row, np.arange(61)).astype(np.int32))
    else:
        put("X", COUNTS.astype(np.float32), **{"encoding-type": "array"})
    made = import_section(tmp_path / "f", tmp_path / "a.zarr", 0.5)
    assert made.left_out == ("odd",)
    section = StoredSection(tmp_path / "a.zarr")
    np.testing.assert_array_equal(dense(section), COUNTS)
    block = section.block(0, 3)
    assert block.columns["kind"] == ["", "T", "B"]
    np.testing.assert_array_equal(block.coordinates, np.arange(6.0).reshape(3, 2) / 2)
    again = import_section(tmp_path / "a.zarr", tmp_path / "b.zarr")
    assert again.um_per_unit == 1.0 and again.total_counts == COUNTS.sum()


@pytest.mark.parametrize("make", [count_table, visium])
def test_the_bytes_written_do_not_depend_on_the_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], Path]
) -> None:
    monkeypatch.setattr(anndata_zarr, "CHUNK_ROWS", 8)
    monkeypatch.setattr(anndata_zarr, "SHARD_ROWS", 32)
    source, found = make(tmp_path / "in"), set()
    for n_rows in (7, 60):
        for module in (section_tables, section_visium, sections):
            monkeypatch.setattr(module, "BLOCK_ROWS", n_rows)
        monkeypatch.setattr(section_visium, "PIECE_BYTES", 40 * n_rows)
        import_section(source, tmp_path / str(n_rows), 10.0)
        found.add(manifest_hash(read_manifest(tmp_path / str(n_rows))))
        check_zarr(tmp_path / str(n_rows))
    assert len(found) == 1
    data = json.loads((tmp_path / "7" / "X" / "data" / "zarr.json").read_text())
    assert data["shape"][0] > 32 and len(list((tmp_path / "7" / "X" / "data" / "c").iterdir())) > 1


def rejected(source: Path, code: str, where: str = "", um_per_unit: float | None = 1.0, **more: Any) -> str:
    """The section is rejected and nothing is left of the attempt."""
    out = source.parent / "made" / "a.zarr"
    with pytest.raises(ArrayError) as caught:
        import_section(source, out, um_per_unit, **more)
    assert caught.value.reason_code == code, caught.value
    assert where in str(caught.value)
    assert not out.parent.exists() or not list(out.parent.iterdir())
    return str(caught.value)


@pytest.mark.parametrize("value", ["-1", "0.5", "nan", "inf", "3000000000"])
def test_counts_that_are_none(tmp_path: Path, value: str) -> None:
    counts = COUNTS.astype(object)
    counts[41, 5] = value
    rejected(count_table(tmp_path, counts), "bad_counts", "row 42")


def test_hostile_count_tables(tmp_path: Path) -> None:
    rejected(count_table(tmp_path, spots=[*SPOTS[:-1], SPOTS[4]]), "duplicate_id", "row 60 has the name of row 5")
    rejected(count_table(tmp_path, genes=[*GENES[:-1], GENES[4]]), "duplicate_gene", "genes 5 and 23")
    rejected(count_table(tmp_path, genes=GENES[:-1]), "bad_text", "line 2")
    rejected(count_table(tmp_path, spots=["spot", *SPOTS[1:]]), "bad_id", "line 2")
    rejected(count_table(tmp_path, spots=["nanx3", *SPOTS[1:]]), "bad_coordinates", "row 1")
    rejected(count_table(tmp_path, COUNTS * 0), "no_counts")
    rejected(count_table(tmp_path, COUNTS[:0], []), "no_rows")
    words = np.full((60, 23), "a", dtype=object)
    rejected(count_table(tmp_path, words), "bad_text", "no number")
    rejected(count_table(tmp_path), "no_common_gene", expected_genes=frozenset({"CD8A"}))
    rejected(count_table(tmp_path, spots=[*SPOTS[:-1], "60x3"]), "no_pixel_size", um_per_unit=None)
    path = count_table(tmp_path)
    path.write_bytes(path.read_bytes()[:-50])
    rejected(path, "bad_text", "decompressed")
    path.write_bytes(b"not gzip")
    rejected(path, "bad_text")
    path.write_bytes(gzip.compress(bytes(1 << 26)))
    rejected(path, "bad_text", "longer")


def test_hostile_visium_folders(tmp_path: Path) -> None:
    head = b"%%MatrixMarket matrix coordinate integer general\n"
    cases = {
        "cut off": head + b"23 60 3\n1 1 1\n2 1 1\n",
        "not sorted": head + b"23 60 2\n1 2 1\n2 1 1\n",
        "not listed": head + b"23 60 1\n24 1 1\n",
        "three numbers": head + b"23 60 1\n1 1\n",
        "no number": head + b"23 60 1\n1 1 x\n",
        "for 23 features": head + b"99999999999 60 1\n1 1 1\n",
        "no Matrix Market": b"23 60 1\n1 1 1\n",
    }
    for at, (said, content) in enumerate(cases.items()):
        rejected(visium(tmp_path / str(at), matrix=gzip.compress(content)), "bad_text", said)
    negative = gzip.compress(head + b"23 60 1\n1 9 -4\n")
    rejected(visium(tmp_path / "n", matrix=negative), "bad_counts", "row 9")
    twice = gzip.compress(head + b"23 60 2\n1 9 4\n1 9 4\n")
    rejected(visium(tmp_path / "w", matrix=twice), "bad_counts", "twice")
    rejected(visium(tmp_path / "d", barcodes=gzip.compress(b"A-1\n" * 60)), "unknown_spot")
    position = b"AACC000-1,1,0,0,%b,5\n"
    rejected(visium(tmp_path / "p", tissue_positions=position % b"1" * 2), "duplicate_id")
    rejected(visium(tmp_path / "q", tissue_positions=position % b"here"), "bad_text")
    (visium(tmp_path / "m") / "spatial" / "tissue_positions.csv").unlink()
    rejected(tmp_path / "m", "not_found")
    one = visium(tmp_path / "o", COUNTS[:1], tissue_positions=position % b"NaN")
    rejected(one, "bad_coordinates", "row 1")
    rejected(visium(tmp_path / "s", COUNTS[:1]), "no_pixel_size", um_per_unit=None)


def test_hostile_tables_of_cells(tmp_path: Path) -> None:
    rejected(cell_table(tmp_path, "1,a,1,1,7,60", "2,b,0,0,7,61"), "several_images", "choose one: image_number=1")
    rejected(cell_table(tmp_path, "1,a,1,1,7,60", "1,b,NA,0,7,61"), "bad_coordinates", "row 2")
    rejected(cell_table(tmp_path, "1,a,1,inf,7,60"), "bad_coordinates", "row 1")
    rejected(cell_table(tmp_path, "1,a,1,1,7,60", "1,a,2,0,7,61"), "duplicate_id", "row 2 has the name of row 1")
    rejected(cell_table(tmp_path, "1,a,1,1,7,60", "1,b,2,0,7,old"), "bad_text", "line 3")
    rejected(cell_table(tmp_path, "1,a,1,1,7,60", "1,b,2"), "bad_text", "line 3")
    rejected(cell_table(tmp_path, "1,,1,1,7,60"), "bad_id", "row 1")
    rejected(cell_table(tmp_path), "no_rows")
    rejected(cell_table(tmp_path, header="a,b"), "missing_column")
    rejected(cell_table(tmp_path, "1,a,1,1,7,60"), "missing_column", only={"fov": "1"})


def test_hostile_anndata(tmp_path: Path) -> None:
    changes: dict[str, tuple[str, Callable[[Any], None]]] = {
        "X/indptr": ("begin before", lambda array: array.__setitem__(5, 10_000)),
        "X/indices": ("does not have", lambda array: array.__setitem__(5, 23)),
        "X/data": ("beyond its counts", lambda array: array.resize((5,))),
        "obsm/spatial": ("different length", lambda array: array.resize((5, 2))),
    }
    for at, (name, (said, change)) in enumerate(changes.items()):
        folder = tmp_path / str(at)
        import_section(count_table(tmp_path), folder, 200.0)
        change(zarr.open_array(folder / name))
        rejected(folder, "bad_section", said)
    folder = tmp_path / "unfinished"
    import_section(count_table(tmp_path), folder, 200.0)
    zarr.open_group(folder).attrs.put({})
    rejected(folder, "bad_section", "not finished")
    (tmp_path / "empty").mkdir()
    rejected(tmp_path / "empty", "unknown_layout")
    rejected(tmp_path / "nowhere", "not_found")


@pytest.mark.needs_data("her2_spatial")
def test_a_real_section(data_folder: Path, tmp_path: Path) -> None:
    path = data_folder / "her2_spatial" / "ST-cnts" / "A1.tsv.gz"
    made = import_section(path, tmp_path / "a.zarr", 200.0)
    assert (made.n_rows, made.n_genes, made.total_counts) == (346, 15_045, 1_553_744)
    section = StoredSection(tmp_path / "a.zarr")
    labels = section.column("label")
    assert isinstance(labels, list) and len([label for label in labels if label]) > 330
    places = section.block(0, 346).coordinates
    nearest = np.sort(np.hypot(*(places[:, None] - places[None]).T), axis=0)[1]
    assert np.median(nearest) == pytest.approx(200.0, rel=0.1)
