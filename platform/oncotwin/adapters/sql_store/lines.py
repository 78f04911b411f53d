"""Lines of model versions in the SQL store: what each lags behind, how it moves on, and how it is promoted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, delete, select, update

from oncotwin.adapters.sealing import owner
from oncotwin.adapters.sql_store import audit, records, schema
from oncotwin.adapters.sql_store.audit import AuditWriter
from oncotwin.adapters.sql_store.commit import (
    champion_of,
    choose_champion,
    next_position,
    take_back,
    thin_snapshots,
    upsert,
    write_line,
)
from oncotwin.adapters.sql_store.database import Record, alone, among, bulk_insert
from oncotwin.adapters.sql_store.line_queries import (
    alerts_only_of,
    folded_twins,
    lagging,
    latest_estimates,
    line_estimates,
    presents,
)
from oncotwin.adapters.sql_store.reads import SqlReads
from oncotwin.domain.audit import AuditDraft
from oncotwin.domain.audit_drafts import model_promoted
from oncotwin.domain.errors import ChampionChangedError, ErasedError, LineBehindError, StaleVersionError
from oncotwin.domain.ids import TwinId
from oncotwin.ports.line_store import ChampionRow, LineLag, Promotion
from oncotwin.ports.steps import OnStep
from oncotwin.ports.twin_rows import AlertRow, EstimateRow, JournalEntry, SnapshotRow, TwinCommit
from oncotwin.twin.shard import EVER

LINE_STEPS = (
    "lock", "line fenced", "position", "taken back", "snapshots", "estimates", "alerts", "thinned", "lines",
)
"""Named steps of `commit_line`, in their order."""

PROMOTE_STEPS = (
    "lock", "last folded", "position", "taken back", "snapshots", "estimates", "alerts", "thinned", "lines",
    "champion", "versions moved", "beliefs", "outbox", "audit",
)
"""Named steps of `promote`, in their order."""

_TWINS_AT_ONCE, _STATES_AT_ONCE = 1_000, 200
"""Twins whose rows, and whose states, are read together while a version is promoted: memory stays bounded."""


class SqlLines(SqlReads):
    """See `LineStore`."""

    _on_step: OnStep
    _drafts: AuditWriter

    def champions(self) -> list[ChampionRow]:
        """Every version that was believed, oldest first."""
        table = schema.champions
        with self._transaction(write=False) as connection:
            rows = connection.execute(select(table).order_by(table.c.position))
            return [ChampionRow(r.position, r.model_version, schema.from_us(r.at), r.chosen_by) for r in rows]

    def lines(self) -> dict[str, int]:
        """How many twins each line that is not the champion's lags behind."""
        table = schema.lines.c
        with self._transaction(write=False) as connection:
            champion = champion_of(connection)
            names = connection.scalars(select(table.model_version).distinct().order_by(table.model_version)).all()
        return {name: self.n_behind(name) for name in names if name != champion}

    def behind(self, model_version: str, limit: int, *, after: int = -1) -> list[LineLag]:
        """Twins that a line lags behind, in the order of their ordinals, those after an ordinal."""
        with self._transaction(write=False) as connection:
            return self._behind(connection, model_version, limit, after)

    def n_behind(self, model_version: str) -> int:
        """How many twins a line lags behind."""
        with self._transaction(write=False) as connection:
            rows = connection.execute(lagging(model_version, champion_of(connection)))
            return sum(not self._rows.erased(row.twin_id) for row in rows)

    def _behind(self, connection: Connection, model_version: str, limit: int, after: int = -1) -> list[LineLag]:
        ordinal = schema.twins.c.ordinal
        query = lagging(model_version, champion_of(connection)).order_by(ordinal).limit(limit)
        found: list[LineLag] = []
        while len(found) < limit:
            rows = connection.execute(query.where(ordinal > after + 1)).all()
            # A version of which no commit is known any more is no place to go on from: begin at the beginning.
            found += [
                LineLag(row.twin_id, row.ordinal - 1, row.version, row.folded or 0, row.since or 0, row.until)
                for row in rows
                if not self._rows.erased(row.twin_id)
            ]
            if len(rows) < limit:
                break
            after = rows[-1].ordinal - 1
        return found[:limit]

    def journal_between(self, lags: Sequence[LineLag]) -> dict[TwinId, list[JournalEntry]]:
        """Journal entries that lines have still to fold, in the order of the fold."""
        table = schema.journal
        spans = {lag.twin_id: (lag.since, lag.until) for lag in lags}
        found: dict[TwinId, list[JournalEntry]] = {twin_id: [] for twin_id in spans}
        if not spans:
            return found
        self._sealer.prepare(map(owner, spans))
        with self._transaction(write=False) as connection:
            query = select(table).where(
                among(connection, table.c.twin_id, list(spans)),
                table.c.position > min(since for since, _ in spans.values()),
            )
            rows = [
                records.journal_entry(row)
                for row in connection.execute(query)
                if spans[row.twin_id][0] < row.position <= spans[row.twin_id][1]
            ]
        for entry in self._rows.opened(rows, self._rows.open_entry, _twin):
            found[entry.twin_id].append(entry)
        for entries in found.values():
            entries.sort(key=lambda entry: (entry.time, entry.source, entry.event_id))
        return found

    def line_estimates(self, model_version: str, twin_ids: Sequence[TwinId]) -> list[EstimateRow]:
        """Estimates in force of these twins in a line, by twin and clinical time."""
        with self._transaction(write=False) as connection:
            rows = connection.execute(line_estimates(connection, model_version, twin_ids)).all()
        return list(self._rows.opened(map(records.estimate_row, rows), self._rows.open_estimate, _twin))

    def commit_line(self, model_version: str, twins: Sequence[TwinCommit], now: datetime) -> int:
        """Move a line on, in one transaction."""
        kept = self._kept(twins)
        with self._transaction(write=True) as connection:
            alone(connection)
            self._on_step("lock")
            _fence_line(connection, model_version, twins)
            self._on_step("line fenced")
            position, _ = next_position(connection, schema.to_us(now), f"line {model_version}", 0)
            self._on_step("position")
            _write(connection, model_version, twins, kept, position, self._on_step)
            return position

    def _kept(self, twins: Sequence[TwinCommit]) -> list[TwinCommit]:
        """Sealed; the journal has its entries already."""
        try:
            return [self._rows.twin(replace(twin, journal=())) for twin in twins]
        except ErasedError as error:
            raise StaleVersionError(f"{error}; fold the others again") from error

    def promote(self, promotion: Promotion) -> int:
        """Have a version believed, in one transaction."""
        chosen, on_step = promotion.model_version, self._on_step
        # Keys come before the lock, in one go: nobody waits for them.
        self._sealer.prepare(map(owner, self.twin_heads()))
        with self._transaction(write=True) as connection:
            alone(connection)
            on_step("lock")
            before = champion_of(connection)
            if before == chosen:
                raise ChampionChangedError(f"model version {chosen} is the champion already; nothing was written")
            lags = self._behind(connection, chosen, promotion.most_behind + 1)
            if len(lags) > promotion.most_behind:
                raise LineBehindError(
                    f"the line of model version {chosen} lags behind {len(lags)} twins or more; fold on, then promote "
                    "it again"
                )
            last = _all_of(lags, promotion.fold(lags) if lags else ())
            on_step("last folded")
            position, moment = next_position(connection, schema.to_us(promotion.at), f"promote {chosen}", 0)
            on_step("position")
            _write(connection, chosen, last, self._kept(last), position, on_step)
            choose_champion(connection, position, chosen, moment, promotion.chosen_by)
            on_step("champion")
            self._move_twins(connection, chosen)
            on_step("versions moved")
            drafts = self._publish(connection, promotion, before, position)
            drafts.append(model_promoted(chosen, before, promotion.chosen_by, position))
            audit.append(connection, drafts, schema.from_us(moment))
            on_step("audit")
            return position

    def _move_twins(self, connection: Connection, chosen: str) -> None:
        """Give every twin its next version; the lines that they leave are complete at that version."""
        twins, lines = schema.twins, schema.lines
        left = upsert(connection, lines).from_select(
            ["model_version", "twin_id", "twin_version"],
            select(twins.c.model_version, twins.c.twin_id, twins.c.version + 1).where(
                folded_twins(), twins.c.model_version != chosen
            ),
        )
        connection.execute(
            left.on_conflict_do_update(
                index_elements=["model_version", "twin_id"], set_={"twin_version": left.excluded.twin_version}
            )
        )
        connection.execute(delete(lines).where(lines.c.model_version == chosen))
        connection.execute(
            update(twins).where(folded_twins()).values(version=twins.c.version + 1, model_version=chosen)
        )

    def _publish(
        self, connection: Connection, promotion: Promotion, before: str | None, position: int
    ) -> list[AuditDraft]:
        """Beliefs and messages of every twin under its new champion; returns what the audit trail is to tell."""
        chosen = promotion.model_version
        cause = f"model {chosen}"
        beliefs: list[Record] = []
        twins: list[TwinCommit] = []
        found = connection.execute(presents(connection, chosen).execution_options(yield_per=_STATES_AT_ONCE))
        for rows in found.partitions():
            some = [
                TwinCommit(
                    row.twin_id, row.version - 1, row.version, chosen, (self._present(row),), rewound_to=EVER,
                    rewound_by=cause,
                )
                for row in rows
                if not self._rows.erased(row.twin_id)
            ]
            twins += some
            beliefs += [records.belief_record(twin, position) for twin in self._kept(some)]
        bulk_insert(connection, schema.beliefs, records.BELIEF, beliefs)
        self._on_step("beliefs")
        drafts: list[AuditDraft] = []
        for begin in range(0, len(twins), _TWINS_AT_ONCE):
            some = twins[begin : begin + _TWINS_AT_ONCE]
            told = self._as_told(connection, some, self._alerts_only_of(connection, chosen, before, some))
            gone = () if before is None else self._alerts_only_of(connection, before, chosen, some)
            drafts.extend(draft for twin in told for draft in self._drafts.of_twin(twin))
            messages = [records.outbox_record(self._rows.message(row)) for row in promotion.tell(told, gone)]
            bulk_insert(connection, schema.outbox, records.OUTBOX, messages, new_only=True)
        self._on_step("outbox")
        return drafts

    def _alerts_only_of(
        self, connection: Connection, model_version: str, other: str | None, twins: Sequence[TwinCommit]
    ) -> list[AlertRow]:
        """Alerts of twins that stand in one line and not in another."""
        query = alerts_only_of(connection, model_version, other or "", [twin.twin_id for twin in twins])
        found = map(records.alert_row, connection.execute(query))
        return list(self._rows.opened(found, self._rows.open_alert, _twin))

    def _present(self, row: Row[Any]) -> SnapshotRow:
        """The latest snapshot of a twin, without its state, which is read only where its digest must be found anew."""
        kept = SnapshotRow(
            row.twin_id, schema.from_us(row.time), row.n_folded, row.model_version, bytes(row.state), row.digest
        )
        return replace(self._rows.open_snapshot(kept), state=b"")

    def _as_told(
        self, connection: Connection, twins: Sequence[TwinCommit], new_alerts: Sequence[AlertRow]
    ) -> list[TwinCommit]:
        """Twins with their latest estimate, and with alerts that were not told of."""
        ids, chosen = [twin.twin_id for twin in twins], twins[0].model_version
        found = map(records.estimate_row, connection.execute(latest_estimates(connection, chosen, ids)))
        estimates = {row.twin_id: row for row in self._rows.opened(found, self._rows.open_estimate, _twin)}
        alerts: dict[TwinId, list[AlertRow]] = {}
        for alert in new_alerts:
            alerts.setdefault(alert.twin_id, []).append(alert)
        return [
            replace(
                twin, estimates=(estimates[twin.twin_id],) if twin.twin_id in estimates else (),
                alerts=tuple(alerts.get(twin.twin_id, ())),
            )
            for twin in twins
        ]


