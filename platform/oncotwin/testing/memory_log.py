"""An event log in memory, for simulations that read and write thousands of topics in a minute.

It meets `oncotwin.ports.event_log.EventLog`, and the conformance suite runs over it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from oncotwin.domain.errors import LogError
from oncotwin.ports.event_log import LogRecord, NewRecord, check_record, partition_of

_POLL_S = 0.005


def _now() -> datetime:
    return datetime.now(UTC)


class MemoryTopic:
    """What a broker would hold of one topic: it outlives every `MemoryEventLog` that is opened on it.

    Args:
        now: moment at which a record counts as appended.
    """

    def __init__(self, n_partitions: int, now: Callable[[], datetime] = _now) -> None:
        self.partitions: list[list[LogRecord]] = [[] for _ in range(n_partitions)]
        self._now = now

    def append(self, record: NewRecord) -> tuple[int, int]:
        """Add one record; returns its partition and offset."""
        partition = partition_of(record.key, len(self.partitions))
        held = self.partitions[partition]
        held.append(LogRecord(partition, len(held), record.key, record.value, tuple(record.headers), self._now()))
        return partition, len(held) - 1


class MemoryEventLog:
    """One client of a topic.

    Args:
        sleep: how a read waits for what is not there yet.
    """

    def __init__(
        self, topic: MemoryTopic, sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._topic = topic
        self._sleep = sleep
        self._monotonic = monotonic
        self._turn = 0

    @property
    def n_partitions(self) -> int:
        """Number of partitions."""
        return len(self._topic.partitions)

    def append(self, records: Sequence[NewRecord]) -> list[tuple[int, int]]:
        """Append all records or, where one of them cannot be taken, none."""
        for record in records:
            check_record(record)
        return [self._topic.append(record) for record in records]

    def read(self, positions: Mapping[int, int], max_records: int, max_bytes: int, timeout_s: float) -> list[LogRecord]:
        """Read records from the given positions on; see the port."""
        for partition, offset in positions.items():
            if not 0 <= partition < self.n_partitions:
                raise LogError(f"memory log: partition {partition} of {self.n_partitions} is not there")
            if not 0 <= offset <= len(self._topic.partitions[partition]):
                raise LogError(
                    f"memory log, partition {partition}: offset {offset} is outside of 0 to "
                    f"{len(self._topic.partitions[partition])}"
                )
        deadline = self._monotonic() + timeout_s
        while True:
            found = self._read_now(positions, max_records, max_bytes)
            left_s = deadline - self._monotonic()
            if found or left_s <= 0:
                return found
            self._sleep(min(_POLL_S, left_s))

    def begin_offsets(self) -> dict[int, int]:
        """Zero everywhere: nothing is ever trimmed."""
        return dict.fromkeys(range(self.n_partitions), 0)

    def end_offsets(self) -> dict[int, int]:
        """Number of records of each partition."""
        return {number: len(held) for number, held in enumerate(self._topic.partitions)}

    def close(self) -> None:
        """Nothing is held."""

    def _read_now(self, positions: Mapping[int, int], max_records: int, max_bytes: int) -> list[LogRecord]:
        """What is there, one record of each partition in turn; each read begins at another partition."""
        self._turn += 1
        waiting = deque(sorted(positions))
        waiting.rotate(self._turn)
        following = dict(positions)
        found: list[LogRecord] = []
        n_bytes = 0
        while waiting and len(found) < max_records:
            partition = waiting.popleft()
            held = self._topic.partitions[partition]
            if following[partition] >= len(held):
                continue
            record = held[following[partition]]
            n_bytes += len(record.value)
            if found and n_bytes > max_bytes:
                break
            found.append(record)
            following[partition] += 1
            waiting.append(partition)
        return found
