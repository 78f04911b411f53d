"""`LagBook` in the store's database, on a connection of its own: the watch runs beside the worker."""

from __future__ import annotations

from sqlalchemy import Engine, select
from sqlalchemy.exc import SQLAlchemyError

from oncotwin.adapters.sql_store.commit import upsert
from oncotwin.adapters.sql_store.database import open_engine
from oncotwin.adapters.sql_store.schema import from_us, lag_watch, to_us
from oncotwin.domain.errors import StoreError
from oncotwin.ports.lag_book import LagRow


class SqlLagBook:
    """See `LagBook`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def read(self, log_name: str) -> LagRow | None:
        """What was written last, None where nothing was."""
        try:
            with self._engine.connect() as connection, connection.begin():
                row = connection.execute(select(lag_watch).where(lag_watch.c.log_name == log_name)).one_or_none()
        except SQLAlchemyError as error:
            raise self._failed(error) from error
        if row is None:
            return None
        return LagRow(log_name, row.lag, row.smallest, from_us(row.since), from_us(row.measured_at))

    def write(self, row: LagRow) -> None:
        """Replace what was written of this log."""
        values = {
            "lag": row.lag, "smallest": row.smallest, "since": to_us(row.since), "measured_at": to_us(row.measured_at)
        }
        try:
            with self._engine.connect().execution_options(write=True) as connection, connection.begin():
                statement = upsert(connection, lag_watch).values(log_name=row.log_name, **values)
                connection.execute(statement.on_conflict_do_update(index_elements=["log_name"], set_=values))
        except SQLAlchemyError as error:
            raise self._failed(error) from error

    def close(self) -> None:
        """Release connections."""
        self._engine.dispose()

    def _failed(self, error: SQLAlchemyError) -> StoreError:
        url = self._engine.url.render_as_string(hide_password=True)
        return StoreError(f"store {url}: {str(error).splitlines()[0]}; see that the database answers")


def open_lag_book(url: str) -> SqlLagBook:
    """The book of a store that has this release's schema."""
    return SqlLagBook(open_engine(url))
