"""The event log on Apache Kafka: manual assignment and seeking, an idempotent producer, no consumer groups.

Offsets and leases live in the store, in the same transaction as the effects, so nothing here commits an offset
and no rebalance can happen. Records of aborted transactions by other producers are never delivered.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import (
    KafkaConfigurationError,
    KafkaError,
    OffsetOutOfRangeError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
    for_code,
)

from oncotwin.domain.errors import ConfigurationError, LogError
from oncotwin.ports.event_log import LogRecord, NewRecord, check_record, partition_of

_CLIENT_OPTIONS = re.compile(r"security_protocol|client_id|(ssl|sasl)_\w+|\w+_timeout_ms")
_CONNECT_TIMEOUT_MS = 10_000
_RECONNECT_BACKOFF_MS = 2_000
"""The client's own default lets half a minute pass after a broker is back."""
_REQUEST_TIMEOUT_MS = 20_000
_DELIVERY_TIMEOUT_MS = 60_000
"""Longer than a request's, so that a broker's restart is ridden out by the client's own retries."""
_POLL_RECORDS = 1_000
OWN_OPTIONS = ("replication_factor", "retention_days")
"""Options that are no client's: they are for a topic made now."""
_DAY_MS = 86_400_000
_TOPIC_SETTINGS = {
    # The time at which the log took the record, as in the embedded log, not what a sender's clock said.
    "message.timestamp.type": "LogAppendTime",
}


