"""Statements of the quick reads, built once: to build one takes several times as long as the database's answer."""

from __future__ import annotations

from sqlalchemy import bindparam, func, or_, select

from oncotwin.adapters.sql_store import schema
from oncotwin.adapters.sql_store.sealed_rows import ERASED_KIND

EVER = 2**62
"""A clinical time, or a commit position, after all others."""

_snapshots, _journal, _beliefs, _commits = schema.snapshots.c, schema.journal.c, schema.beliefs.c, schema.commits.c

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

# Moments rise with positions, so the last by moment is found at an end of the index instead of by a maximum over it.
POSITION_AT = (
    select(_commits.position)
    .where(_commits.committed_at <= bindparam("moment"))
    .order_by(_commits.committed_at.desc(), _commits.position.desc())
    .limit(1)
)
"""The last commit at or before a moment."""

_known = func.coalesce(POSITION_AT.scalar_subquery(), 0)

_journal_since = select(schema.journal).where(
    _journal.twin_id == bindparam("twin_id"), _journal.kind != ERASED_KIND,
    or_(_journal.time >= bindparam("since"), _journal.supersedes_source.is_not(None)),
)
JOURNAL, JOURNAL_KNOWN = _journal_since, _journal_since.where(_journal.position <= _known)
"""A twin's journal from a clinical time on, corrections whatever their own time; the second as known at a moment."""

_beliefs_of = (
    select(schema.beliefs, _commits.committed_at)
    .join(schema.commits, _commits.position == _beliefs.position)
    .where(_beliefs.twin_id == bindparam("twin_id"))
    .order_by(_beliefs.version)
)
BELIEFS, BELIEFS_KNOWN = _beliefs_of, _beliefs_of.where(_beliefs.position <= _known)
"""What each commit made of a twin, oldest first; the second as known at a moment."""
