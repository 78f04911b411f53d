"""An installation with one patient to erase, and the search for what is left of them."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
from sqlalchemy import MetaData, create_engine, select

from oncotwin.adapters.parquet_history import ParquetHistory
from oncotwin.adapters.sql_store import schema
from oncotwin.bootstrap import wiring
from oncotwin.bootstrap.settings import Settings
from oncotwin.ports.event_log import EventLog, NewRecord
from oncotwin.ports.twin_store import TwinStore
from oncotwin.testing.patients import correction, diameter, treatment
from oncotwin_flows.erase import ErasureReport, make_eraser
from oncotwin_flows.groups import Bounds, Tally
from oncotwin_flows.intake import Intake, IntakeReport, IntakeRules
from oncotwin_flows.relay import Relay
from oncotwin_flows.worker import Worker, WorkerSettings

NOW = datetime(2026, 3, 1, tzinfo=UTC)
GONE, WORD, VALUE = "H1/p1", "marker-lesion-81923", 47.1234509
"""The patient who is erased, and what only that patient's events hold."""
TRACES = (WORD.encode(), str(VALUE).encode(), struct.pack("<d", VALUE), struct.pack(">d", VALUE))


@dataclass(frozen=True)
class Site:
    """An installation with its twins in this process."""

    settings: Settings

    def append(self, lines: Sequence[bytes]) -> None:
        with closing(wiring.open_log(self.settings)) as log:
            log.append([NewRecord(json.loads(line)["subject"], line) for line in lines])

    def ingest(self, lines: Sequence[bytes]) -> IntakeReport:
        with closing(wiring.open_log(self.settings)) as log, self.store() as store:
            return Intake(log, store, wiring.SystemClock(), IntakeRules()).ingest(lines)

    def work(
        self, commit_events: int = 7, log: EventLog | None = None, log_name: str = "", *, erase: bool = True
    ) -> Tally:
        """What `oncotwin work` does, without a registry."""
        settings, clock = self.settings, wiring.SystemClock()
        rules = WorkerSettings("w", log_name or wiring.log_name(settings), "literature", 1e6, timedelta(minutes=5))
        with (
            self.store() as store, closing(wiring.open_keys(settings)) as keys,
            closing(log or wiring.open_log(settings)) as source,
            closing(wiring.open_host(settings, "literature")) as host,
            closing(Relay(store, lambda topic: wiring.open_log(settings, topic))) as relay,
        ):
            eraser = make_eraser(settings, store, keys, clock)
            if erase:
                eraser.resume()
            worker = Worker(
                source, store, host, clock, rules, erase=lambda: len(eraser.carry_out()) if erase else 0
            )
            tally = worker.run(Bounds(1_000_000, 1e6, commit_events, 0.0))
            worker.release()
            relay.publish()
            return tally

    def store(self) -> closing[TwinStore]:
        return closing(wiring.open_store(self.settings))

    def erase(self, *, stop_at: str = "") -> ErasureReport:
        def hook(step: str) -> None:
            if step == stop_at:
                raise KeyboardInterrupt

        with self.store() as store, closing(wiring.open_keys(self.settings)) as keys:
            return make_eraser(self.settings, store, keys, wiring.SystemClock(), hook).erase(GONE, "asked for")

    def digests(self) -> dict[str, str]:
        with self.store() as store:
            rows = store.latest_snapshots(list(store.twin_heads()))
        return {twin_id: row.digest for twin_id, row in rows.items()}


def cohort() -> list[bytes]:
    """Visits of four patients; one of them with what is found again wherever it lies."""
    lines = []
    for visit in range(6):
        for p in range(1, 5):
            patient = f"H1/p{p}"
            if visit == 2:
                lines.append(treatment(f"{p}-on", 50, "drugA", "on", patient=patient))
            lesion, mm = (WORD, VALUE + visit) if patient == GONE else ("L1", 20.0 + p + visit)
            lines.append(
                diameter(f"{p}-{visit}", 40.0 * visit, mm, lesion=lesion, patient=patient, sequence=4 * visit + p)
            )
    lines.append(correction("1-c", 300, "1-3", "retract", patient=GONE))
    # Refused: one with the patient's name on it, one that cannot be read and names the patient all the same.
    wrong = json.loads(diameter("1-bad", 10, VALUE, lesion=WORD, patient=GONE))
    wrong["data"]["unit"] = "parsec"
    return [*lines, json.dumps(wrong).encode()]


