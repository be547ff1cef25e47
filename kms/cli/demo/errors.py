"""How a demonstration ends early."""


class DemoError(Exception):
    """Something did not go as it must; the message says what."""


class SurroundingsError(Exception):
    """The machine lacks something, or the directory is not the demonstration's to remake."""
