"""Claim checks: what leaves the store is what was claimed, and nothing else can be named."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

import fsspec  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oncotwin.adapters.arrays.claims import ArrayStores, fetch
from oncotwin.adapters.arrays.manifest import read_manifest
from oncotwin.domain.claim import (
    ArrayError,
    ClaimCheck,
    ManifestEntry,
    manifest_bytes,
    manifest_hash,
    segments_below,
)
from oncotwin.domain.errors import ConfigurationError

A, B = sha256(b"a").hexdigest(), sha256(b"bb").hexdigest()


def folder_claim(store: Path, name: str = "x.zarr") -> ClaimCheck:
    """Put a folder of two files into a store and claim it."""
    (store / name / "c").mkdir(parents=True)
    (store / name / "zarr.json").write_bytes(b"bb")
    (store / name / "c" / "0").write_bytes(b"a")
    lines = f"c/0\t1\t{A}\nzarr.json\t2\t{B}\n"
    return ClaimCheck(f"file://{store}/{name}", sha256(lines.encode()).hexdigest(), 3)


def reason(claim: ClaimCheck, store: Path, into: Path) -> str:
    """Code of the rejection; nothing may be left behind."""
    with pytest.raises(ArrayError) as caught:
        fetch(claim, ArrayStores((f"file://{store}",)), into)
    assert not into.exists() or not list(into.iterdir())
    assert str(caught.value)
    return caught.value.reason_code


@pytest.fixture
def store(tmp_path: Path) -> Path:
    folder = tmp_path / "store"
    folder.mkdir()
    return folder


def test_a_folder_is_fetched_and_is_what_its_manifest_says(store: Path, tmp_path: Path) -> None:
    copy = fetch(folder_claim(store), ArrayStores((f"file://{store}",)), tmp_path / "ours")
    assert (copy / "c" / "0").read_bytes() == b"a"
    assert manifest_bytes(read_manifest(copy)) == f"c/0\t1\t{A}\nzarr.json\t2\t{B}\n".encode()


def test_a_file_is_fetched(store: Path, tmp_path: Path) -> None:
    (store / "a.jpg").write_bytes(b"a")
    copy = fetch(ClaimCheck(f"file://{store}/a.jpg", A, 1), ArrayStores((f"file://{store}",)), tmp_path / "ours")
    assert copy.read_bytes() == b"a"


def test_what_changed_in_the_store_is_rejected(store: Path, tmp_path: Path) -> None:
    claim = folder_claim(store)
    (store / "x.zarr" / "c" / "0").write_bytes(b"b")
    assert reason(claim, store, tmp_path / "ours") == "hash_mismatch"
    (store / "x.zarr" / "c" / "0").write_bytes(b"")
    assert reason(claim, store, tmp_path / "ours") == "size_mismatch"
    (store / "x.zarr" / "c" / "0").write_bytes(b"aa")
    assert reason(claim, store, tmp_path / "ours") == "too_large"
    (store / "x.zarr" / "c" / "0").write_bytes(b"a")
    (store / "x.zarr" / "c" / "1").write_bytes(b"")
    assert reason(claim, store, tmp_path / "ours") == "hash_mismatch"


@pytest.mark.parametrize("at", ["x.zarr/c/0", "x.zarr/c", "x.zarr"])
def test_a_link_is_rejected_wherever_it_is(store: Path, tmp_path: Path, at: str) -> None:
    claim = folder_claim(store)
    outside = tmp_path / "outside"
    (store / at).rename(outside)
    (store / at).symlink_to(outside)
    assert reason(claim, store, tmp_path / "ours") == "link"


def test_a_pipe_is_rejected_and_does_not_hold_us_up(store: Path, tmp_path: Path) -> None:
    claim = folder_claim(store)
    os.mkfifo(store / "x.zarr" / "z")
    assert reason(claim, store, tmp_path / "ours") == "not_a_file"


@pytest.mark.parametrize(
    ("reference", "code"),
    [
        ("file://{store}/../secret", "bad_path"),
        ("file://{store}/a/%2e%2e/%2e%2e/secret", "bad_path"),
        ("file://{store}/%252e%252e/secret", "bad_path"),
        ("file://{store}//etc", "bad_path"),
        ("file://{store}/", "bad_path"),
        ("file://{store}/a?x=1", "bad_path"),
        ("file://{store}/a%00b", "bad_path"),
        ("file://{store}/a%0ab", "bad_path"),
        ("file://{store}/a%5c..%5cb", "bad_path"),
        ("file://{store}/" + "a/" * 40, "bad_path"),
        ("file://{store}-of-others/a", "dataref_not_allowed"),
        ("file://elsewhere{store}/a", "dataref_not_allowed"),
        ("file:///etc/passwd", "dataref_not_allowed"),
        ("https://example.org/a", "dataref_not_allowed"),
        ("http://[x/", "dataref_not_allowed"),
        ("file://{store}/not-there", "not_found"),
    ],
)
def test_a_reference_leads_nowhere_but_into_its_store(store: Path, tmp_path: Path, reference: str, code: str) -> None:
    claim = ClaimCheck(reference.format(store=store), A, 1)
    assert reason(claim, store, tmp_path / "ours") == code


def test_a_claim_beyond_the_limit_is_not_read(store: Path, tmp_path: Path) -> None:
    assert reason(ClaimCheck(f"file://{store}/not-there", A, 1 << 50), store, tmp_path / "ours") == "too_large"


@pytest.mark.parametrize("address", ["https://example.org", "file://host/folder", "folder", "s3://", "file:relative"])
def test_a_store_that_may_redirect_or_is_no_store_is_refused(address: str) -> None:
    with pytest.raises(ConfigurationError):
        ArrayStores((address,))


def test_objects_are_fetched_and_their_names_lead_nowhere(tmp_path: Path) -> None:
    objects = fsspec.filesystem("memory")
    objects.pipe({"/bucket/x.zarr/c/0": b"a", "/bucket/x.zarr/zarr.json": b"bb", "/bucket/one": b"a"})
    stores = ArrayStores(("memory://bucket",))
    claim = ClaimCheck(
        "memory://bucket/x.zarr", manifest_hash([ManifestEntry("zarr.json", 2, B), ManifestEntry("c/0", 1, A)]), 3
    )
    copy = fetch(claim, stores, tmp_path / "ours")
    assert (copy / "c" / "0").read_bytes() == b"a"
    assert fetch(ClaimCheck("memory://bucket/one", A, 1), stores, tmp_path / "one").read_bytes() == b"a"
    with pytest.raises(ArrayError, match="more than 0 bytes"):
        fetch(ClaimCheck("memory://bucket/one", A, 0), stores, tmp_path / "two")
    objects.store["/bucket/x.zarr/../../../escaped"] = objects.store["/bucket/one"]
    with pytest.raises(ArrayError, match=r"segment '\.\.'"):
        fetch(claim, stores, tmp_path / "three")
    assert not list(tmp_path.rglob("escaped"))


@pytest.mark.parametrize(("digest", "n_bytes"), [("", 1), (A.upper(), 1), (A, -1)])
def test_what_is_no_claim_is_refused(digest: str, n_bytes: int) -> None:
    with pytest.raises(ArrayError):
        ClaimCheck("file:///a", digest, n_bytes)


def test_a_manifest_names_each_path_once() -> None:
    with pytest.raises(ArrayError, match="twice"):
        manifest_hash([ManifestEntry("a", 1, A), ManifestEntry("a", 1, A)])


@given(st.permutations([ManifestEntry(name, 1, A) for name in ("a", "a/b", "ä", "b", "B", "a.b")]))
def test_the_hash_of_a_folder_does_not_depend_on_the_order(entries: list[ManifestEntry]) -> None:
    assert manifest_hash(entries) == manifest_hash(sorted(entries, key=lambda entry: entry.path))


@given(st.text(alphabet="./%2eE5c\\ab\0\n", max_size=30))
def test_no_reference_climbs(tail: str) -> None:
    try:
        segments = segments_below(f"file:///root/{tail}", "file:///root")
    except ArrayError:
        return
    if segments is not None:
        assert Path("/root", *segments).resolve().is_relative_to("/root")
        assert not {"", ".", ".."} & set(segments)
