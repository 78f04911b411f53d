"""The ledger of reports in the store, sealed under their patients' keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import Connection, Row, select, update

from oncotwin.adapters.sealing import Sealer
from oncotwin.adapters.sql_store import audit, records, schema
from oncotwin.adapters.sql_store.database import alone, bulk_insert
from oncotwin.adapters.sql_store.sealed_rows import RowSealer
from oncotwin.domain import audit_drafts
from oncotwin.domain.audit import AuditDraft
from oncotwin.domain.errors import ErasedError, StoreError
from oncotwin.domain.ids import TwinId
from oncotwin.ports.report_ledger import ReportError, ReportRow, ReportState, Signature, Tell, standing
from oncotwin.ports.twin_rows import BeliefRow

Transaction = Callable[..., AbstractContextManager[Connection]]

_COLUMNS = (
    "report_id", "twin_id", "position", "version", "model_version", "made_at", "path", "body", "signed_at",
    "signed_by", "verdict",
)
_ID_BYTES = 16
_SHORTEST_ID = 6


class SqlReports:
    """See `ReportLedger`."""

    def __init__(
        self, transaction: Transaction, sealer: Sealer, rows: RowSealer, drafts: audit.AuditWriter
    ) -> None:
        self._transaction = transaction
        self._sealer = sealer
        self._rows = rows
        self._drafts = drafts

    def name(self, twin_id: TwinId, version: int, content: bytes) -> str:
        """The id of a report: a commitment under the patient's key, so that nobody can guess the content by it."""
        told = b"report\x00%d\x00%b" % (version, content)
        return self._sealer.commitment(twin_id, told)[:_ID_BYTES].hex()

    def register(self, report: ReportRow) -> bool:
        """Add a report; False where it is there already."""
        sealed = self._record(report)
        table, beliefs = schema.reports, schema.beliefs
        with self._transaction(write=True) as connection:
            alone(connection)
            if connection.scalar(select(table.c.version).where(table.c.report_id == report.report_id)) is not None:
                connection.execute(
                    update(table).where(table.c.report_id == report.report_id).values(path=report.path)
                )
                return False
            there = select(beliefs.c.position).where(
                beliefs.c.twin_id == report.twin_id, beliefs.c.version == report.version
            )
            if connection.scalar(there) != report.position:
                raise StoreError(
                    f"report {report.report_id}: twin {report.twin_id} has no version {report.version} of commit "
                    f"{report.position}; make the report again"
                )
            bulk_insert(connection, table, _COLUMNS, [sealed])
            return True

    def reports(self, twin_id: TwinId | None = None) -> list[tuple[ReportRow, ReportState]]:
        """Reports of one patient or of all, oldest first, and how each stands now."""
        table = schema.reports
        query = select(table).order_by(table.c.made_at, table.c.report_id)
        if twin_id is not None:
            query = query.where(table.c.twin_id == twin_id)
        with self._transaction(write=False) as connection:
            return self._found(connection, connection.execute(query).all())

    def report(self, report_id: str) -> tuple[ReportRow, ReportState] | None:
        """One report by its id, or by a beginning of it that no other has."""
        with self._transaction(write=False) as connection:
            return self._one(connection, report_id)

    def sign(
        self, report_id: str, signature: Signature, tell: Tell, *, although_superseded: bool = False
    ) -> ReportRow:
        """Sign a report: the row, its message and its audit entry in one transaction."""
        table = schema.reports
        with self._transaction(write=True) as connection:
            alone(connection)
            found = self._one(connection, report_id)
            if found is None:
                raise ReportError(f"there is no report {report_id!r}; `oncotwin reports` lists them")
            report, state = found
            if (known := report.signature) is not None:
                if (known.by, known.verdict, known.comment) == (signature.by, signature.verdict, signature.comment):
                    return report
                raise ReportError(
                    f"report {report.report_id} was signed by {known.by} at {known.at:%Y-%m-%d %H:%M} UTC "
                    f"({known.verdict}); make a new report to judge again"
                )
            if not state.is_current and not although_superseded:
                raise ReportError(
                    f"report {report.report_id} is superseded: version {state.superseded_by} of the twin took its "
                    f"belief back ({state.cause}); make a new one with `oncotwin report {report.twin_id}`, or sign it "
                    "all the same with --override-superseded"
                )
            signed = replace(report, signature=replace(signature, superseded=not state.is_current))
            values = dict(zip(_COLUMNS, self._record(signed), strict=True))
            changed = {name: values[name] for name in ("body", "signed_at", "signed_by", "verdict")}
            connection.execute(update(table).where(table.c.report_id == report.report_id).values(**changed))
            message = records.outbox_record(self._rows.message(tell(signed)))
            bulk_insert(connection, schema.outbox, records.OUTBOX, [message])
            audit.append(connection, [self._draft(signed)], signature.at)
            return signed

    def _draft(self, report: ReportRow) -> AuditDraft:
        """What the audit trail is told: a commitment to all that was signed, the belief's digest among it."""
        assert report.signature is not None
        twin_id = report.twin_id
        return audit_drafts.report_signed(
            audit_drafts.institution_of(twin_id), report.report_id, report.signature.by, report.signature.verdict,
            self._drafts.tag(twin_id), report.version, self._drafts.commitment(twin_id, _body(report)),
        )

    def _record(self, report: ReportRow) -> tuple[Any, ...]:
        """A report as a row."""
        signature = report.signature
        return (
            report.report_id, report.twin_id, report.position, report.version, report.model_version,
            schema.to_us(report.made_at), report.path, self._sealer.seal(report.twin_id, _body(report)),
            None if signature is None else schema.to_us(signature.at),
            "" if signature is None else signature.by, "" if signature is None else signature.verdict,
        )

    def _one(self, connection: Connection, report_id: str) -> tuple[ReportRow, ReportState] | None:
        table = schema.reports
        if len(report_id) < _SHORTEST_ID or not report_id.isalnum():
            return None
        query = select(table).where(table.c.report_id.startswith(report_id, autoescape=True)).limit(2)
        found = self._found(connection, connection.execute(query).all())
        return found[0] if len(found) == 1 else None

    def _found(self, connection: Connection, rows: Sequence[Row[Any]]) -> list[tuple[ReportRow, ReportState]]:
        """Rows open again, with their states; those of erased patients are passed over."""
        known: dict[TwinId, list[BeliefRow]] = {}
        found = []
        for row in rows:
            if not row.body:  # an erasure is under way: what is left says where the page lies
                continue
            try:
                report = _report(row, self._sealer.unseal(row.twin_id, row.body))
            except ErasedError:
                continue
            if report.twin_id not in known:
                known[report.twin_id] = self._beliefs(connection, report.twin_id)
            found.append((report, standing(report, known[report.twin_id])))
        return found

    def _beliefs(self, connection: Connection, twin_id: TwinId) -> list[BeliefRow]:
        table, commits = schema.beliefs, schema.commits
        query = (
            select(table, commits.c.committed_at)
            .join(commits, commits.c.position == table.c.position)
            .where(table.c.twin_id == twin_id)
            .order_by(table.c.version)
        )
        rows = map(records.belief_row, connection.execute(query))
        return list(self._rows.opened(rows, self._rows.open_belief, lambda row: row.twin_id))


def _body(report: ReportRow) -> bytes:
    """What is sealed of a report."""
    content: dict[str, Any] = {
        "kind": report.kind, "digest": report.digest, "data_through": report.data_through.isoformat(),
        "known_at": report.known_at.isoformat(), "content_hash": report.content_hash,
    }
    if (signature := report.signature) is not None:
        content["signature"] = {
            "by": signature.by, "verdict": signature.verdict, "comment": signature.comment,
            "at": signature.at.isoformat(), "superseded": signature.superseded,
        }
    return orjson.dumps(content, option=orjson.OPT_SORT_KEYS)


def _report(row: Row[Any], body: bytes) -> ReportRow:
    content = orjson.loads(body)
    signed = content.get("signature")
    signature = None
    if signed is not None:
        signature = Signature(
            signed["by"], signed["verdict"], signed["comment"], datetime.fromisoformat(signed["at"]),
            signed["superseded"],
        )
    return ReportRow(
        row.report_id, row.twin_id, content["kind"], row.position, row.version, row.model_version, content["digest"],
        datetime.fromisoformat(content["data_through"]), datetime.fromisoformat(content["known_at"]),
        schema.from_us(row.made_at), row.path, content["content_hash"], signature,
    )
