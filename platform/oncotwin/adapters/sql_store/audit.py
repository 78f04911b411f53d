"""The audit chains in the store: entries written by commits and beside them, and read back for whoever verifies.

Whoever adds an entry holds the lock that commits hold, so the end of a chain can be read and extended.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import Connection, Row, func, select

from oncotwin.adapters.sql_store import schema
from oncotwin.adapters.sql_store.database import alone, bulk_insert, is_postgres
from oncotwin.adapters.sql_store.records import storable
from oncotwin.domain import audit_drafts
from oncotwin.domain.audit import AuditDraft, AuditEntry, AuditError, Head, extend
from oncotwin.domain.audit_verify import StoredCheckpoint, StoredEntry
from oncotwin.domain.checkpoint import Checkpoint, SignedCheckpoint
from oncotwin.domain.errors import ErasedError
from oncotwin.domain.ids import TwinId
from oncotwin.domain.merkle import Frontier
from oncotwin.ports.audit_trail import Sign
from oncotwin.ports.key_store import INSTALLATION
from oncotwin.ports.twin_rows import CommitGroup, DeadLetter, TwinCommit

ENTRY = ("institution", "seq", "kind", "ref", "at", "body", "previous", "hash")
CHECKPOINT = ("institution", "seq", "body", "signature", "key")
_ROWS_AT_ONCE = 5_000
_TAGS_REMEMBERED = 100_000

Transaction = Callable[..., AbstractContextManager[Connection]]
"""Opens a transaction of the store; ``write=True`` to write."""


class Commitments(Protocol):
    """What makes keyed commitments: a `Sealer`."""

    def commitment(self, twin_id: TwinId, data: bytes) -> bytes:
        """Under a patient's key; raises ErasedError where that was destroyed."""
        ...

    def committer(self, twin_id: TwinId) -> Callable[[bytes], bytes]:
        """Makes many under one key; raises ErasedError where that was destroyed."""
        ...


class AuditWriter:
    """Turns commits into drafts, and drafts into chained rows.

    Args:
        commitments: of the patients' keys; a patient whose key was destroyed is committed to by nothing.
    """

    def __init__(self, commitments: Commitments) -> None:
        self._commitments = commitments
        self._tags: dict[TwinId, str] = {}

    def commitment(self, twin_id: TwinId, data: bytes) -> bytes:
        """A keyed commitment; empty where the key was destroyed."""
        try:
            return self._commitments.commitment(twin_id, data)
        except ErasedError:
            return b""

    def tag(self, twin_id: TwinId) -> str:
        """How entries name a twin."""
        found = self._tags.get(twin_id)
        if found is None:
            if len(self._tags) >= _TAGS_REMEMBERED:
                self._tags.clear()
            found = self._tags[twin_id] = audit_drafts.twin_tag(self.commitment, twin_id)
        return found

    def of_group(self, group: CommitGroup, kept: CommitGroup) -> list[AuditDraft]:
        """Drafts of all that a commit does.

        Args:
            group: as it was made. kept: as it will lie in the store, where letters have other names.
        """
        drafts = [draft for twin in sorted(group.twins, key=lambda one: one.twin_id) for draft in self.of_twin(twin)]
        drafts += self.of_letters(group.dead_letters, kept.dead_letters)
        return drafts

    def of_twin(self, twin: TwinCommit) -> list[AuditDraft]:
        """A twin's accepted events, then the belief that they led to."""
        twin_id = twin.twin_id
        institution, tag = audit_drafts.institution_of(twin_id), self.tag(twin_id)
        try:
            commit = self._commitments.committer(twin_id)
        except ErasedError:
            commit = _nothing
        drafts = [
            audit_drafts.event_accepted(
                institution, entry.source, entry.event_id, entry.kind, tag, commit(entry.content_hash.encode())
            )
            for entry in twin.journal
        ]
        if twin.snapshots:
            bound = commit(twin.snapshots[-1].digest.encode())
            drafts.append(audit_drafts.estimate(institution, tag, twin.new_version, twin.model_version, bound))
        return drafts

    def of_letters(self, letters: Iterable[DeadLetter], kept: Iterable[DeadLetter]) -> Iterator[AuditDraft]:
        """Refused events; each in the chain of the institution that it names, if it names one."""
        for letter, stored in zip(letters, kept, strict=True):
            key = None
            if letter.source is not None and letter.event_id is not None:
                key = (storable(letter.source), storable(letter.event_id))
            yield audit_drafts.event_rejected(
                audit_drafts.institution_of(letter.twin_id), stored.rejection_id, key, letter.reason_code,
                self.commitment(letter.twin_id or INSTALLATION, letter.raw),
            )


