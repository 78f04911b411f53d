"""What was believed at each commit, model versions side by side, audit chain, tombstones, exports, reports, lag."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_SUPERSEDES = {
    "sqlite": """
        UPDATE journal SET
            supersedes_source = json_extract(CAST(payload AS TEXT), '$.data.supersedes.source'),
            supersedes_id = json_extract(CAST(payload AS TEXT), '$.data.supersedes.id')
        WHERE kind = 'record.corrected' AND json_valid(CAST(payload AS TEXT))
    """,
    "postgresql": """
        UPDATE journal SET
            supersedes_source = convert_from(payload, 'UTF8')::json #>> '{data,supersedes,source}',
            supersedes_id = convert_from(payload, 'UTF8')::json #>> '{data,supersedes,id}'
        WHERE kind = 'record.corrected'
    """,
}
# Twins of an earlier release may follow different versions: what the last commits were made with is believed, and a
# worker folds the others again before it goes on.
_CHAMPION = """
    INSERT INTO champions (position, model_version, at, chosen_by)
    SELECT 0, model_version, 0, 'migration' FROM twins WHERE version > 0 ORDER BY last_time DESC, twin_id LIMIT 1
"""
# Present states were published by the twin's last commit; earlier ones are not known to this table.
_BELIEFS = """
    INSERT INTO beliefs
        (twin_id, version, position, model_version, time, n_folded, digest, rewound_to, cause)
    SELECT t.twin_id, t.version, s.position, s.model_version, s.time, s.n_folded, {digest}, NULL, 'migration'
    FROM twins t JOIN snapshots s ON s.twin_id = t.twin_id AND s.superseded_at IS NULL
    WHERE t.version > 0 AND NOT EXISTS (
        SELECT 1 FROM snapshots later WHERE later.twin_id = s.twin_id AND later.superseded_at IS NULL
        AND (later.time > s.time OR (later.time = s.time AND (later.n_folded > s.n_folded
            OR (later.n_folded = s.n_folded AND later.position > s.position))))
    )
"""
_DIGEST = {"sqlite": "CAST(s.digest AS BLOB)", "postgresql": "convert_to(s.digest, 'UTF8')"}
_LINES = """
    INSERT INTO lines (model_version, twin_id, twin_version)
    SELECT model_version, twin_id, version FROM twins
    WHERE version > 0 AND model_version NOT IN (SELECT model_version FROM champions)
"""
_ALERTS = """
    UPDATE alerts SET model_version = COALESCE((
        SELECT t.model_version FROM twins t WHERE t.twin_id = alerts.twin_id
    ), '')
"""
_INTAKE = """
    UPDATE intake SET twin_id = COALESCE((
        SELECT j.twin_id FROM journal j WHERE j.source = intake.source AND j.event_id = intake.event_id
    ), '')
"""


def upgrade() -> None:
    """Add columns and tables, and fill those that the store of an earlier release can fill."""
    dialect = op.get_bind().dialect.name
    op.add_column("journal", sa.Column("supersedes_source", sa.Text))
    op.add_column("journal", sa.Column("supersedes_id", sa.Text))
    op.execute(_SUPERSEDES[dialect])
    corrects = sa.text("supersedes_source IS NOT NULL")
    op.create_index(
        "journal_of_supersedes", "journal", ["supersedes_source", "supersedes_id"], sqlite_where=corrects,
        postgresql_where=corrects,
    )
    op.add_column("alerts", sa.Column("model_version", sa.Text, nullable=False, server_default=""))
    op.execute(_ALERTS)
    op.add_column("intake", sa.Column("twin_id", sa.Text, nullable=False, server_default=""))
    op.execute(_INTAKE)
    op.create_table(
        "beliefs",
        sa.Column("twin_id", sa.Text, primary_key=True),
        sa.Column("version", sa.BigInteger, primary_key=True),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("model_version", sa.Text, nullable=False),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("n_folded", sa.BigInteger, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("rewound_to", sa.BigInteger),
        sa.Column("cause", sa.Text, nullable=False),
    )
    op.create_index("beliefs_of_position", "beliefs", ["position"])
    op.create_table(
        "champions",
        sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("model_version", sa.Text, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("chosen_by", sa.Text, nullable=False),
    )
    op.create_table(
        "lines",
        sa.Column("model_version", sa.Text, primary_key=True),
        sa.Column("twin_id", sa.Text, primary_key=True),
        sa.Column("twin_version", sa.BigInteger, nullable=False),
    )
    op.execute(_CHAMPION)
    op.execute(_BELIEFS.format(digest=_DIGEST[dialect]))
    op.execute(_LINES)
    op.create_table(
        "audit_entries",
        sa.Column("institution", sa.Text, primary_key=True),
        sa.Column("seq", sa.BigInteger, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("ref", sa.Text, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("previous", sa.LargeBinary, nullable=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "audit_checkpoints",
        sa.Column("institution", sa.Text, primary_key=True),
        sa.Column("seq", sa.BigInteger, primary_key=True),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("signature", sa.LargeBinary, nullable=False),
        sa.Column("key", sa.LargeBinary, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "tombstones",
        sa.Column("twin_id", sa.Text, primary_key=True),
        sa.Column("erased_at", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("event_id", sa.Text, nullable=False),
    )
    op.create_table(
        "exports",
        sa.Column("folder", sa.Text, primary_key=True),
        sa.Column("written_at", sa.BigInteger, nullable=False),
        sa.Column("tables", sa.Text, nullable=False),
    )
    op.create_table(
        "reports",
        sa.Column("report_id", sa.Text, primary_key=True),
        sa.Column("twin_id", sa.Text, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("model_version", sa.Text, nullable=False),
        sa.Column("made_at", sa.BigInteger, nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("signed_at", sa.BigInteger),
        sa.Column("signed_by", sa.Text, nullable=False),
        sa.Column("verdict", sa.Text, nullable=False),
    )
    op.create_index("reports_of_twin", "reports", ["twin_id", "made_at"])
    op.create_table(
        "lag_watch",
        sa.Column("log_name", sa.Text, primary_key=True),
        sa.Column("lag", sa.BigInteger, nullable=False),
        sa.Column("smallest", sa.BigInteger, nullable=False),
        sa.Column("since", sa.BigInteger, nullable=False),
        sa.Column("measured_at", sa.BigInteger, nullable=False),
    )
