"""${message}.

Rules, so that no worker has to stop (old and new programs run side by side):
1. The program before this change must run on the schema after it: add, never rename or remove.
   Remove a column in the release after the one that stopped reading it.
2. A new column is nullable or has a server default. Fill old rows in steps, not here.
3. On PostgreSQL begin with
       SET LOCAL lock_timeout = '4s'; SET LOCAL statement_timeout = '5s'
   and try again rather than let everyone queue behind a waiting ALTER TABLE. Make indices of tables
   in use CONCURRENTLY, in a migration of their own, outside a transaction.
4. Add constraints NOT VALID, validate them in the next migration.
5. `tenant` belongs in every primary and unique key. Events, tiles and checkpoints are never changed.
6. There is no way down: a backup is the way back.
"""

from alembic import op
import sqlalchemy as sa
${imports if imports else ""}

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade() -> None:
    """${message}."""
    ${upgrades if upgrades else "pass"}