def _twin(row: EstimateRow | AlertRow | JournalEntry) -> TwinId:
    return row.twin_id


def _fence_line(connection: Connection, model_version: str, twins: Sequence[TwinCommit]) -> None:
    """A line of the champion's moves by commits alone; any other where it was left."""
    if champion_of(connection) == model_version:
        raise ChampionChangedError(
            f"model version {model_version} is the champion now: its line moves with the stream; nothing was written"
        )
    table, heads = schema.lines.c, schema.twins.c
    ids = [twin.twin_id for twin in twins]
    query = select(table.twin_id, table.twin_version).where(
        table.model_version == model_version, among(connection, table.twin_id, ids)
    )
    there = {row.twin_id: row.twin_version for row in connection.execute(query)}
    versions = select(heads.twin_id, heads.version).where(among(connection, heads.twin_id, ids))
    known = {row.twin_id: row.version for row in connection.execute(versions)}
    for twin in twins:
        if known.get(twin.twin_id, 0) < twin.new_version:
            raise StaleVersionError(
                f"twin {twin.twin_id} has no version {twin.new_version} (any more): it was erased meanwhile; fold the "
                "others again"
            )
        if there.get(twin.twin_id, 0) != twin.expected_version:
            raise StaleVersionError(
                f"the line of model version {model_version} is at version {there.get(twin.twin_id, 0)} of twin "
                f"{twin.twin_id}, the commit was built on {twin.expected_version}; fold again from the store"
            )


