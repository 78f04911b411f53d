"""What sealing costs: microseconds a seal and an unseal, and the embedded log's rates with and without.

The sizes are those of an event (300 bytes) and of a snapshot (3 kB); 2,000 patients, so that the keys' cache is used
as the stream uses it.
"""

from __future__ import annotations

import tempfile
import time
from statistics import median

from tests.benchmarks.bench_log import N_BATCH, N_PARTITIONS, N_RECORDS, RECORDS
from tests.benchmarks.record import record

from oncotwin.adapters.event_log import open_event_log
from oncotwin.adapters.keys import open_key_store
from oncotwin.adapters.sealed_log import SealedLog
from oncotwin.adapters.sealing import Sealer
from oncotwin.ports.event_log import EventLog
from oncotwin.testing.event_log_conformance import following

COMMAND = "python -m tests.benchmarks.bench_sealing"
N_RUNS, N_PATIENTS, N_SEALS = 5, 2_000, 20_000
PATIENTS = [f"north/patient-{i}" for i in range(N_PATIENTS)]


def main() -> None:
    """Measure, print a table and record the figures."""
    with tempfile.TemporaryDirectory() as folder:
        sealer = Sealer(open_key_store(f"sqlite:///{folder}/keys/keys.sqlite"))
        began = time.perf_counter()
        sealer.prepare(PATIENTS)
        first_s = time.perf_counter() - began
        print(f"{'first keys':24}{1e6 * first_s / N_PATIENTS:10.1f} us a patient")
        record(
            "sealing/first keys", round(1e6 * first_s / N_PATIENTS, 1), "us a patient", command=COMMAND,
            note=f"keys of {N_PATIENTS:,} patients made in one go, SQLite",
        )
        for n_bytes in (300, 3_000):
            times = [_seal_us(sealer, n_bytes) for _ in range(N_RUNS)]
            for act, values in zip(("seal", "unseal"), zip(*times, strict=True), strict=True):
                print(f"{act} of {n_bytes:5} bytes    {median(values):10.2f} us")
                record(
                    f"sealing/{act} of {n_bytes} bytes", round(median(values), 2), "us", command=COMMAND,
                    note=f"AES-256-GCM, {N_PATIENTS:,} patients in turn, one thread, median of {N_RUNS} runs",
                )
        rates: dict[str, list[tuple[float, float]]] = {"plain": [], "sealed": []}
        for run in range(N_RUNS):
            for name in rates:
                log: EventLog = open_event_log(f"embedded:{folder}/log", f"{name}.{run}", N_PARTITIONS)
                rates[name].append(_rates(log if name == "plain" else SealedLog(log, sealer)))
        for place, act in enumerate(("append", "read")):
            sealed, plain = (median(pair[place] for pair in rates[name]) for name in ("sealed", "plain"))
            print(f"{'sealed log, ' + act:24}{sealed:10,.0f} records/s, {sealed / plain:.2f} of the plain one")
            record(
                f"log/embedded, sealed/{act}", round(sealed), "records/s",
                reference=f"not sealed, same run: {plain:,.0f}", ratio=round(sealed / plain, 3), command=COMMAND,
                note=f"{N_RECORDS:,} records of 350 bytes and 8 headers, one process, median of {N_RUNS} runs",
            )
        sealer.close()


def _seal_us(sealer: Sealer, n_bytes: int) -> tuple[float, float]:
    """Microseconds of one seal and one unseal."""
    data = bytes(range(250)) * (n_bytes // 250) + bytes(n_bytes % 250)
    turns = [PATIENTS[i % N_PATIENTS] for i in range(N_SEALS)]
    began = time.perf_counter()
    sealed = [sealer.seal(patient, data) for patient in turns]
    between = time.perf_counter()
    for patient, one in zip(turns, sealed, strict=True):
        sealer.unseal(patient, one)
    return 1e6 * (between - began) / N_SEALS, 1e6 * (time.perf_counter() - between) / N_SEALS


def _rates(log: EventLog) -> tuple[float, float]:
    """Records per second appended and read."""
    began = time.perf_counter()
    for start in range(0, N_RECORDS, N_BATCH):
        log.append(RECORDS[start : start + N_BATCH])
    append = N_RECORDS / (time.perf_counter() - began)
    positions, n_read = dict.fromkeys(range(N_PARTITIONS), 0), 0
    began = time.perf_counter()
    while n_read < N_RECORDS:
        batch = log.read(positions, N_BATCH, 16_000_000, 5.0)
        positions = following(positions, batch)
        n_read += len(batch)
    read = N_RECORDS / (time.perf_counter() - began)
    log.close()
    return append, read


if __name__ == "__main__":
    main()
