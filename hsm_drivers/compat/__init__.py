"""The self-test of a token: every operation that the service needs, tried, judged and reported.

It stands on the `Driver` port, so it tests tokens, replicas behind sockets and the twin alike, and
judges what they answer with `cryptography`, never with the token itself.
"""

from hsm_drivers.compat.report import Report
from hsm_drivers.compat.run import Options, clean, examine, leftovers

__all__ = ["Options", "Report", "clean", "examine", "leftovers"]
