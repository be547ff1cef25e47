"""The demonstration: from an empty directory to a record that strangers can verify.

It is an outsider: it works through HTTP, the command line and files only, and imports nothing of
the service but the device client.

    place       where everything lies, free ports, the token
    programs    the installed `kms` and `kms-audit`, and the service as a child process
    people      users and their devices; requests that must be refused
    record      what is written down for strangers
    checks      what must hold in the end
    story       the acts, in their order
"""

from kms.cli.demo.errors import DemoError, SurroundingsError
from kms.cli.demo.story import Outcome, tell

__all__ = ["DemoError", "Outcome", "SurroundingsError", "tell"]
