"""Hostile Zarr folders, written byte by byte: each ends as a rejection that says what and where."""

from __future__ import annotations

import gzip
import json
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import crc32c
import numcodecs  # type: ignore[import-untyped]
import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

from oncotwin.adapters.arrays.zarr_check import CheckedZarr, check_zarr
from oncotwin.domain.claim import ArrayError

SQUARE = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
COMPRESSORS = {
    "lz4": BloscCodec(cname="lz4"),
    "blosc-zstd": BloscCodec(cname="zstd"),
    "zstd": ZstdCodec(),
    "gzip": GzipCodec(),
    "none": None,
}


def write_sharded(folder: Path, compressor: Any = COMPRESSORS["lz4"]) -> Path:
    """An honest array of one shard of 16 chunks; returns the shard's path."""
    array = zarr.create_array(folder, shape=(64, 64), chunks=(16, 16), shards=(64, 64), dtype="u2",
                              compressors=compressor, fill_value=0)  # fmt: skip
    array[:] = SQUARE
    return folder / "c" / "0" / "0"


def write_v2(folder: Path, chunk: bytes, n_bytes: int, compressor: dict[str, Any] | None, **changes: Any) -> None:
    """An array of version 2 that has one chunk."""
    folder.mkdir(exist_ok=True)
    header = {"zarr_format": 2, "shape": [n_bytes], "chunks": [n_bytes], "dtype": "|u1", "compressor": compressor,
              "filters": None, "order": "C", "fill_value": 0} | changes  # fmt: skip
    (folder / ".zarray").write_text(json.dumps(header))
    (folder / "0").write_bytes(chunk)


def rejected(folder: Path, code: str, where: str = "") -> None:
    """The folder is rejected for this reason, with little memory."""
    tracemalloc.start()
    try:
        with pytest.raises(ArrayError) as caught:
            check_zarr(folder)
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()
    assert caught.value.reason_code == code, caught.value
    assert where in caught.value.where


@pytest.mark.parametrize("compressor", COMPRESSORS.values(), ids=COMPRESSORS.keys())
def test_an_honest_array_is_let_through(tmp_path: Path, compressor: Any) -> None:
    write_sharded(tmp_path / "a", compressor)
    zarr.create_array(tmp_path / "b", data=SQUARE, chunks=(10, 64), compressors=compressor)
    checked = check_zarr(tmp_path)
    assert set(checked.arrays) == {"a", "b"}
    assert checked.n_other_files == 0
    assert checked.n_stored == sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())


def test_a_small_header_that_claims_a_petabyte(tmp_path: Path) -> None:
    zarr.create_array(
        tmp_path / "a", shape=(10**7, 10**7), chunks=(1_000, 1_000), shards=(10**5, 10**5), dtype="f8",
        compressors=COMPRESSORS["zstd"],
    )  # fmt: skip
    assert (tmp_path / "a" / "zarr.json").stat().st_size < 1_500
    rejected(tmp_path, "too_large", "a")


