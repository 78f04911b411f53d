"""The twin store on SQLAlchemy: SQLite and PostgreSQL with one schema, one transaction a commit group."""

from oncotwin.adapters.sql_store.store import SqlTwinStore, open_twin_store

__all__ = ["SqlTwinStore", "open_twin_store"]