class KafkaEventLog:
    """One topic of a Kafka cluster; meets `oncotwin.ports.event_log.EventLog`."""

    def __init__(self, servers: Sequence[str], topic: str, n_partitions: int, options: Mapping[str, object]) -> None:
        """Connect, and make the topic when it is not there.

        Args:
            servers: HOST:PORT of one or more brokers.
            topic: letters, digits, dot, dash and underscore.
            n_partitions: of a topic made now; one that exists keeps its number.
            options: `security_protocol`, `ssl_*`, `sasl_*`, `client_id`, `*_timeout_ms`, handed to the client
                as they are; and for a topic made now `replication_factor` (default: the broker's) and
                `retention_days`, after which the brokers drop a record (default: never).
        Raises:
            ConfigurationError: an option that is not one of these, or a topic's name that cannot be.
            LogError: no broker answers, or the topic can be neither found nor made.
        """
        client_options = {name: value for name, value in options.items() if name not in OWN_OPTIONS}
        unknown = sorted(name for name in client_options if not _CLIENT_OPTIONS.fullmatch(name))
        if unknown:
            raise ConfigurationError(
                f"log options {unknown} are none; use security_protocol, ssl_*, sasl_*, client_id, *_timeout_ms "
                "replication_factor or retention_days"
            )
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}", topic):
            raise ConfigurationError(f"topic {topic!r}: use letters, digits, dots, dashes and underscores")
        self._topic = topic
        self._url = f"kafka://{','.join(servers)}, topic {topic}"
        self._client: dict[str, Any] = {
            "bootstrap_servers": list(servers),
            "bootstrap_timeout_ms": _CONNECT_TIMEOUT_MS,
            "request_timeout_ms": _REQUEST_TIMEOUT_MS,
            "reconnect_backoff_max_ms": _RECONNECT_BACKOFF_MS,
            **client_options,
        }
        self._producer: Any = None
        self._consumer: Any = None
        # What a consumer has handed over beyond a read's bound, by partition ...
        self._surplus: dict[int, deque[LogRecord]] = {}
        self._n_surplus_bytes = 0
        # ... which continues exactly from these positions; any other request seeks anew.
        self._following: dict[int, int] = {}
        self._turn = 0
        with self._errors("opened"):
            self._n_partitions = self._find_or_create(n_partitions, options)

    @property
    def n_partitions(self) -> int:
        """Number of partitions, fixed when the topic was made."""
        return self._n_partitions

    def append(self, records: Sequence[NewRecord]) -> list[tuple[int, int]]:
        """Append records and wait for every in-sync replica; see the port."""
        if not records:
            return []
        for record in records:
            check_record(record)
        try:
            with self._errors("appended to"):
                return self._send(records)
        except LogError:
            # A producer that lost records may have lost its place too: the next append begins with a fresh one.
            producer, self._producer = self._producer, None
            if producer is not None:
                producer.close(timeout=0)
            raise

    def read(self, positions: Mapping[int, int], max_records: int, max_bytes: int, timeout_s: float) -> list[LogRecord]:
        """Read records from the given positions on; see the port."""
        if not positions:
            return []
        deadline = time.monotonic() + timeout_s
        patience = deadline + _REQUEST_TIMEOUT_MS / 1000
        with self._errors("read"):
            if dict(positions) != self._following:
                self._seek(positions)
            while len(self._surplus) < len(positions) and self._n_surplus_bytes < max_bytes:
                wait_s = 0.0 if self._surplus else max(0.0, deadline - time.monotonic())
                if self._poll(wait_s):
                    continue
                if self._surplus or not self._is_behind():
                    break
                # Nothing came in time although there is something: a slow or a restarting broker, not the end.
                deadline = time.monotonic() + 0.5
                if deadline > patience:
                    raise LogError(
                        f"log {self._url}: records beyond {dict(positions)} are there but did not come within "
                        f"{_REQUEST_TIMEOUT_MS / 1000:.0f} s; see that the brokers are well"
                    )
        return self._take(max_records, max_bytes)

    def begin_offsets(self) -> dict[int, int]:
        """Earliest offset held, by partition; see the port."""
        with self._errors("asked for its offsets"):
            found = self._connected_consumer().beginning_offsets(self._places(range(self._n_partitions)))
        return {place.partition: offset for place, offset in found.items()}

    def end_offsets(self) -> dict[int, int]:
        """Offset that the next record will get, by partition; see the port."""
        with self._errors("asked for its offsets"):
            found = self._connected_consumer().end_offsets(self._places(range(self._n_partitions)))
        return {place.partition: offset for place, offset in found.items()}

    def close(self) -> None:
        """Let go of the connections; what was appended is with the broker already."""
        producer, consumer = self._producer, self._consumer
        self._producer = self._consumer = None
        self._drop_surplus()
        if producer is not None:
            producer.close(timeout=5)
        if consumer is not None:
            consumer.close(autocommit=False)

    def _find_or_create(self, n_partitions: int, options: Mapping[str, object]) -> int:
        """Number of partitions of the topic, made when it is not there."""
        admin = KafkaAdminClient(**self._client)
        try:
            found = self._partitions_found(admin)
            if found:
                return found
            days = options.get("retention_days")
            retention_ms = -1 if days is None else int(float(str(days)) * _DAY_MS)
            settings = {
                "num_partitions": n_partitions,
                "replication_factor": options.get("replication_factor", -1),
                "configs": {**_TOPIC_SETTINGS, "retention.ms": str(retention_ms)},
            }
            try:
                admin.create_topics({self._topic: settings}, wait_for_metadata=True)
            except TopicAlreadyExistsError:
                # Another process made it between our two questions; its number of partitions counts.
                admin.wait_for_topics([self._topic])
            return self._partitions_found(admin)
        finally:
            admin.close()

    def _partitions_found(self, admin: Any) -> int:
        """Number of partitions of the topic; 0 when there is no such topic."""
        (description,) = admin.describe_topics([self._topic])
        error = for_code(description.get("error_code", 0))
        if error is UnknownTopicOrPartitionError:
            return 0
        if description.get("error_code", 0):
            raise error(self._topic)
        return len(description["partitions"])

    def _send(self, records: Sequence[NewRecord]) -> list[tuple[int, int]]:
        """Send, and wait until all are acknowledged."""
        if self._producer is None:
            self._producer = KafkaProducer(
                **{
                    "acks": "all",
                    "enable_idempotence": True,
                    "linger_ms": 5,
                    "batch_size": 131_072,
                    "delivery_timeout_ms": _DELIVERY_TIMEOUT_MS,
                    "allow_auto_create_topics": False,
                    **self._client,
                }
            )
        futures = [
            self._producer.send(
                self._topic,
                key=record.key.encode(),
                value=record.value,
                headers=list(record.headers),
                partition=partition_of(record.key, self._n_partitions),
            )
            for record in records
        ]
        self._producer.flush()
        acknowledged = [future.get(timeout=_DELIVERY_TIMEOUT_MS / 1000) for future in futures]
        return [(metadata.partition, metadata.offset) for metadata in acknowledged]

    def _poll(self, wait_s: float) -> bool:
        """Add what the consumer hands over within a time to the surplus; it hands over one fetch after the other."""
        polled = self._consumer.poll(timeout_ms=int(wait_s * 1000), max_records=_POLL_RECORDS)
        for place, batch in polled.items():
            records = [_log_record(raw) for raw in batch]
            self._surplus.setdefault(place.partition, deque()).extend(records)
            self._n_surplus_bytes += sum(len(record.value) for record in records)
        return bool(polled)

    def _is_behind(self) -> bool:
        """Whether the brokers hold records that the consumer has not come to; asks them, so it fails without them."""
        places = self._places(self._following)
        end = self._consumer.end_offsets(places)
        return any(self._consumer.position(place) < end[place] for place in places)

    def _seek(self, positions: Mapping[int, int]) -> None:
        """Go to positions other than those the surplus continues from, after seeing that they exist."""
        self._drop_surplus()
        begin, end = self.begin_offsets(), self.end_offsets()
        for partition, offset in positions.items():
            if partition not in end:
                raise LogError(f"log {self._url}: partition {partition} of {self._n_partitions} is not there")
            if not begin[partition] <= offset <= end[partition]:
                raise LogError(
                    f"log {self._url}, partition {partition}: offset {offset} is outside of "
                    f"{begin[partition]} to {end[partition]}; was the log replaced, restored or trimmed? "
                    "Restore log and store from the same moment, or start both afresh"
                )
        consumer = self._connected_consumer()
        consumer.assign(self._places(positions))
        for place in self._places(positions):
            consumer.seek(place, positions[place.partition])
        self._following = dict(positions)

    def _drop_surplus(self) -> None:
        self._surplus.clear()
        self._n_surplus_bytes = 0
        self._following = {}

    def _take(self, max_records: int, max_bytes: int) -> list[LogRecord]:
        """The heads of the surplus within the bounds, at least one record when there is any.

        Each partition gets a fair share before any gets more, and each read begins at another partition, so that a
        large record anywhere comes first at some time.
        """
        taken: list[LogRecord] = []
        n_bytes = 0
        self._turn += 1
        waiting = deque(sorted(self._surplus))
        waiting.rotate(self._turn)
        while waiting and len(taken) < max_records:
            n_share = max(1, (max_records - len(taken)) // len(waiting))
            partition = waiting.popleft()
            records = self._surplus[partition]
            for _ in range(min(n_share, len(records))):
                size = len(records[0].value)
                if taken and n_bytes + size > max_bytes:
                    return taken
                n_bytes += size
                record = records.popleft()
                taken.append(record)
                self._n_surplus_bytes -= size
                self._following[partition] = record.offset + 1
            if records:
                waiting.append(partition)
            else:
                del self._surplus[partition]
        return taken

    def _connected_consumer(self) -> Any:
        """The consumer, connected at its first use: who only appends needs none."""
        if self._consumer is None:
            self._consumer = KafkaConsumer(
                **{
                    "group_id": None,
                    "enable_auto_commit": False,
                    "auto_offset_reset": "none",
                    "isolation_level": "read_committed",
                    "allow_auto_create_topics": False,
                    **self._client,
                }
            )
        return self._consumer

    def _places(self, partitions: Sequence[int] | Mapping[int, int] | range) -> list[TopicPartition]:
        """Partitions as the client names them."""
        return [TopicPartition(self._topic, partition) for partition in partitions]

    @contextmanager
    def _errors(self, act: str) -> Iterator[None]:
        """Name the log and the remedy in what the client complains about."""
        try:
            yield
        except KafkaConfigurationError as error:
            raise ConfigurationError(f"log {self._url}: {error}; mend the log's options") from error
        except OffsetOutOfRangeError as error:
            raise LogError(
                f"log {self._url}: a position is no longer in the log ({error}); it was trimmed or replaced while "
                "being read. Restore log and store from the same moment, or start both afresh"
            ) from error
        except (KafkaError, OSError, ValueError) as error:
            raise LogError(
                f"log {self._url} cannot be {act}: {type(error).__name__}: {error}; see that the brokers run, that "
                "their address is right, and that security_protocol, ssl_* and sasl_* are what they ask for"
            ) from error


def _log_record(raw: Any) -> LogRecord:
    """A client's record as ours; foreign senders may leave out key, value or a header's content."""
    return LogRecord(
        raw.partition,
        raw.offset,
        (raw.key or b"").decode(errors="backslashreplace"),
        raw.value or b"",
        tuple((name, content or b"") for name, content in raw.headers),
        datetime.fromtimestamp(raw.timestamp / 1000, UTC),
    )
