"""A backup's file where there is too little memory to unpack it."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from oncotwin.adapters.sql_store.backup import TableFile
from oncotwin.adapters.sql_store.restore import row_chunks
from oncotwin.domain.errors import StoreError

WANTS_128_MIB = bytes.fromhex("28b52ffd 00 88 010000")
"""A zstd frame (RFC 8878, 3.1.1): magic number, no content size, a window of 2^27 bytes, one empty block."""


@pytest.fixture
def little_memory() -> Iterator[None]:
    """32 MiB more than this process has."""
    [held] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmSize")]
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (int(held.split()[1]) * 1024 + 2**25, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def chunks(folder: Path) -> list[object]:
    path = folder / "journal.zst"
    path.write_bytes(WANTS_128_MIB)
    return list(row_chunks(path, TableFile("journal", (("event", "text"),), 0, 0, "")))


def test_without_a_limit_it_is_empty(tmp_path: Path) -> None:
    assert chunks(tmp_path) == []


def test_the_message_names_memory(tmp_path: Path, little_memory: None) -> None:
    with pytest.raises(StoreError, match=r"journal\.zst cannot be unpacked .* give the process more memory"):
        chunks(tmp_path)
