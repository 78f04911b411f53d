"""The embedded event log: one SQLite file per topic, with partitions and offsets like Kafka's.

Any number of processes on one machine may append and read. The write-ahead log lets readers go on while one
process appends; appends queue up behind each other in an immediate transaction, so that offsets are dense.
"""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from oncotwin.adapters.sqlite_files import turn_on_write_ahead_log
from oncotwin.domain.errors import ConfigurationError, LogError
from oncotwin.ports.event_log import LogRecord, NewRecord, check_record, partition_of

_LOCK_WAIT_S = 30.0
"""How long an append waits for another process's append; the largest batch takes well under a second."""
_POLL_S = 0.02
"""SQLite cannot wake a reader in another process, so an idle reader looks again this often."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS topic (n_partitions INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS record (
    "partition" INTEGER NOT NULL,
    "offset" INTEGER NOT NULL,
    key TEXT NOT NULL,
    value BLOB NOT NULL,
    headers TEXT NOT NULL,
    appended_at INTEGER NOT NULL,
    PRIMARY KEY ("partition", "offset")
) WITHOUT ROWID;
"""
_READ = """
SELECT "offset", key, value, headers, appended_at FROM record
WHERE "partition" = ? AND "offset" >= ? ORDER BY "offset" LIMIT ?
"""


