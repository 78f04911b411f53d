"""The port's values as they are kept, sealed under their patients' keys, and open again.

Sealing comes before a commit's transaction begins, so that nobody waits for it under the lock. What must be found or
ordered stays readable: patient, source, id, kind, times, positions. Rows of earlier releases lie open and are read as
they are.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TypeVar

import orjson

from oncotwin.adapters.sealing import PatientSealer, Sealer, is_sealed, owner
from oncotwin.adapters.sql_store.records import storable
from oncotwin.domain.errors import ErasedError
from oncotwin.domain.ids import TwinId
from oncotwin.ports.key_store import INSTALLATION
from oncotwin.ports.twin_rows import (
    AlertRow,
    BeliefRow,
    CommitGroup,
    DeadLetter,
    EstimateRow,
    JournalEntry,
    OutboxRow,
    SnapshotRow,
    TwinCommit,
)

ERASED_KIND = "erased"
"""Kind of a journal row of which nothing is left but its place."""
ERASED_HASH = "erased"
"""Stands for the content hash of an event whose patient was erased: equal to none."""

_Row = TypeVar("_Row")
_NIS = struct.Struct("<?d")
_REJECTED = "event.rejected:"


class RowSealer:
    """Seals what a commit writes, and opens what a read finds."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer
        self._seals = sealer.seals

    def erased(self, twin_id: TwinId) -> bool:
        """Whether a patient's key was destroyed."""
        return self._sealer.erased(twin_id)

    def group(self, group: CommitGroup) -> CommitGroup:
        """A commit group as it is kept.

        Raises:
            ErasedError: one of its patients was erased.
        """
        if not self._seals:
            return group
        letters = group.dead_letters
        self._sealer.prepare(
            {owner(twin.twin_id) for twin in group.twins}
            | {owner(letter.twin_id or INSTALLATION) for letter in letters}
            | {owner(row.key) for row in group.outbox}
        )
        names = {letter.rejection_id: self._name(letter) for letter in letters}
        return replace(
            group, twins=tuple(map(self.twin, group.twins)), dead_letters=tuple(map(self.letter, letters)),
            outbox=tuple(self.message(row, names) for row in group.outbox),
        )

    def twin(self, twin: TwinCommit) -> TwinCommit:
        """One twin's share of a commit."""
        if not self._seals:
            return twin
        patient = self._sealer.of(owner(twin.twin_id))
        return TwinCommit(
            twin.twin_id, twin.expected_version, twin.new_version, twin.model_version,
            tuple(_snapshot(row, patient) for row in twin.snapshots),
            tuple(_entry(entry, patient) for entry in twin.journal),
            tuple(_estimate(row, patient) for row in twin.estimates), tuple(map(self.alert, twin.alerts)),
            twin.rewound_to, twin.rewound_by,
        )

    def alert(self, row: AlertRow) -> AlertRow:
        """An alert as it is kept."""
        if not self._seals:
            return row
        patient = self._sealer.of(owner(row.twin_id))
        return replace(
            row, message=patient.seal_text(row.message), recommended=patient.seal_text(row.recommended),
            body=patient.seal(row.body),
        )

    def message(self, row: OutboxRow, names: Mapping[str, str] | None = None) -> OutboxRow:
        """A message as it is kept.

        Args:
            names: of the letters that it may tell of, as `letter` gives them.
        """
        if not self._seals:
            return row
        headers = orjson.dumps([[name, value.decode("latin-1")] for name, value in row.headers])
        content = len(headers).to_bytes(4, "little") + headers + row.value
        key = row.message_key
        if names and key.startswith(_REJECTED):
            key = _REJECTED + names.get(key.removeprefix(_REJECTED), key.removeprefix(_REJECTED))
        sealed = self._sealer.of(owner(row.key)).seal(content)
        return OutboxRow(row.topic, row.key, key, sealed, (), row.alert_id)

    def letter(self, letter: DeadLetter) -> DeadLetter:
        """A dead letter as it is kept; its id, a hash of its bytes, becomes a keyed one."""
        if not self._seals:
            return letter
        patient = self._sealer.of(owner(letter.twin_id or INSTALLATION))
        return replace(
            letter, rejection_id=self._name(letter), reason=patient.seal_text(storable(letter.reason)),
            where=patient.seal_text(storable(letter.where)), raw=patient.seal(letter.raw),
            remedy=patient.seal_text(storable(letter.remedy)),
        )

    def _name(self, letter: DeadLetter) -> str:
        whose = owner(letter.twin_id or INSTALLATION)
        return self._sealer.commitment(whose, letter.rejection_id.encode()).hex()[:32]

    def kept_hash(self, twin_id: TwinId, content_hash: str) -> str:
        """A content hash as it is kept."""
        return self._sealer.seal_text(owner(twin_id), content_hash) if self._seals else content_hash

    def open_hash(self, twin_id: TwinId, kept: str) -> str:
        """A content hash; `ERASED_HASH` where its patient was erased."""
        try:
            return self._sealer.unseal_text(owner(twin_id), kept) or ERASED_HASH
        except ErasedError:
            return ERASED_HASH

    def opened(
        self, rows: Iterable[_Row], open_one: Callable[[_Row], _Row], whose: Callable[[_Row], TwinId]
    ) -> Iterator[_Row]:
        """Rows open again; those of erased patients are passed over."""
        for row in rows:
            if self._sealer.erased(whose(row)):
                continue
            try:
                yield open_one(row)
            except ErasedError:
                continue

    def open_entry(self, entry: JournalEntry) -> JournalEntry:
        """A journal entry as it was committed."""
        if not is_sealed(entry.payload):
            return entry
        whose, seal = owner(entry.twin_id), self._sealer
        return replace(
            entry, payload=seal.unseal(whose, entry.payload), content_hash=seal.unseal_text(whose, entry.content_hash)
        )

    def open_snapshot(self, row: SnapshotRow) -> SnapshotRow:
        """A snapshot as it was committed."""
        if not is_sealed(row.state):
            return row
        state = self._sealer.unseal(owner(row.twin_id), row.state)
        return replace(row, state=state, digest=hashlib.sha256(state).hexdigest())

    def open_estimate(self, row: EstimateRow) -> EstimateRow:
        """An estimate as it was committed."""
        if not is_sealed(row.body):
            return row
        content = self._sealer.unseal(owner(row.twin_id), row.body)
        has_nis, nis = _NIS.unpack_from(content)
        return replace(row, body=content[_NIS.size :], nis=nis if has_nis else None)

    def open_alert(self, row: AlertRow) -> AlertRow:
        """An alert as it was committed."""
        whose, seal = owner(row.twin_id), self._sealer
        return replace(
            row, message=seal.unseal_text(whose, row.message), recommended=seal.unseal_text(whose, row.recommended),
            body=seal.unseal(whose, row.body),
        )

    def open_belief(self, row: BeliefRow) -> BeliefRow:
        """What was believed, with the digest as it was committed."""
        digest = self._sealer.unseal(owner(row.twin_id), row.digest.encode("latin-1"))
        return replace(row, digest=digest.decode())

    def open_message(self, row: OutboxRow) -> OutboxRow:
        """A message as it was committed, but for the id of a letter."""
        if not is_sealed(row.value):
            return row
        content = self._sealer.unseal(owner(row.key), row.value)
        begin = 4 + int.from_bytes(content[:4], "little")
        headers: list[list[str]] = orjson.loads(content[4:begin])
        return replace(
            row, value=content[begin:], headers=tuple((name, value.encode("latin-1")) for name, value in headers)
        )

    def open_letter(self, letter: DeadLetter) -> DeadLetter:
        """A dead letter as it was committed, but for its id."""
        whose, seal = owner(letter.twin_id or INSTALLATION), self._sealer
        return replace(
            letter, reason=seal.unseal_text(whose, letter.reason), where=seal.unseal_text(whose, letter.where),
            remedy=seal.unseal_text(whose, letter.remedy), raw=seal.unseal(whose, letter.raw),
        )


def _entry(entry: JournalEntry, patient: PatientSealer) -> JournalEntry:
    return JournalEntry(
        entry.source, entry.event_id, entry.twin_id, entry.kind, entry.time, entry.time_precision, entry.recorded_at,
        entry.received_at, entry.status, patient.seal_text(entry.content_hash), patient.seal(entry.payload),
        entry.position, entry.partition, entry.offset, entry.sequence, entry.supersedes,
    )


def _snapshot(row: SnapshotRow, patient: PatientSealer) -> SnapshotRow:
    """The digest goes into the belief; of the state it is computed again when it is read."""
    return SnapshotRow(
        row.twin_id, row.time, row.n_folded, row.model_version, patient.seal(row.state),
        patient.seal(row.digest.encode()).decode("latin-1"), row.position,
    )


def _estimate(row: EstimateRow, patient: PatientSealer) -> EstimateRow:
    content = _NIS.pack(row.nis is not None, row.nis or 0.0) + row.body
    return EstimateRow(
        row.twin_id, row.time, row.source, row.event_id, row.model_version, patient.seal(content), None, row.position
    )
