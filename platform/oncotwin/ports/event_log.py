"""The event log: an ordered, partitioned, append-only record of what the hospitals sent.

A log object is opened on one topic. A record's key (the patient) chooses its partition, so that one partition
holds one patient's events in their order of arrival. Offsets rise within a partition; a reader says which offset
it wants next and keeps that number itself, in the same transaction as the effects of what it read. The log
remembers no reader: there are no consumer groups, and leases on partitions live in the store too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Protocol

from oncotwin.domain.errors import LogError

MAX_RECORD_BYTES = 900_000
"""Bound on value, key and headers together: what a broker at its default settings takes with room to spare."""

ERASED_HEADER = "oncotwin-erased"
"""Header of a record, read with an empty value, whose patient was erased: its content is gone and it is passed over."""

_MASK = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class NewRecord:
    """A record to append."""

    key: str
    """What the partition is chosen by; never empty."""
    value: bytes
    """Never empty: a compacted topic reads an empty value as a deletion."""
    headers: tuple[tuple[str, bytes], ...] = ()
    """Name and content, in order; a name may occur twice."""


@dataclass(frozen=True, slots=True)
class LogRecord:
    """A record as the log holds it."""

    partition: int
    offset: int
    key: str
    value: bytes
    headers: tuple[tuple[str, bytes], ...]
    appended_at: datetime
    """When the log took it, aware, in UTC."""


class EventLog(Protocol):
    """One topic of a log. Not shared between threads; any number of processes may open the same topic."""

    @property
    def n_partitions(self) -> int:
        """Number of partitions, fixed when the topic was made."""
        ...

    def append(self, records: Sequence[NewRecord]) -> list[tuple[int, int]]:
        """Append records and wait until the log holds them safely.

        Records of one key keep their order.

        Args:
            records: in the order wanted; may be empty.
        Returns:
            (partition, offset) of each record, in the order given.
        Raises:
            LogError: a record the log cannot take (nothing was appended), or the log does not answer (some may
                have been appended; appending again is harmless to a reader that ignores duplicates).
        """
        ...

    def read(self, positions: Mapping[int, int], max_records: int, max_bytes: int, timeout_s: float) -> list[LogRecord]:
        """Read records from the given positions on.

        Args:
            positions: next offset wanted, by partition; only these partitions are read.
            max_records: at most so many records.
            max_bytes: stop before the values exceed this; a single record larger than it is still returned.
            timeout_s: how long to wait for a first record where there is none; what is there is returned at once,
                with 0 too.
        Returns:
            Records in the order of offsets within each partition; partitions may be interleaved. Empty only when
            the log held nothing beyond the positions. Offsets may have gaps (compaction, aborted transactions):
            go on from the last record's offset plus one.
        Raises:
            LogError: a position lies outside of what the log holds, or the log does not answer.
        """
        ...

    def begin_offsets(self) -> dict[int, int]:
        """Earliest offset held, by partition; equal to the end where a partition is empty."""
        ...

    def end_offsets(self) -> dict[int, int]:
        """Offset that the next record will get, by partition."""
        ...

    def close(self) -> None:
        """Let go of connections; closing twice is harmless."""
        ...


@lru_cache(maxsize=65_536)
def partition_of(key: str, n_partitions: int) -> int:
    """Partition of a key: murmur2 of its UTF-8 bytes, as Kafka's default partitioner has it.

    Every adapter uses this one function, so a key is in the same partition of an embedded log, of a Kafka topic
    and of a topic that another Kafka client writes to.

    Args:
        key: never empty.
        n_partitions: at least 1.
    Returns:
        A number in 0 .. n_partitions - 1.
    Source:
        Apache Kafka, org.apache.kafka.common.utils.Utils.murmur2; A. Appleby, MurmurHash2.
    """
    return (_murmur2(key.encode()) & 0x7FFFFFFF) % n_partitions


def check_record(record: NewRecord) -> None:
    """Refuse what no adapter may take.

    Raises:
        LogError: the key or the value is empty, or the record is larger than MAX_RECORD_BYTES.
    """
    if not record.key:
        raise LogError("a record without a key cannot be appended; give the patient as its key")
    if not record.value:
        raise LogError(
            f"record of {record.key!r}: its value is empty, which a compacted topic reads as a deletion; send the event"
        )
    n_bytes = len(record.value) + len(record.key) + sum(len(k) + len(v) for k, v in record.headers)
    if n_bytes > MAX_RECORD_BYTES:
        raise LogError(
            f"record of {record.key!r}: {n_bytes} bytes exceed the bound of {MAX_RECORD_BYTES}; "
            "keep large data in an array store and send a reference"
        )


def _murmur2(data: bytes) -> int:
    """32-bit MurmurHash2 with Kafka's seed, as an unsigned number."""
    multiplier, shift = 0x5BD1E995, 24
    length = len(data)
    digest = 0x9747B28C ^ length
    n_whole = length // 4 * 4
    for start in range(0, n_whole, 4):
        word = int.from_bytes(data[start : start + 4], "little")
        word = word * multiplier & _MASK
        word ^= word >> shift
        word = word * multiplier & _MASK
        digest = (digest * multiplier & _MASK) ^ word
    if length > n_whole:
        digest ^= int.from_bytes(data[n_whole:], "little")
        digest = digest * multiplier & _MASK
    digest ^= digest >> 13
    digest = digest * multiplier & _MASK
    return digest ^ digest >> 15
