"""Append and read rates of both event logs, and of the bare Kafka client in the same run.

The records are those of the stream: 350 bytes of JSON with eight headers, 2,000 patients, 8 partitions. Reads are
timed from a fresh log object, connection included; the bare client is configured as the adapter configures it.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from tests.benchmarks.record import record

from oncotwin.adapters.event_log import open_event_log
from oncotwin.ports.event_log import NewRecord, partition_of
from oncotwin.testing.event_log_conformance import following
from oncotwin.testing.servers import KafkaBroker

COMMAND = "python -m tests.benchmarks.bench_log"
N_RECORDS, N_BATCH, N_PARTITIONS, N_RUNS = 40_000, 2_000, 8, 3
HEADERS = tuple((f"ce_attribute{i}", b"a value of a header") for i in range(8))
RECORDS = [NewRecord(f"north/patient-{i % 2_000}", b'{"value": %d}'.ljust(350) % i, HEADERS) for i in range(N_RECORDS)]


def main() -> None:
    """Measure, print a table and record the figures."""
    rates: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder, KafkaBroker(Path(folder) / "kafka") as broker:
        for run in range(N_RUNS):
            # One after the other in each run, so that a busy moment of the machine does not fall on one alone.
            for name, url in (("embedded", f"embedded:{folder}/log"), ("kafka", broker.url)):
                append, read = _adapter_rates(url, f"events.{run}")
                rates.setdefault(f"{name}/append", []).append(append)
                rates.setdefault(f"{name}/read", []).append(read)
            append, read = _client_rates(broker.bootstrap, f"events.{run}")
            rates.setdefault("bare client/append", []).append(append)
            rates.setdefault("bare client/read", []).append(read)
    print(f"{'':22}{'records/s':>12}   (median of {N_RUNS} runs of {N_RECORDS:,} records)")
    for name, values in rates.items():
        print(f"{name:22}{median(values):12,.0f}")
    for act in ("append", "read"):
        bare = median(rates[f"bare client/{act}"])
        for name in ("embedded", "kafka"):
            value = median(rates[f"{name}/{act}"])
            record(
                f"log/{name}/{act}",
                round(value),
                "records/s",
                reference=f"kafka-python alone, same run: {bare:,.0f}",
                ratio=round(value / bare, 3),
                command=COMMAND,
                note=f"{N_RECORDS:,} records of 350 bytes and 8 headers, one process, median of {N_RUNS} runs",
            )


def _adapter_rates(url: str, topic: str) -> tuple[float, float]:
    """Records per second appended and read through the port."""
    log = open_event_log(url, topic, N_PARTITIONS)
    began = time.perf_counter()
    for start in range(0, N_RECORDS, N_BATCH):
        log.append(RECORDS[start : start + N_BATCH])
    append = N_RECORDS / (time.perf_counter() - began)
    log.close()
    began = time.perf_counter()
    log = open_event_log(url, topic)
    positions, n_read = dict.fromkeys(range(N_PARTITIONS), 0), 0
    while n_read < N_RECORDS:
        batch = log.read(positions, N_BATCH, 16_000_000, 5.0)
        positions = following(positions, batch)
        n_read += len(batch)
    read = N_RECORDS / (time.perf_counter() - began)
    log.close()
    return append, read


def _client_rates(bootstrap: str, topic: str) -> tuple[float, float]:
    """Records per second sent to and polled from the same topic by kafka-python itself."""
    producer = KafkaProducer(bootstrap_servers=[bootstrap], linger_ms=5, batch_size=131_072)
    headers = list(HEADERS)
    began = time.perf_counter()
    for start in range(0, N_RECORDS, N_BATCH):
        for item in RECORDS[start : start + N_BATCH]:
            partition = partition_of(item.key, N_PARTITIONS)
            producer.send(topic, key=item.key.encode(), value=item.value, headers=headers, partition=partition)
        producer.flush()
    append = N_RECORDS / (time.perf_counter() - began)
    producer.close()
    began = time.perf_counter()
    consumer = KafkaConsumer(
        bootstrap_servers=[bootstrap],
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
    )
    consumer.assign([TopicPartition(topic, partition) for partition in range(N_PARTITIONS)])
    n_read = 0
    while n_read < N_RECORDS:
        n_read += sum(map(len, consumer.poll(timeout_ms=5_000, max_records=N_BATCH).values()))
    read = N_RECORDS / (time.perf_counter() - began)
    consumer.close()
    return append, read


if __name__ == "__main__":
    main()
