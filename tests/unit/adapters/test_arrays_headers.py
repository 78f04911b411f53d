"""Headers of foreign arrays: what they claim is bounded, and what they cannot mean is refused."""

from __future__ import annotations

import json
from math import prod
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oncotwin.adapters.arrays.zarr_headers import LIMITS, ArrayLimits, parse_header, read_json
from oncotwin.domain.claim import ArrayError


def v3(**changes: Any) -> dict[str, Any]:
    """Header of a plain array of version 3."""
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [100, 70],
        "data_type": "uint16",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [10, 10]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "zstd", "configuration": {}}],
        "fill_value": 0,
    } | changes


def v2(**changes: Any) -> dict[str, Any]:
    """Header of a plain array of version 2."""
    return {
        "zarr_format": 2,
        "shape": [100, 70],
        "chunks": [10, 10],
        "dtype": "<u2",
        "compressor": {"id": "blosc", "cname": "lz4"},
        "filters": None,
        "order": "C",
        "fill_value": 0,
    } | changes


def grid(*shape: int) -> dict[str, Any]:
    return {"name": "regular", "configuration": {"chunk_shape": list(shape)}}


def shards(*chunk: int, codecs: Any = ("bytes",), index: Any = ("bytes", "crc32c"), **more: Any) -> list[Any]:
    settings = {"chunk_shape": list(chunk), "codecs": list(codecs), "index_codecs": list(index)} | more
    return [{"name": "sharding_indexed", "configuration": settings}]


@pytest.mark.parametrize("content", [v2(), v3()])
def test_a_plain_header_is_read(content: dict[str, Any]) -> None:
    header = parse_header(content, "a")
    assert (header.n_bytes, header.chunk_bytes, header.n_chunks) == (14_000, 200, 70)
    last, beyond = ("9.6", "9.7") if content["zarr_format"] == 2 else ("c/9/6", "c/9/7")
    assert header.has_chunk(last) and not header.has_chunk(beyond)
    assert not any(header.has_chunk(name) for name in ("", "c", "0", "c/0", "c/00/0", "c/-1/0", "0.0.0", "c/0/0/0"))


