"""`kms doctor`: is this installation sound, and if not, what is to be done?

One module for each thing that is looked at:

findings      what a check finds
machine       clock, disk, listeners
files         who may read and write what
ledger        the database, the log, what the ledger says of certificates and lists
token         the token, its keys, and the signer's memory against the ledger
processes     who runs as whom, and what is loaded where
examination   all of them, in order; works beside a running service and without one
"""

from kms.cli.doctor.examination import examine
from kms.cli.doctor.findings import Finding, Severity, worst

__all__ = ["Finding", "Severity", "examine", "worst"]
