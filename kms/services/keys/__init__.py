"""Use cases of clients' keys: made by purpose, used, rotated, destroyed after a delay."""
