"""The software twin of every driver port, for tests; no command offers it."""