def _all_of(lags: Sequence[LineLag], twins: Sequence[TwinCommit]) -> Sequence[TwinCommit]:
    """The commits, if they bring the line up to date."""
    if {lag.twin_id: lag.version for lag in lags} != {twin.twin_id: twin.new_version for twin in twins}:
        raise LineBehindError(f"{len(lags)} twins are to be folded before the promotion, {len(twins)} were")
    return twins


def _write(
    connection: Connection, model_version: str, twins: Sequence[TwinCommit], kept: Sequence[TwinCommit], position: int,
    on_step: OnStep,
) -> None:
    """Rows of a line, and up to where it is folded now.

    Args:
        twins: as they were folded, with the journal entries that they folded; kept: the same, as they are to lie.
    """
    for twin in kept:
        if twin.rewound_to is not None:
            take_back(connection, twin, schema.to_us(twin.rewound_to), position)
    on_step("taken back")
    write_line(connection, kept, position, on_step)
    thin_snapshots(connection, twins)
    on_step("thinned")
    if twins:
        statement = upsert(connection, schema.lines)
        connection.execute(
            statement.on_conflict_do_update(
                index_elements=["model_version", "twin_id"], set_={"twin_version": statement.excluded.twin_version}
            ),
            [
                {"model_version": model_version, "twin_id": twin.twin_id, "twin_version": twin.new_version}
                for twin in twins
            ],
        )
    on_step("lines")
