"""A key's partition is the one Kafka's own clients choose."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given
from kafka.partitioner.default import murmur2

from oncotwin.ports.event_log import partition_of

# Computed by Apache Kafka's Java client: org.apache.kafka.common.utils.UtilsTest.testMurmur2.
JAVA_HASHES = {
    "21": -973932308,
    "foobar": -790332482,
    "a-little-bit-long-string": -985981536,
    "a-little-bit-longer-string": -1486304829,
    "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    "abc": 479470107,
}


@pytest.mark.parametrize(("key", "java_hash"), JAVA_HASHES.items())
def test_the_java_client_agrees(key: str, java_hash: int) -> None:
    assert partition_of(key, 10_007) == (java_hash & 0x7FFFFFFF) % 10_007


@given(st.text(min_size=1), st.integers(1, 10_000))
def test_the_python_client_agrees(key: str, n_partitions: int) -> None:
    assert partition_of(key, n_partitions) == (murmur2(key.encode()) & 0x7FFFFFFF) % n_partitions
