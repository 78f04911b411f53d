"""A store and its key store belong together: opened with another one, it refuses before anything is written."""

from __future__ import annotations

from sqlalchemy import Engine, select

from oncotwin.adapters.sealing import Sealer
from oncotwin.adapters.sql_store.database import bulk_insert
from oncotwin.adapters.sql_store.schema import installation
from oncotwin.domain.errors import ConfigurationError
from oncotwin.ports.key_store import INSTALLATION

_KEYS = "keys"
_WORDS = b"this store is sealed under this key store"


def bind_keys(engine: Engine, sealer: Sealer) -> None:
    """Know the key store again; the first one that a store is opened with is its own.

    An empty key store in the place of the right one would otherwise make new keys for all patients, and what was sealed
    under the old ones would look damaged.

    Raises:
        ConfigurationError: it is another one.
    """
    mark = sealer.commitment(INSTALLATION, _WORDS)
    query = select(installation.c.value).where(installation.c.name == _KEYS)
    with engine.connect() as connection, connection.begin():
        found = connection.scalar(query)
    if found is None:
        with engine.connect().execution_options(write=True) as connection, connection.begin():
            # Of several that open it first one is in time; what it wrote counts.
            bulk_insert(connection, installation, ("name", "value"), [(_KEYS, mark)], new_only=True)
            found = connection.scalar(query)
    if found != mark:
        raise ConfigurationError(
            f"store {engine.url.render_as_string(hide_password=True)} was sealed under another key store than the one "
            "that the settings name; set `keys` (and `keys_master`) to its own, which a backup of the store does not "
            "hold, or restore that key store"
        )