def _nothing(data: bytes) -> bytes:
    """What commits to a patient whose key was destroyed."""
    del data
    return b""


def append(connection: Connection, drafts: Iterable[AuditDraft], at: datetime) -> None:
    """Chain drafts to the ends of their institutions' chains; the caller holds the lock of commits."""
    chains: dict[str, list[AuditDraft]] = defaultdict(list)
    for draft in drafts:
        chains[draft.institution].append(draft)
    entries = [
        entry
        for institution in sorted(chains)
        for entry in extend(institution, head_of(connection, institution), chains[institution], at)
    ]
    bulk_insert(connection, schema.audit_entries, ENTRY, entries)


def head_of(connection: Connection, institution: str) -> Head:
    """Where a chain ends."""
    columns = schema.audit_entries.c
    query = select(columns.seq, columns.hash).where(columns.institution == institution)
    found = connection.execute(query.order_by(columns.seq.desc()).limit(1)).first()
    return Head() if found is None else Head(found.seq, found.hash)


class SqlAuditTrail:
    """See `AuditTrail`."""

    def __init__(self, transaction: Transaction, writer: AuditWriter) -> None:
        self._transaction = transaction
        self._writer = writer

    def append(self, drafts: Sequence[AuditDraft], at: datetime) -> None:
        """Add what happened outside a commit, in one transaction."""
        with self._transaction(write=True) as connection:
            alone(connection)
            append(connection, drafts, at)

    def commitment(self, twin_id: TwinId, data: bytes) -> bytes:
        """Keyed commitment under a patient's key; empty where that key was destroyed."""
        return self._writer.commitment(twin_id, data)

    def institutions(self) -> list[str]:
        """Names of the chains."""
        column = schema.audit_entries.c.institution
        found: list[str] = []
        with self._transaction(write=False) as connection:
            # From one to the next by the key: a scan would read every entry.
            while True:
                query = select(func.min(column))
                name = connection.scalar(query.where(column > found[-1]) if found else query)
                if name is None:
                    return found
                found.append(str(name))

    def head(self, institution: str) -> Head:
        """Where a chain ends."""
        with self._transaction(write=False) as connection:
            return head_of(connection, institution)

    def rows(self, institution: str) -> Generator[StoredEntry, None, None]:
        """A chain's rows as they lie there, by seq, read as of one moment.

        They go around SQLAlchemy's types: a column that was tampered with may hold anything.
        """
        with self._transaction(write=False) as connection:
            mark = "%s" if is_postgres(connection) else "?"
            # SQLite's driver fails on text that is no UTF-8; as bytes it comes through.
            kind, ref = ("kind", "ref") if is_postgres(connection) else ("CAST(kind AS BLOB)", "CAST(ref AS BLOB)")
            statement = (
                f'SELECT institution, seq, {kind}, {ref}, "at", body, previous, hash FROM audit_entries '
                f"WHERE institution = {mark} ORDER BY seq"
            )
            streamed = {"stream_results": True, "yield_per": _ROWS_AT_ONCE}
            # Whoever reads may stop at the first bad row: the cursor is closed with the generator.
            with connection.exec_driver_sql(statement, (institution,), execution_options=streamed) as found:
                for row in found:
                    yield (row[0], row[1], _text(row[2]), _text(row[3]), row[4], row[5], row[6], row[7])

    def hashes(self, institution: str, begin: int, end: int) -> Iterator[bytes]:
        """Hashes of the entries begin + 1 to end, by seq."""
        with self._transaction(write=False) as connection:
            yield from _hashes(connection, institution, begin, end)

    def entry(self, institution: str, seq: int) -> AuditEntry | None:
        """One entry."""
        table = schema.audit_entries
        with self._transaction(write=False) as connection:
            query = select(table).where(table.c.institution == institution, table.c.seq == seq)
            found = connection.execute(query).first()
            return None if found is None else _entry(found)

    def latest(self, institution: str, n: int) -> list[AuditEntry]:
        """The last entries of a chain, oldest first."""
        table = schema.audit_entries
        query = select(table).where(table.c.institution == institution).order_by(table.c.seq.desc()).limit(n)
        with self._transaction(write=False) as connection:
            return [_entry(row) for row in connection.execute(query)][::-1]

    def find(self, name: str) -> list[AuditEntry]:
        """Entries whose `ref` is a name, or ends with it after a blank; reads every entry."""
        table, tail = schema.audit_entries, f" {name}"
        with self._transaction(write=False) as connection:
            ref, n = table.c.ref, len(tail)
            end = func.right(ref, n) if is_postgres(connection) else func.substr(ref, -n)
            query = select(table).where((ref == name) | (end == tail))
            return [_entry(row) for row in connection.execute(query.order_by(table.c.institution, table.c.seq))]

    def checkpoints(self, institution: str | None = None) -> list[StoredCheckpoint]:
        """Checkpoints held in the store, ours and others', as they lie there."""
        with self._transaction(write=False) as connection:
            name = "institution" if is_postgres(connection) else "CAST(institution AS BLOB)"
            rows = connection.exec_driver_sql(
                f"SELECT {name}, seq, body, signature, key FROM audit_checkpoints ORDER BY institution, seq"
            ).all()
        found = [StoredCheckpoint("the store", row[2], row[3], _text(row[0]), row[1], row[4]) for row in rows]
        return [one for one in found if institution is None or one.institution == institution]

    def make_checkpoint(
        self, institution: str, at: datetime, sign: Sign, start: Checkpoint | None
    ) -> SignedCheckpoint | None:
        """Sign a chain as it stands and record that as its next entry, in one transaction."""
        frontier = Frontier() if start is None else start.frontier()
        # What lies there already is hashed before the lock is taken: nobody waits for it.
        self._grow(institution, frontier, self.head(institution).size)
        with self._transaction(write=True) as connection:
            alone(connection)
            head = head_of(connection, institution)
            if start is not None:
                _check_start(connection, institution, head, start)
            if head.size == 0 or self._is_settled(connection, institution, head):
                return None
            for leaf in _hashes(connection, institution, frontier.size, head.size):
                frontier.append(leaf)
            if frontier.size != head.size:
                raise AuditError(_verify_first(institution, f"it has {frontier.size} of {head.size} entries"))
            signed = sign(head, frontier)
            found = signed.checkpoint
            bulk_insert(connection, schema.audit_checkpoints, CHECKPOINT, [_checkpoint_record(signed)])
            draft = audit_drafts.checkpoint(institution, found.size, found.root, found.key)
            append(connection, [draft], at)
            return signed

    def keep_checkpoints(self, checkpoints: Sequence[SignedCheckpoint]) -> int:
        """Hold checkpoints that came from elsewhere; returns how many were new."""
        table = schema.audit_checkpoints
        count = select(func.count()).select_from(table)
        with self._transaction(write=True) as connection:
            before = connection.scalar(count) or 0
            rows = [_checkpoint_record(one) for one in checkpoints]
            bulk_insert(connection, table, CHECKPOINT, rows, new_only=True)
            return int(connection.scalar(count) or 0) - int(before)

    def _grow(self, institution: str, frontier: Frontier, size: int) -> None:
        for leaf in self.hashes(institution, frontier.size, size):
            frontier.append(leaf)

    @staticmethod
    def _is_settled(connection: Connection, institution: str, head: Head) -> bool:
        """Whether all there is after the last checkpoint is the entry that tells of it."""
        columns = schema.audit_checkpoints.c
        last = connection.scalar(select(func.max(columns.seq)).where(columns.institution == institution))
        return last is not None and head.size <= last + 1


