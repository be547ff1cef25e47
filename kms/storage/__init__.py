"""The ledger in SQLAlchemy, its migrations, and its in-memory twin."""
