"""Run the steps on the connection that `migrate` has opened, inside its transaction."""

from alembic import context

from oncotwin.adapters.sql_store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True,
    transactional_ddl=True,
)
context.run_migrations()