def _check_start(connection: Connection, institution: str, head: Head, start: Checkpoint) -> None:
    """A chain that does not go on from what was signed is not signed again."""
    columns = schema.audit_entries.c
    query = select(columns.hash).where(columns.institution == institution, columns.seq == start.size)
    if head.size < start.size or connection.scalar(query) != start.head:
        raise AuditError(_verify_first(institution, f"it does not go on from its checkpoint over {start.size} entries"))


def _verify_first(institution: str, what: str) -> str:
    return (
        f"the chain of {institution} cannot be signed: {what}; `oncotwin audit verify` names the first bad entry"
    )


def _hashes(connection: Connection, institution: str, begin: int, end: int) -> Iterator[bytes]:
    columns = schema.audit_entries.c
    query = (
        select(columns.hash)
        .where(columns.institution == institution, columns.seq > begin, columns.seq <= end)
        .order_by(columns.seq)
    )
    with connection.execute(query.execution_options(yield_per=_ROWS_AT_ONCE)) as found:
        yield from found.scalars()


def _text(value: Any) -> Any:
    """Bytes of a text column as text; what is none stays as it is."""
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def _entry(row: Row[Any]) -> AuditEntry:
    return AuditEntry(row.institution, row.seq, row.kind, row.ref, row.at, row.body, row.previous, row.hash)


def _checkpoint_record(signed: SignedCheckpoint) -> tuple[str, int, bytes, bytes, bytes]:
    found = signed.checkpoint
    return (found.institution, found.size, found.to_json(), signed.signature, found.key)
