"""Blocks of a sharded array: the same as by the library, whatever the layout, and a word where a shard was damaged."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oncotwin.adapters.arrays.shard_reader import ShardReader, shard_reader
from oncotwin.domain.claim import ArrayError

SHAPE, SHARD, CHUNK = (3, 150, 170), (3, 64, 64), (3, 16, 16)
BLOSC = zarr.codecs.BloscCodec(cname="lz4", shuffle=zarr.codecs.BloscShuffle.bitshuffle)


def stored(folder: Path, compressor: Any = BLOSC, **more: Any) -> tuple[Any, ShardReader | None]:
    group = zarr.open_group(folder, mode="w", zarr_format=3)
    how = {"shards": SHARD, "chunks": CHUNK, "fill_value": 7, "compressors": compressor, "dtype": "uint8", **more}
    array: Any = group.create_array("0", shape=SHAPE, **how)
    rng = np.random.default_rng(1)
    # One shard and some chunks of another are never written.
    array[:, :120, :60] = rng.integers(0, 255, (3, 120, 60)).astype(array.dtype)
    array[:, 64:, 64:] = rng.integers(0, 20, (3, 86, 106)).astype(array.dtype)
    opened: Any = zarr.open_group(folder, mode="r")["0"]
    return opened, shard_reader(opened, folder / "0")


@pytest.fixture(scope="module", params=["blosc", "zstd", "no checksum"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ShardReader]:
    folder = tmp_path_factory.mktemp("array")
    if request.param == "no checksum":
        codec = zarr.codecs.ShardingCodec(
            chunk_shape=CHUNK, codecs=[zarr.codecs.BytesCodec(), BLOSC], index_codecs=[zarr.codecs.BytesCodec()]
        )
        array, reader = stored(folder, None, shards=None, chunks=SHARD, serializer=codec)
    else:
        array, reader = stored(folder, zarr.codecs.ZstdCodec() if request.param == "zstd" else BLOSC)
    assert reader is not None
    return array, reader


def slices(n: int) -> st.SearchStrategy[slice]:
    return st.tuples(st.integers(0, n), st.integers(0, n)).map(lambda ends: slice(min(ends), max(ends)))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.tuples(*(slices(n) for n in SHAPE)))
def test_the_same_as_by_the_library(both: tuple[Any, ShardReader], cut: tuple[slice, ...]) -> None:
    array, reader = both
    found = reader.read(cut)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, array[cut])


@pytest.mark.parametrize(
    "layout",
    [
        {"dtype": "uint16"}, {"shards": None}, {"filters": [zarr.codecs.TransposeCodec(order=(2, 1, 0))]},
        {"compressors": zarr.codecs.GzipCodec()}, {"compressors": None},
    ],
)  # fmt: skip
def test_other_layouts_are_left_to_the_library(tmp_path: Path, layout: dict[str, Any]) -> None:
    compressor = layout.pop("compressors", BLOSC)
    assert stored(tmp_path, compressor, **layout)[1] is None


def test_a_shard_that_was_damaged_is_told(tmp_path: Path) -> None:
    _, reader = stored(tmp_path)
    assert reader is not None
    shard = tmp_path / "0" / "c" / "0" / "0" / "0"
    whole = shard.read_bytes()
    reader.read((slice(0, 3), slice(0, 64), slice(0, 64)))
    shard.write_bytes(b"\0" * len(whole))
    with pytest.raises(ArrayError, match="cannot be decoded"):
        reader.read((slice(0, 3), slice(0, 64), slice(0, 64)))
    shard.write_bytes(whole[:100])
    with pytest.raises(ArrayError, match=r"bytes are there|cannot be decoded"):
        reader.read((slice(0, 3), slice(0, 64), slice(0, 64)))
    anew = shard_reader(zarr.open_group(tmp_path, mode="r")["0"], tmp_path / "0")
    assert anew is not None
    with pytest.raises(ArrayError, match="is cut off"):
        anew.read((slice(0, 3), slice(0, 64), slice(0, 64)))
