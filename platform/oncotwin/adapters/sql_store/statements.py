"""Statements of the quick reads, built once: to build one takes several times as long as the database's answer."""

from __future__ import annotations

from sqlalchemy import bindparam, or_, select

from oncotwin.adapters.sql_store import schema
from oncotwin.adapters.sql_store.sealed_rows import ERASED_KIND

EVER = 2**62
"""A clinical time, or a commit position, after all others."""

_snapshots, _journal, _commits = schema.snapshots.c, schema.journal.c, schema.commits.c

NEWEST_SNAPSHOT = (
    select(schema.snapshots)
    .where(
        _snapshots.twin_id == bindparam("twin_id"), _snapshots.model_version == bindparam("line"),
        _snapshots.superseded_at.is_(None), _snapshots.time < bindparam("before"),
    )
    .order_by(_snapshots.time.desc(), _snapshots.n_folded.desc(), _snapshots.position.desc())
    .limit(1)
)
"""The latest snapshot of one twin in a line, strictly before a clinical time."""

JOURNAL = select(schema.journal).where(
    _journal.twin_id == bindparam("twin_id"), _journal.kind != ERASED_KIND,
    or_(_journal.time >= bindparam("since"), _journal.supersedes_source.is_not(None)),
    _journal.position <= bindparam("position"),
)
"""A twin's journal from a clinical time on, corrections whatever their own time, up to a commit."""

# Moments rise with positions, so the last by moment is found at an end of the index instead of by a maximum over it.
POSITION_AT = (
    select(_commits.position)
    .where(_commits.committed_at <= bindparam("moment"))
    .order_by(_commits.committed_at.desc(), _commits.position.desc())
    .limit(1)
)
"""The last commit at or before a moment."""
