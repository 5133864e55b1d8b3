"""Run by Alembic, inside the transaction and on the connection that `Database` gives it."""

from alembic import context

from api_service.api.database import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
