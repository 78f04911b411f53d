"""Bring a database to this release's schema, step by step, whatever release wrote it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, inspect, text

from oncotwin.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from alembic.config import Config

HEAD = "0007"
"""Schema of this release."""

# One number for "somebody is migrating this database"; PostgreSQL's advisory locks are named by numbers.
MIGRATION_LOCK = 7_405_001


def migrate(engine: Engine, revision: str = HEAD) -> None:
    """Upgrade a database; several processes may open it at once, one does the work.

    Raises:
        ConfigurationError: the database was written by a later release, or is not a store's.
    """
    with engine.connect() as connection, connection.begin():
        # The usual case costs one look and no lock.
        if schema_version(connection) == revision:
            return
    with engine.connect().execution_options(write=True) as connection, connection.begin():
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK})
        if schema_version(connection) != revision:
            upgrade(connection, revision)


def schema_version(connection: Connection) -> str | None:
    """Revision of the schema that a database has; None for an empty one."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return None if found is None else str(found)


def revisions() -> set[str]:
    """Schemas that this release knows, its own and the earlier ones."""
    from alembic.script import ScriptDirectory

    return {script.revision for script in ScriptDirectory.from_config(_settings()).walk_revisions()}


def upgrade(connection: Connection, revision: str) -> None:
    """Run the steps that are missing, in the transaction at hand.

    Raises:
        ConfigurationError: the database was written by a later release, or is not a store's.
    """
    # Alembic takes a third of a second to import, which most openings of a store can do without.
    from alembic import command

    current = schema_version(connection)
    settings = _settings()
    settings.attributes["connection"] = connection
    if current is not None and current not in revisions():
        raise ConfigurationError(
            f"the store has schema {current!r}, this release knows up to {HEAD!r}; use the release that wrote it, "
            "or a later one"
        )
    if current is None and inspect(connection).has_table("journal"):
        raise ConfigurationError(
            "the database has a table `journal` that is not of this program; give the store a database of its own"
        )
    command.upgrade(settings, revision)


def _settings() -> Config:
    """Alembic's settings: where the steps are."""
    from alembic.config import Config

    settings = Config()
    settings.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    return settings
