"""The embedded log in the hands of several processes, and in those of a careless one."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from oncotwin.adapters.event_log import open_event_log
from oncotwin.domain.errors import ConfigurationError, LogError
from oncotwin.ports.event_log import NewRecord
from oncotwin.testing.event_log_conformance import read_all


def _append_many(url: str, writer: int, n_records: int) -> None:
    """What each writing process does."""
    log = open_event_log(url, "events", 3)
    for i in range(n_records):
        log.append([NewRecord(f"north/p{j}", f"{writer}:{i}".encode()) for j in range(3)])
    log.close()


def test_processes_append_side_by_side(tmp_path: Path) -> None:
    url, n_writers, n_records = f"embedded:{tmp_path}/log", 3, 60
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_append_many, args=(url, i, n_records)) for i in range(n_writers)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * n_writers
    log = open_event_log(url, "events")
    found = read_all(log)
    log.close()
    assert len(found) == n_writers * n_records * 3
    for partition in range(3):
        offsets = [record.offset for record in found if record.partition == partition]
        assert offsets == list(range(len(offsets)))
    for number in range(n_writers):
        values = [record.value.decode() for record in found if record.key == "north/p0"]
        own = [value for value in values if value.startswith(f"{number}:")]
        assert own == [f"{number}:{i}" for i in range(n_records)]


def test_a_file_that_is_no_log_is_named(tmp_path: Path) -> None:
    (tmp_path / "events.sqlite").write_bytes(b"this is not a database, and long enough to be seen as none" * 20)
    with pytest.raises(LogError, match=r"events\.sqlite cannot be opened"):
        open_event_log(f"embedded:{tmp_path}", "events")


def test_a_closed_log_says_so(tmp_path: Path) -> None:
    log = open_event_log(f"embedded:{tmp_path}", "events")
    log.close()
    with pytest.raises(LogError, match="closed"):
        log.append([NewRecord("north/a", b"x")])
    with pytest.raises(LogError, match="closed"):
        log.read({0: 0}, 1, 1, 0.0)


@pytest.mark.parametrize("url", ["", "embedded:", "kafka:", "kafka://", "file:x", "events"])
def test_an_address_that_means_nothing(url: str) -> None:
    with pytest.raises(ConfigurationError, match="embedded:DIR or kafka://HOST:PORT"):
        open_event_log(url, "events")


@pytest.mark.parametrize("topic", ["", "a/b", "..", "-x", "x" * 300])
def test_a_topic_that_cannot_be(topic: str, tmp_path: Path) -> None:
    for url in (f"embedded:{tmp_path}", "kafka://127.0.0.1:1"):
        with pytest.raises(ConfigurationError, match="topic"):
            open_event_log(url, topic)


def test_options_that_mean_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no options"):
        open_event_log(f"embedded:{tmp_path}", "events", options={"acks": 1})
    with pytest.raises(ConfigurationError, match="acks"):
        open_event_log("kafka://127.0.0.1:1", "events", options={"acks": 1})
    with pytest.raises(ConfigurationError, match="0 partitions"):
        open_event_log(f"embedded:{tmp_path}", "events", 0)