UNREADABLE = b'{"subject": "' + GONE.encode() + b'", "note": "' + WORD.encode() + b'", '
"""Cut short; whose it is can be seen all the same."""
NAMELESS = b"patient " + GONE.encode() + b": " + WORD.encode()
"""Nobody's, for a program."""


def fill(site: Site) -> None:
    """Events through intake and worker, and what was refused."""
    report = site.ingest([*cohort(), UNREADABLE])
    assert (report.n_accepted, len(report.rejections)) == (29, 2)
    # The worker refuses as the intake does.
    site.append([line for line in cohort() if b"parsec" in line])
    site.work()


def held(settings: Settings, *folders: Path) -> bytes:
    """Every byte of an installation: files, what is packed in them, and rows of a server's tables."""
    parts = []
    for folder in (settings.home, *folders):
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                parts.append(path.read_bytes())
            if path.suffix == ".zst":
                with pa.CompressedInputStream(pa.OSFile(str(path)), "zstd") as stream:
                    parts.append(stream.read())
    for url in {settings.store_url, settings.keys_url}:
        if url.startswith("postgresql"):
            parts += rows_of(url)
    return b"\n".join(parts)


def rows_of(url: str) -> Iterator[bytes]:
    """All values of all tables."""
    engine, metadata = create_engine(url), MetaData()
    with engine.connect() as connection:
        metadata.reflect(connection)
        for table in metadata.sorted_tables:
            for row in connection.execute(select(table)):
                for value in row:
                    yield bytes(value) if isinstance(value, bytes | memoryview) else str(value).encode()
    engine.dispose()


def traces(data: bytes) -> list[bytes]:
    return [trace for trace in TRACES if trace in data]


def nothing_of(store: TwinStore) -> bool:
    """Whether every way of asking passes the erased patient over."""
    assert GONE not in store.twin_heads()
    assert store.twin_heads([GONE]) == {}
    assert store.latest_snapshots([GONE]) == {}
    assert store.journal(GONE) == store.journal(GONE, known_at=NOW) == []
    assert store.beliefs(GONE) == []
    assert list(store.estimates(GONE, superseded=True)) == []
    assert GONE not in {row.twin_id for row in store.estimates()}
    assert [row for row in store.alerts(superseded=True) if row.twin_id == GONE] == []
    assert not any(GONE.encode() in letter.raw for letter in store.dead_letters(None))
    assert not any(row.key == GONE for _, row in store.pending_outbox(1_000))
    return True


def export_tables(site: Site, folder: Path) -> None:
    """A table as `export_history` writes it, and its entry in the store."""
    times = np.array(["2026-01-05", "2026-02-05"] * 4, dtype="datetime64[us]")
    patients = np.array([f"p{i}" for i in (1, 1, 2, 3, 1, 2, 3, 4)])
    columns = {
        "institution": np.array(["H1"] * 8), "patient": patients, "time": times,
        "component": np.where(patients == "p1", WORD, "L1"), "q50": np.where(patients == "p1", VALUE, 1.0),
    }
    ParquetHistory(folder).append("estimates", columns, "time")
    with site.store() as store:
        store.erasures.record_export(str(folder), ("estimates", "forecasts"), NOW)


def add_report(settings: Settings, path: Path) -> None:
    """A report as whoever makes reports keeps it."""
    engine = create_engine(settings.store_url)
    with closing(wiring.open_sealer(settings)) as sealer, engine.begin() as connection:
        connection.execute(
            schema.reports.insert().values(
                report_id="r1", twin_id=GONE, position=1, version=1, model_version="1", made_at=0, path=str(path),
                body=sealer.seal(GONE, WORD.encode()), signed_by="", verdict="",
            )
        )
    engine.dispose()
