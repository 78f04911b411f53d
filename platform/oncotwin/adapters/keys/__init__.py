"""Key stores: an SQLite file or a PostgreSQL database of their own, never the twin store's."""

from oncotwin.adapters.keys.sql_keys import SqlKeyStore, open_key_store

__all__ = ["SqlKeyStore", "open_key_store"]
