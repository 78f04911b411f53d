"""A log whose records only their patients' keys open, around a log that keeps files of its own.

Value and headers are sealed together, under the key of the patient that the record's key names; a record whose key is
no patient's is sealed under the installation's. The record's key itself stays readable: it chooses the partition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import orjson

from oncotwin.adapters.sealing import Sealer, is_sealed, owner
from oncotwin.domain.errors import ErasedError, LogError, StoreError
from oncotwin.ports.event_log import ERASED_HEADER, EventLog, LogRecord, NewRecord, check_record

_LENGTH_BYTES = 4


class SealedLog:
    """See `EventLog`. A record whose patient was erased is read as one without value and with `ERASED_HEADER`."""

    def __init__(self, log: EventLog, sealer: Sealer) -> None:
        """Closing this log closes the one inside, and the sealer."""
        self._log = log
        self._sealer = sealer

    @property
    def n_partitions(self) -> int:
        """Number of partitions, fixed when the topic was made."""
        return self._log.n_partitions

    def append(self, records: Sequence[NewRecord]) -> list[tuple[int, int]]:
        """Seal and append; see the port.

        Raises:
            ErasedError: a record's patient was erased; nothing was appended.
        """
        for record in records:
            check_record(record)
        self._sealer.prepare({owner(record.key) for record in records})
        return self._log.append([self._closed(record) for record in records])

    def read(self, positions: Mapping[int, int], max_records: int, max_bytes: int, timeout_s: float) -> list[LogRecord]:
        """Read and open; see the port.

        Raises:
            LogError: a record was altered where it lies, or sealed with another key store.
        """
        records = self._log.read(positions, max_records, max_bytes, timeout_s)
        return [self._opened(record) for record in records]

    def begin_offsets(self) -> dict[int, int]:
        """Earliest offset held, by partition; see the port."""
        return self._log.begin_offsets()

    def end_offsets(self) -> dict[int, int]:
        """Offset that the next record will get, by partition; see the port."""
        return self._log.end_offsets()

    def close(self) -> None:
        """Close the log inside, and the sealer."""
        self._log.close()
        self._sealer.close()

    def _closed(self, record: NewRecord) -> NewRecord:
        headers = _encode_headers(record.headers)
        content = len(headers).to_bytes(_LENGTH_BYTES, "little") + headers + record.value
        return NewRecord(record.key, self._sealer.seal(owner(record.key), content))

    def _opened(self, record: LogRecord) -> LogRecord:
        whose = owner(record.key)
        try:
            if not is_sealed(record.value):
                # What an earlier release appended lies open; an erased patient's is not read either.
                return _erased(record) if self._sealer.erased(whose) else record
            content = self._sealer.unseal(whose, record.value)
        except ErasedError:
            return _erased(record)
        except StoreError as error:
            raise LogError(f"log, partition {record.partition}, offset {record.offset}: {error}") from error
        begin = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "little")
        headers = _decode_headers(content[_LENGTH_BYTES:begin])
        return LogRecord(
            record.partition, record.offset, record.key, content[begin:], headers, record.appended_at
        )


def _erased(record: LogRecord) -> LogRecord:
    return replace(record, value=b"", headers=((ERASED_HEADER, b"1"),))


def _encode_headers(headers: tuple[tuple[str, bytes], ...]) -> bytes:
    """Headers as a JSON list of names and contents in turn; Latin-1 maps every byte to one character and back."""
    if not headers:
        return b""
    return orjson.dumps([text for name, content in headers for text in (name, content.decode("latin-1"))])


def _decode_headers(data: bytes) -> tuple[tuple[str, bytes], ...]:
    """The inverse of `_encode_headers`."""
    if not data:
        return ()
    flat: list[str] = orjson.loads(data)
    return tuple(zip(flat[::2], [content.encode("latin-1") for content in flat[1::2]], strict=True))