def test_shards_are_read() -> None:
    header = parse_header(v3(codecs=shards(5, 2)), "a")
    assert (header.chunk_bytes, header.chunks_per_shard, header.index_bytes) == (20, 10, 164)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (v3(shape=[10**15]), "bad_header"),
        (v3(shape=[10**8, 10**8]), "too_large"),
        (v3(chunk_grid=grid(100_000, 100_000), shape=[100_000, 100_000]), "too_large"),
        (v3(chunk_grid=grid(1, 1), shape=[10**5, 10**5]), "too_large"),
        (v3(codecs=shards(1, 1), chunk_grid=grid(1_000, 1_000), shape=[1_000, 1_000]), "too_large"),
        (v3(codecs=shards(3, 3)), "bad_header"),
        (v3(codecs=shards(0, 0)), "bad_header"),
        (v3(codecs=shards(5, 5, index=["bytes", "gzip"])), "codec_not_allowed"),
        (v3(codecs=shards(5, 5, codecs=shards(1, 1))), "codec_not_allowed"),
        (v3(codecs=shards(5, 5, index_location="middle")), "bad_header"),
        (v3(codecs=[*shards(5, 5), "zstd"]), "codec_not_allowed"),
        (v3(codecs=["bytes", "zstd", "zstd"]), "codec_not_allowed"),
        (v3(codecs=["bytes", "crc32c", "zstd"]), "codec_not_allowed"),
        (v3(codecs=["bytes", "numcodecs.pickle"]), "codec_not_allowed"),
        (v3(codecs=["numcodecs.delta", "bytes"]), "codec_not_allowed"),
        (v3(codecs=["vlen-utf8"]), "codec_not_allowed"),
        (v3(codecs=[]), "bad_header"),
        (v3(codecs={"name": "bytes"}), "bad_header"),
        (v3(codecs=[{"id": "bytes"}]), "bad_header"),
        (v3(data_type="string"), "codec_not_allowed"),
        (v3(data_type="variable_length_bytes"), "type_not_allowed"),
        (v3(data_type={"name": "struct", "configuration": {}}), "type_not_allowed"),
        (v3(data_type={"name": "fixed_length_utf32", "configuration": {"length_bytes": 1 << 40}}), "type_not_allowed"),
        (v3(data_type=["uint8"]), "type_not_allowed"),
        (v3(chunk_grid={"name": "rectilinear", "configuration": {}}), "bad_header"),
        (v3(chunk_grid=grid(10)), "bad_header"),
        (v3(chunk_grid=grid(0, 10)), "bad_header"),
        (v3(chunk_key_encoding="other"), "bad_header"),
        (v3(chunk_key_encoding={"name": "default", "configuration": {"separator": ".."}}), "bad_header"),
        (v3(storage_transformers=["x"]), "codec_not_allowed"),
        (v3(shape=[-1, 5]), "bad_header"),
        (v3(shape=[True, 5]), "bad_header"),
        (v3(shape=[1.0, 5]), "bad_header"),
        (v3(shape=["1", 5]), "bad_header"),
        (v3(shape=[2**70, 5]), "bad_header"),
        (v3(shape=[1] * 9), "bad_header"),
        (v3(shape=None), "bad_header"),
        (v3(zarr_format=4), "bad_header"),
        (v2(dtype="|O"), "type_not_allowed"),
        (v2(dtype="|O", filters=[{"id": "pickle"}]), "type_not_allowed"),
        (v2(dtype="|O", filters=[{"id": "json2"}]), "type_not_allowed"),
        (v2(dtype="|O", filters=[{"id": "pickle"}, {"id": "vlen-utf8"}]), "type_not_allowed"),
        (v2(dtype=[["a", "<i4"], ["b", "|O"]]), "type_not_allowed"),
        (v2(dtype="|V8"), "type_not_allowed"),
        (v2(dtype="<U99999999"), "type_not_allowed"),
        (v2(filters=[{"id": "delta", "dtype": "<u2"}]), "codec_not_allowed"),
        (v2(filters=["delta"]), "bad_header"),
        (v2(compressor={"id": "lzma"}), "codec_not_allowed"),
        (v2(compressor={"id": "pickle"}), "codec_not_allowed"),
        (v2(compressor="blosc"), "bad_header"),
        (v2(dimension_separator="x"), "bad_header"),
        (v2(chunks=[10]), "bad_header"),
    ],
)
def test_a_header_that_cannot_be_trusted_is_refused(content: dict[str, Any], code: str) -> None:
    with pytest.raises(ArrayError) as caught:
        parse_header(content, "some/array")
    assert caught.value.reason_code == code
    assert "some/array" in str(caught.value)


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b"9" * 5_000, b'{"a":' * 50_000, b" " * (LIMITS.header_bytes + 1)],
)
def test_what_is_no_header_is_refused(raw: bytes) -> None:
    with pytest.raises(ArrayError) as caught:
        read_json(raw, "a/zarr.json")
    assert caught.value.reason_code == "bad_header"


SIZES = st.integers(0, 2**64) | st.integers(0, 5_000)
SHAPES = st.lists(SIZES, max_size=9)
JSON = st.recursive(
    st.none() | st.booleans() | SIZES | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=9,
)


@given(SHAPES, SHAPES, SHAPES, st.sampled_from(["uint8", "float64", "string", "complex128"]), st.booleans())
def test_whatever_the_numbers_what_is_let_through_is_within_the_limits(
    shape: list[int], outer: list[int], inner: list[int], kind: str, sharded: bool
) -> None:
    limits = ArrayLimits(array_bytes=1 << 30, shard_bytes=1 << 24, chunk_bytes=1 << 20, n_chunks=1 << 10)
    codec = "vlen-utf8" if kind == "string" else "bytes"
    codecs = shards(*inner, codecs=[codec]) if sharded else [codec]
    try:
        header = parse_header(v3(shape=shape, chunk_grid=grid(*outer), data_type=kind, codecs=codecs), "a", limits)
    except ArrayError:
        return
    element = {"uint8": 1, "float64": 8, "string": 1, "complex128": 16}[kind]
    assert prod(shape) * element <= limits.array_bytes
    assert prod(header.grid) * element <= limits.shard_bytes
    assert prod(header.chunk) * element <= limits.chunk_bytes
    n_chunks = prod(len(range(0, n, part)) if part else 0 for n, part in zip(shape, outer, strict=True))
    assert header.n_chunks == n_chunks <= limits.n_chunks


@given(st.sampled_from([v2(), v3(), v3(codecs=shards(5, 5))]), st.data())
def test_nothing_put_into_a_header_is_an_accident(content: dict[str, Any], data: st.DataObject) -> None:
    changed = json.loads(json.dumps(content))
    field = data.draw(st.sampled_from(sorted(changed)))
    changed[field] = data.draw(JSON)
    try:
        header = parse_header(changed, "a")
    except ArrayError:
        return
    assert header.n_bytes <= LIMITS.array_bytes
