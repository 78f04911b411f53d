"""Both event logs, the embedded one and a real Kafka broker, keep the laws of the port."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest

from oncotwin.adapters.event_log import open_event_log
from oncotwin.adapters.sql_store import open_twin_store
from oncotwin.ports.event_log import EventLog
from oncotwin.ports.twin_store import TwinStore
from oncotwin.testing.event_log_conformance import N_PARTITIONS, EventLogConformance, OpenLog
from oncotwin.testing.servers import KafkaBroker

_topics = (f"events.{i}" for i in itertools.count())


class Opener:
    """Opens one topic and closes what it opened."""

    def __init__(self, url: str, options: Mapping[str, object] | None = None) -> None:
        self._url, self._options, self._topic = url, options, next(_topics)
        self._opened: list[EventLog] = []

    def __call__(self, n_partitions: int = N_PARTITIONS) -> EventLog:
        """See `OpenLog`."""
        log = open_event_log(self._url, self._topic, n_partitions, self._options)
        self._opened.append(log)
        return log

    def close(self) -> None:
        """Close every log opened here."""
        for log in self._opened:
            log.close()


class TestEmbeddedEventLog(EventLogConformance):
    """SQLite files in a folder."""

    @pytest.fixture
    def open_log(self, tmp_path: Path) -> Iterator[OpenLog]:
        """A topic in this test's folder."""
        opener = Opener(f"embedded:{tmp_path}/log")
        yield opener
        opener.close()

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[TwinStore]:
        """The store that goes with it."""
        with closing(open_twin_store(f"sqlite:///{tmp_path}/store.sqlite")) as store:
            yield store


class TestKafkaEventLog(EventLogConformance):
    """A real broker."""

    @pytest.fixture
    def open_log(self, kafka_server: KafkaBroker) -> Iterator[OpenLog]:
        """A topic of its own on the broker of the whole run."""
        opener = Opener(kafka_server.url)
        yield opener
        opener.close()

    @pytest.fixture
    def store(self, postgres_database: str) -> Iterator[TwinStore]:
        """The store that goes with it."""
        with closing(open_twin_store(postgres_database)) as store:
            yield store
