"""Both twin stores, SQLite and a real PostgreSQL server, keep the laws of the port."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from oncotwin.adapters.keys import open_key_store
from oncotwin.adapters.sealing import Sealer
from oncotwin.adapters.sql_store import SqlTwinStore, open_twin_store
from oncotwin.domain.errors import ConfigurationError
from oncotwin.testing.beliefs_conformance import BeliefsConformance
from oncotwin.testing.erasure_conformance import ErasureConformance
from oncotwin.testing.lines_conformance import LinesConformance
from oncotwin.testing.sequence_gaps_conformance import SequenceGapsConformance
from oncotwin.testing.twin_store_conformance import OpenStore, TwinStoreConformance


class Laws(
    TwinStoreConformance, BeliefsConformance, LinesConformance, SequenceGapsConformance, ErasureConformance
):
    """All that a store must do."""


def opener(url: str, keys: str | None = None) -> Iterator[OpenStore]:
    """Opens one store again and again, and closes what it opened."""
    opened: list[SqlTwinStore] = []

    def open_store() -> SqlTwinStore:
        sealer = None if keys is None else Sealer(open_key_store(keys))
        opened.append(open_twin_store(url, sealer=sealer))
        return opened[-1]

    yield open_store
    for store in opened:
        store.close()


class TestSqliteTwinStore(Laws):
    """One file."""

    @pytest.fixture
    def open_store(self, tmp_path: Path) -> Iterator[OpenStore]:
        """A store in this test's folder, which is made with it."""
        yield from opener(f"sqlite:///{tmp_path}/new folder/50%/store.sqlite")


class TestPostgresTwinStore(Laws):
    """A real server."""

    @pytest.fixture
    def open_store(self, postgres_database: str) -> Iterator[OpenStore]:
        """A database of its own on the server of the whole run."""
        yield from opener(postgres_database)


class TestSealedSqliteTwinStore(Laws):
    """One file, under patients' keys."""

    @pytest.fixture
    def open_store(self, tmp_path: Path) -> Iterator[OpenStore]:
        """Store and keys in this test's folder."""
        yield from opener(f"sqlite:///{tmp_path}/store.sqlite", f"sqlite:///{tmp_path}/keys/keys.sqlite")


class TestSealedPostgresTwinStore(Laws):
    """A real server, under patients' keys."""

    @pytest.fixture
    def open_store(self, postgres_database: str, tmp_path: Path) -> Iterator[OpenStore]:
        """A database of its own on the server of the whole run, the keys in a file."""
        yield from opener(postgres_database, f"sqlite:///{tmp_path}/keys/keys.sqlite")


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_store_refuses_another_key_store(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.sqlite" if kind == "sqlite" else request.getfixturevalue("postgres_database")
    own, other = (f"sqlite:///{tmp_path}/{name}/keys.sqlite" for name in ("own", "other"))
    for _ in range(2):
        with closing(open_twin_store(url, sealer=Sealer(open_key_store(own)))) as store:
            store.register_twins(["H1/p1"])
    with closing(Sealer(open_key_store(other))) as sealer, pytest.raises(ConfigurationError, match="another key store"):
        open_twin_store(url, sealer=sealer)