def test_a_terabyte_of_nothing(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a", shape=(10**6, 10**6), chunks=(4_096, 4_096), dtype="u1")
    rejected(tmp_path, "mostly_empty", "a")


@pytest.mark.parametrize("name", ["zstd", "gzip", "zlib", "blosc"])
def test_a_chunk_that_expands_thirty_thousand_times(tmp_path: Path, name: str) -> None:
    n_bytes = 1 << 28
    codec = numcodecs.get_codec({"id": name, "cname": "zstd"} if name == "blosc" else {"id": name})
    chunk = bytes(codec.encode(np.zeros(n_bytes, np.uint8)))
    write_v2(tmp_path / "a", chunk, n_bytes, {"id": name})
    if n_bytes > 1_000 * len(chunk):
        rejected(tmp_path, "ratio", "a/0")
    else:
        assert check_zarr(tmp_path).arrays


@pytest.mark.parametrize("name", ["zstd", "gzip", "zlib", "blosc", "lz4"])
def test_a_chunk_that_decodes_to_more_than_its_header_says(tmp_path: Path, name: str) -> None:
    chunk = bytes(numcodecs.get_codec({"id": name}).encode(np.zeros(10_000_000, np.uint8)))
    write_v2(tmp_path / "a", chunk, 1_000, {"id": name})
    rejected(tmp_path, "bad_chunk", "a/0")


def test_gzip_members_behind_an_honest_one(tmp_path: Path) -> None:
    write_v2(tmp_path / "a", gzip.compress(bytes(1_000)) + gzip.compress(bytes(1 << 29)), 1_000, {"id": "gzip"})
    rejected(tmp_path, "too_large", "a/0")


@pytest.mark.parametrize("n_bytes", [0, 1, 3, 20, 150])
@pytest.mark.parametrize("name", ["zstd", "gzip", "zlib", "blosc", "lz4"])
def test_a_chunk_cut_off(tmp_path: Path, name: str, n_bytes: int) -> None:
    noise = np.random.default_rng(1).integers(0, 256, 1_000, dtype=np.uint8)
    chunk = bytes(numcodecs.get_codec({"id": name}).encode(noise))[:n_bytes]
    write_v2(tmp_path / "a", chunk, 1_000, {"id": name})
    if name in ("zstd", "lz4") and n_bytes >= 20:
        # Its size is as announced, so nothing can grow: the decoder itself says that it is cut off.
        assert check_zarr(tmp_path).arrays
        with pytest.raises((RuntimeError, ValueError)):
            zarr.open_array(tmp_path / "a", mode="r")[:]
    else:
        rejected(tmp_path, "bad_chunk", "a/0")


@pytest.mark.parametrize("compressor", COMPRESSORS.values(), ids=COMPRESSORS.keys())
@pytest.mark.parametrize("keep", [0, 1, 100, 250, -1, -20])
def test_a_truncated_shard(tmp_path: Path, compressor: Any, keep: int) -> None:
    shard = write_sharded(tmp_path / "a", compressor)
    shard.write_bytes(shard.read_bytes()[:keep])
    rejected(tmp_path, "bad_shard", "a/c/0/0")


def with_index(shard: Path, change: Callable[[Any], None]) -> None:
    """Change a shard's index, its checksum made right again."""
    raw = shard.read_bytes()
    index = np.frombuffer(raw[-260:-4], "<u8").reshape(16, 2).copy()
    change(index)
    shard.write_bytes(raw[:-260] + index.tobytes() + struct.pack("<I", crc32c.crc32c(index.tobytes())))


@pytest.mark.parametrize(
    "entry", [(0, 10**6), (2**64 - 2, 2), (2**63, 2**63), (2**64 - 1, 5), (5, 2**64 - 1), (0, 300)]
)
def test_a_shard_whose_index_points_outside_or_twice(tmp_path: Path, entry: tuple[int, int]) -> None:
    shard = write_sharded(tmp_path / "a")

    def change(index: Any) -> None:
        index[1] = np.array(entry, np.uint64)

    with_index(shard, change)
    rejected(tmp_path, "bad_shard", "a/c/0/0")


def test_a_chunk_in_a_shard_that_expands(tmp_path: Path) -> None:
    bomb = bytes(numcodecs.Zstd().encode(bytes(1 << 26)))
    shard = write_sharded(tmp_path / "a", COMPRESSORS["zstd"])
    raw = shard.read_bytes()
    shard.write_bytes(bomb + raw)

    def change(index: Any) -> None:
        index[:, 0] += np.uint64(len(bomb))
        index[3] = np.array([0, len(bomb)], np.uint64)

    with_index(shard, change)
    rejected(tmp_path, "bad_chunk", "a/c/0/0, chunk 3")


def test_pickled_objects(tmp_path: Path) -> None:
    chunk = bytes(numcodecs.Pickle().encode(np.array([{"a": 1}], dtype=object)))
    write_v2(tmp_path / "a", chunk, 1, None, dtype="|O", filters=[{"id": "pickle"}])
    rejected(tmp_path, "type_not_allowed", "a")


def test_four_thousand_million_strings_in_ten_bytes(tmp_path: Path) -> None:
    write_v2(
        tmp_path / "a", struct.pack("<I", 2**32 - 1) + b"123456", 2, None, dtype="|O", filters=[{"id": "vlen-utf8"}]
    )
    rejected(tmp_path, "bad_chunk", "a/0")


def test_honest_strings_are_let_through(tmp_path: Path) -> None:
    chunk = bytes(numcodecs.VLenUTF8().encode(np.array(["spot", "ä"], dtype=object)))
    for compressor in ({"id": "zstd"}, {"id": "blosc"}, {"id": "gzip"}, {"id": "zlib"}, {"id": "lz4"}, None):
        stored = chunk if compressor is None else bytes(numcodecs.get_codec(compressor).encode(chunk))
        write_v2(tmp_path / "a", stored, 2, compressor, dtype="|O", filters=[{"id": "vlen-utf8"}])
        assert check_zarr(tmp_path).arrays
        assert np.asarray(zarr.open_array(tmp_path / "a", mode="r", zarr_format=2)[:]).tolist() == ["spot", "ä"]


def test_a_consolidated_header_that_says_otherwise(tmp_path: Path) -> None:
    for version in (2, 3):
        folder = tmp_path / str(version)
        group = zarr.create_group(folder, zarr_format=version)
        group.create_array("a", shape=(4,), chunks=(2,), dtype="i4")
        metadata = folder / (".zmetadata" if version == 2 else "zarr.json")
        header = json.loads((folder / "a" / (".zarray" if version == 2 else "zarr.json")).read_text())
        header["shape"] = [10**12]
        copied = {"metadata": {"a/.zarray" if version == 2 else "a": header}}
        content = copied if version == 2 else json.loads(metadata.read_text()) | {"consolidated_metadata": copied}
        metadata.write_text(json.dumps(content))
        rejected(folder, "bad_header", "a")


def test_a_link_to_elsewhere(tmp_path: Path) -> None:
    shard = write_sharded(tmp_path / "a")
    shard.rename(tmp_path / "secret")
    shard.symlink_to(tmp_path / "secret")
    rejected(tmp_path / "a", "link", "c/0/0")


def test_what_is_no_zarr(tmp_path: Path) -> None:
    (tmp_path / "README").write_text("nothing")
    rejected(tmp_path, "not_zarr")


@pytest.mark.parametrize("name", ["lz4", "zstd", "gzip", "blosc-zstd"])
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_bytes_never_make_a_reader_grow(tmp_path: Path, name: str, data: st.DataObject) -> None:
    """Whatever bytes are exchanged: a rejection, a decoder's error, or at most the size that the header says."""
    folder = tmp_path / "a"
    if not folder.exists():
        shard = write_sharded(folder, COMPRESSORS[name])
        (tmp_path / "kept").write_bytes(shard.read_bytes())
    raw = bytearray((tmp_path / "kept").read_bytes())
    for at, value in data.draw(st.lists(st.tuples(st.integers(0, len(raw) - 1), st.integers(0, 255)), max_size=6)):
        raw[at] = value
    (folder / "c" / "0" / "0").write_bytes(raw)
    checked: CheckedZarr | None = None
    try:
        checked = check_zarr(folder)
        read = zarr.open_array(folder, mode="r")[:]
    except (ArrayError, RuntimeError, ValueError, zlib.error, EOFError, OSError):
        return
    assert checked.arrays[""].n_bytes == np.asarray(read).nbytes
