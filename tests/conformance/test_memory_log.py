"""The log of the simulations keeps the laws of the port too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from oncotwin.adapters.sql_store import open_twin_store
from oncotwin.ports.event_log import EventLog
from oncotwin.ports.twin_store import TwinStore
from oncotwin.testing.event_log_conformance import N_PARTITIONS, EventLogConformance, OpenLog
from oncotwin.testing.memory_log import MemoryEventLog, MemoryTopic


class TestMemoryEventLog(EventLogConformance):
    """A topic in this process."""

    @pytest.fixture
    def open_log(self) -> OpenLog:
        """Clients of one topic."""
        topics: list[MemoryTopic] = []

        def open_one(n_partitions: int = N_PARTITIONS) -> EventLog:
            if not topics:
                topics.append(MemoryTopic(n_partitions))
            return MemoryEventLog(topics[0])

        return open_one

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[TwinStore]:
        """The store that goes with it."""
        with closing(open_twin_store(f"sqlite:///{tmp_path}/store.sqlite")) as store:
            yield store
