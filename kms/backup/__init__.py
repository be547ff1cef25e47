"""Backups that a quorum of officers opens: recovery keys, the format, restoring, drills."""
