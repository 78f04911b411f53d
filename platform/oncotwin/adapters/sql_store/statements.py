"""Statements of the quick reads, built once: to build one takes several times as long as the database's answer."""

from __future__ import annotations

from sqlalchemy import bindparam, select

from oncotwin.adapters.sql_store import schema

EVER = 2**62
"""A clinical time, or a commit position, after all others."""

_snapshots = schema.snapshots.c

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
