"""The signer's judges: may a key sign this TBSCertificate or TBSCertList?

They run beside the key and trust nothing of the worker: the bytes are read again, strictly, and
held against the constraints in the key's record (`pki.constraints`). Pure; no clock, no I/O.
"""

from collections.abc import Callable

from hsm_drivers.errors import StatementRefusedError
from hsm_drivers.ports import Checked, Head, KeyRecord, Statement
from pki.certificate_checker import judge_certificate
from pki.crl_checker import judge_crl
from pki.errors import PkiError


def check_certificate(record: KeyRecord, statement: Statement, head: Head | None) -> Checked:
    """Judge a TBSCertificate (`hsm_drivers.ports.StatementChecker`).

    Args:
        record: Of the key that is to sign.
        statement: Its message is the TBSCertificate.
        head: Has no meaning here.

    Raises:
        StatementRefusedError: It is not strict DER, or goes beyond the record's constraints.
    """
    del head
    return _refusing(judge_certificate, record, statement)


def check_crl(record: KeyRecord, statement: Statement, head: Head | None) -> Checked:
    """Judge a TBSCertList (`hsm_drivers.ports.StatementChecker`).

    Args:
        record: Of the key that is to sign.
        statement: Its message is the TBSCertList.
        head: Has no meaning here.

    Raises:
        StatementRefusedError: As `check_certificate`.
    """
    del head
    return _refusing(judge_crl, record, statement)


def _refusing(
    judge: Callable[[KeyRecord, bytes], str], record: KeyRecord, statement: Statement
) -> Checked:
    if statement.evidence:
        raise StatementRefusedError(f"a {statement.purpose.value} statement needs no evidence")
    try:
        return Checked(judge(record, statement.message))
    except PkiError as error:
        raise StatementRefusedError(
            f"key {record.label} may not sign this {statement.purpose.value}: {error}"
        ) from error
