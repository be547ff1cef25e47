"""Entities and their state machines; pure."""
