"""Run by Alembic for every command; `kms.storage.migrate` hands over the connection."""

from alembic import context

from kms.storage.tables import METADATA


def run() -> None:
    """Run the migrations on the given connection, inside its transaction."""
    context.configure(
        connection=context.config.attributes["connection"],
        target_metadata=METADATA,
        # All or nothing, on SQLite too: a crash in the middle leaves the old schema.
        transactional_ddl=True,
    )
    with context.begin_transaction():
        context.run_migrations()


run()
