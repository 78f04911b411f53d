"""What only a real Kafka broker can do to a reader: aborted transactions, trimming, foreign records, TLS, death."""

from __future__ import annotations

import gc
import itertools
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource

from oncotwin.adapters.event_log import open_event_log
from oncotwin.domain.errors import LogError
from oncotwin.ports.event_log import LogRecord, NewRecord
from oncotwin.testing.event_log_conformance import MUCH, WAIT_S, following
from oncotwin.testing.servers import KafkaBroker

_topics = (f"kafka-log.{i}" for i in itertools.count())


def test_records_of_aborted_transactions_are_never_delivered(kafka_server: KafkaBroker) -> None:
    topic = next(_topics)
    log = open_event_log(kafka_server.url, topic, 1)
    producer = KafkaProducer(bootstrap_servers=[kafka_server.bootstrap], transactional_id=topic)
    producer.init_transactions()
    for i in range(6):
        producer.begin_transaction()
        producer.send(topic, key=b"north/a", value=str(i).encode(), partition=0)
        if i % 2:
            producer.abort_transaction()
        else:
            producer.commit_transaction()
    producer.close()
    positions = {0: 0}
    values: list[bytes] = []
    offsets: list[int] = []
    while batch := log.read(positions, 1, MUCH, 2.0):
        positions = following(positions, batch)
        values += [record.value for record in batch]
        offsets += [record.offset for record in batch]
    assert values == [b"0", b"2", b"4"]
    assert offsets == sorted(offsets)
    assert offsets[-1] - offsets[0] > 2, "the test has no gap to cross"
    # A restart inside a gap goes on after it.
    (again,) = log.read({0: offsets[0] + 1}, 1, MUCH, WAIT_S)
    assert again.value == b"2"
    log.close()


def test_foreign_records_without_key_or_value_come_through_as_empty(kafka_server: KafkaBroker) -> None:
    topic = next(_topics)
    log = open_event_log(kafka_server.url, topic, 1)
    producer = KafkaProducer(bootstrap_servers=[kafka_server.bootstrap])
    producer.send(topic, key=None, value=b"x", partition=0)
    producer.send(topic, key=b"\xff\xfe", value=None, headers=[("h", b"")], partition=0)
    producer.close()
    found: list[LogRecord] = []
    while len(found) < 2:
        found += log.read({0: len(found)}, 10, MUCH, WAIT_S)
    assert [(record.key, record.value, record.headers) for record in found] == [
        ("", b"x", ()),
        ("\\xff\\xfe", b"", (("h", b""),)),
    ]
    log.close()


def test_a_position_trimmed_away_is_an_error_and_not_a_silent_jump(kafka_server: KafkaBroker) -> None:
    topic = next(_topics)
    log = open_event_log(kafka_server.url, topic, 1)
    log.append([NewRecord("north/a", str(i).encode()) for i in range(10)])
    admin = KafkaAdminClient(bootstrap_servers=[kafka_server.bootstrap])
    admin.delete_records({TopicPartition(topic, 0): 5})
    admin.close()
    assert log.begin_offsets() == {0: 5}
    with pytest.raises(LogError, match="offset 3 is outside of 5 to 10"):
        log.read({0: 3}, 10, MUCH, WAIT_S)
    assert log.read({0: 5}, 1, MUCH, WAIT_S)[0].value == b"5"
    log.close()


@pytest.mark.parametrize(("options", "retention"), [({}, "-1"), ({"retention_days": 90}, "7776000000")])
def test_a_topic_keeps_its_records_as_long_as_it_is_told(
    kafka_server: KafkaBroker, options: dict[str, object], retention: str
) -> None:
    topic = next(_topics)
    open_event_log(kafka_server.url, topic, 1, options).close()
    admin = KafkaAdminClient(bootstrap_servers=[kafka_server.bootstrap])
    (found,) = admin.describe_configs([ConfigResource("topic", topic)]).values()
    admin.close()
    settings = {name: setting["value"] for name, setting in found[topic].items()}
    assert settings["retention.ms"] == retention
    # The log stamps them itself.
    assert settings["message.timestamp.type"] == "LogAppendTime"


def test_tls_and_password_are_passed_through(kafka_server: KafkaBroker) -> None:
    topic = next(_topics)
    log = open_event_log(kafka_server.secure_url, topic, 2, kafka_server.secure_options)
    log.append([NewRecord("north/a", b"secret")])
    (found,) = log.read(dict.fromkeys(range(2), 0), 10, MUCH, WAIT_S)
    assert found.value == b"secret"
    log.close()


def test_a_wrong_password_is_said(kafka_server: KafkaBroker) -> None:
    options = {**kafka_server.secure_options, "sasl_plain_password": "wrong", "bootstrap_timeout_ms": 3_000}
    with pytest.raises(LogError, match="sasl"):
        open_event_log(kafka_server.secure_url, next(_topics), 1, options)


def test_nobody_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="see that the brokers run"):
        open_event_log("kafka://127.0.0.1:1", "events", 1, {"bootstrap_timeout_ms": 1_000})


@pytest.fixture
def collected() -> Iterator[None]:
    """Collect a test's garbage at its end, for the next test not to be blamed for it."""
    yield
    gc.collect()


@pytest.mark.slow
@pytest.mark.usefixtures("collected")
# kafka-python 3.0 leaves the sockets of connections that the broker reset to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_broker_that_dies_and_comes_back_loses_nothing_acknowledged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # A captured log record would hold such a connection beyond this test's own collection of garbage.
    caplog.set_level(logging.CRITICAL, logger="kafka")
    with KafkaBroker(tmp_path / "kafka") as broker:
        log = open_event_log(broker.url, "events", 1)
        log.append([NewRecord("north/a", str(i).encode()) for i in range(5)])
        first = log.read({0: 0}, 3, MUCH, WAIT_S)
        broker.kill()
        broker.start()
        log.append([NewRecord("north/a", str(i).encode()) for i in range(5, 8)])
        positions, seen = following({}, first), list(first)
        while len(seen) < 8:
            batch = log.read(positions, 10, MUCH, WAIT_S)
            assert batch
            seen += batch
            positions = following(positions, batch)
        assert [int(record.value) for record in seen] == list(range(8))
        log.close()