class EmbeddedEventLog:
    """One topic in a folder; meets `oncotwin.ports.event_log.EventLog`."""

    def __init__(self, folder: str | Path, topic: str, n_partitions: int) -> None:
        """Open the topic, making folder and topic where they are missing.

        Args:
            folder: where the topics' files are.
            topic: letters, digits, dot, dash and underscore.
            n_partitions: of a topic made now; one that exists keeps its number.
        Raises:
            ConfigurationError: a topic's name or number of partitions that cannot be.
            LogError: the folder or file cannot be opened.
        """
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}", topic):
            raise ConfigurationError(f"topic {topic!r}: use letters, digits, dots, dashes and underscores")
        if not 1 <= n_partitions <= 10_000:
            raise ConfigurationError(f"topic {topic!r}: {n_partitions} partitions; use 1 to 10,000")
        self._path = Path(folder) / f"{topic}.sqlite"
        self._turn = 0
        with self._errors("opened"):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self._path, timeout=_LOCK_WAIT_S, isolation_level=None)
            turn_on_write_ahead_log(self._connection, _LOCK_WAIT_S)
            # What was acknowledged outlives a power cut: each append is one transaction, so this is one sync.
            self._connection.execute("PRAGMA synchronous = FULL")
            self._n_partitions = self._create(n_partitions)

    @property
    def n_partitions(self) -> int:
        """Number of partitions, fixed when the topic was made."""
        return self._n_partitions

    def append(self, records: Sequence[NewRecord]) -> list[tuple[int, int]]:
        """Append all records in one transaction; see the port."""
        if not records:
            return []
        for record in records:
            check_record(record)
        # A wall clock may step back; microseconds since 1970 keep what SQLite can compare.
        appended_at = time.time_ns() // 1_000
        places: list[tuple[int, int]] = []
        rows = []
        with self._errors("appended to"), self._writing():
            following = self.end_offsets()
            for record in records:
                partition = partition_of(record.key, self._n_partitions)
                offset = following[partition]
                following[partition] = offset + 1
                places.append((partition, offset))
                headers = _encode_headers(record.headers)
                rows.append((partition, offset, record.key, record.value, headers, appended_at))
            self._connection.executemany("INSERT INTO record VALUES (?, ?, ?, ?, ?, ?)", rows)
        return places

    def read(self, positions: Mapping[int, int], max_records: int, max_bytes: int, timeout_s: float) -> list[LogRecord]:
        """Read records from the given positions on; see the port."""
        deadline = time.monotonic() + timeout_s
        self._check_positions(positions)
        while True:
            with self._errors("read"):
                records = self._read_now(positions, max_records, max_bytes)
            left_s = deadline - time.monotonic()
            if records or left_s <= 0:
                return records
            time.sleep(min(_POLL_S, left_s))

    def begin_offsets(self) -> dict[int, int]:
        """Earliest offset held, by partition; see the port."""
        return self._edge_offsets('min("offset")')

    def end_offsets(self) -> dict[int, int]:
        """Offset that the next record will get, by partition; see the port."""
        return self._edge_offsets('max("offset") + 1')

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _create(self, n_partitions: int) -> int:
        """Make the tables unless they are there; return the topic's number of partitions."""
        with self._writing():
            for statement in _SCHEMA.split(";"):
                self._connection.execute(statement)
            found = self._connection.execute("SELECT n_partitions FROM topic").fetchone()
            if found is None:
                self._connection.execute("INSERT INTO topic VALUES (?)", (n_partitions,))
                return n_partitions
            return int(found[0])

    def _read_now(self, positions: Mapping[int, int], max_records: int, max_bytes: int) -> list[LogRecord]:
        """What is there now, each partition getting a fair share before any gets more."""
        records: list[LogRecord] = []
        n_bytes = 0
        following = dict(positions)
        # Each read begins at another partition, so that a large record anywhere comes first at some time.
        self._turn += 1
        unread = deque(sorted(positions))
        unread.rotate(self._turn)
        while unread and len(records) < max_records and n_bytes < max_bytes:
            n_share = max(1, (max_records - len(records)) // len(unread))
            share_bytes = (max_bytes - n_bytes) // len(unread)
            unfinished: deque[int] = deque()
            for partition in unread:
                n_wanted = min(n_share, max_records - len(records))
                found, found_bytes = self._read_partition(
                    partition, following[partition], n_wanted, share_bytes, at_least=0 if records else 1
                )
                records += found
                n_bytes += found_bytes
                if found:
                    following[partition] = found[-1].offset + 1
                # Fewer than its share, bytes permitting, means that this partition is read to its end.
                if len(found) == n_wanted > 0:
                    unfinished.append(partition)
            unread = unfinished
        return records

    def _read_partition(
        self, partition: int, offset: int, n_wanted: int, max_bytes: int, at_least: int
    ) -> tuple[list[LogRecord], int]:
        """Records of one partition within the bounds, and the bytes of their values."""
        found: list[LogRecord] = []
        n_bytes = 0
        for position, key, value, headers, appended_at in self._connection.execute(
            _READ, (partition, offset, n_wanted)
        ):
            if n_bytes + len(value) > max_bytes and len(found) >= at_least:
                break
            n_bytes += len(value)
            found.append(LogRecord(partition, position, key, value, _decode_headers(headers), _instant(appended_at)))
        return found, n_bytes

    def _check_positions(self, positions: Mapping[int, int]) -> None:
        """Refuse positions that no record of this log can have."""
        begin, end = self.begin_offsets(), self.end_offsets()
        for partition, offset in positions.items():
            if partition not in end:
                raise LogError(f"log {self._path}: partition {partition} of {self._n_partitions} is not there")
            if not begin[partition] <= offset <= end[partition]:
                raise LogError(
                    f"log {self._path}, partition {partition}: offset {offset} is outside of "
                    f"{begin[partition]} to {end[partition]}; was the log replaced or restored? "
                    "Restore log and store from the same moment, or start both afresh"
                )

    def _edge_offsets(self, expression: str) -> dict[int, int]:
        """One aggregate of the offsets by partition; each is one step down the primary key's tree."""
        query = f'SELECT {expression} FROM record WHERE "partition" = ?'
        with self._errors("asked for its offsets"):
            return {
                partition: self._connection.execute(query, (partition,)).fetchone()[0] or 0
                for partition in range(self._n_partitions)
            }

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One immediate transaction: the write lock is taken first, so that offsets are read under it."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    @contextmanager
    def _errors(self, act: str) -> Iterator[None]:
        """Name the file and the remedy in what SQLite or the file system complains about."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise LogError(
                f"log {self._path} cannot be {act}: {error}; see that the folder is on a local disk, "
                "writable and not full"
            ) from error


def blank_records(folder: str | Path, key: str, blank: bytes, is_blank: Callable[[bytes], bool]) -> int:
    """Put something else in the place of what every topic in a folder holds under a key; offsets stay.

    The former bytes are overwritten in the file and leave its write-ahead log.

    Args:
        blank: never empty. is_blank: of a value that may stay as it is.
    Returns:
        Records that were changed.
    Raises:
        LogError: a topic's file cannot be written.
    """
    n = 0
    for path in sorted(Path(folder).glob("*.sqlite")):
        try:
            with closing(sqlite3.connect(path, timeout=_LOCK_WAIT_S, isolation_level=None)) as connection:
                connection.execute("PRAGMA secure_delete = ON")
                connection.execute("PRAGMA synchronous = FULL")
                n_partitions = connection.execute("SELECT n_partitions FROM topic").fetchone()[0]
                partition = partition_of(key, n_partitions)
                connection.execute("BEGIN IMMEDIATE")
                found = connection.execute(
                    'SELECT "offset", value FROM record WHERE "partition" = ? AND key = ?', (partition, key)
                )
                offsets = [(blank, partition, offset) for offset, value in found if not is_blank(value)]
                connection.executemany(
                    "UPDATE record SET value = ?, headers = '' WHERE \"partition\" = ? AND \"offset\" = ?", offsets
                )
                connection.execute("COMMIT")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                n += len(offsets)
        except sqlite3.Error as error:
            raise LogError(
                f"log {path}: records of {key!r} cannot be taken away: {error}; see that it is writable, then "
                "`oncotwin erase --resume`"
            ) from error
    return n


def _encode_headers(headers: tuple[tuple[str, bytes], ...]) -> str:
    """Headers as a JSON list of names and contents in turn; Latin-1 maps every byte to one character and back."""
    if not headers:
        return ""
    return json.dumps([text for name, content in headers for text in (name, content.decode("latin-1"))])


def _decode_headers(text: str) -> tuple[tuple[str, bytes], ...]:
    """The inverse of `_encode_headers`."""
    if not text:
        return ()
    flat: list[str] = json.loads(text)
    return tuple(zip(flat[::2], [content.encode("latin-1") for content in flat[1::2]], strict=True))


def _instant(microseconds: int) -> datetime:
    """Microseconds since 1970 as an aware instant."""
    return datetime.fromtimestamp(microseconds / 1e6, UTC)
