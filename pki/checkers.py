"""The signer's judges: may a key sign this TBSCertificate or TBSCertList?

They run beside the key and trust nothing of the worker: the bytes are read again, strictly, and
held against the constraints in the key's record (`pki.constraints`) and the signer's clock. Pure.
"""

from collections.abc import Callable
from datetime import datetime

from hsm_drivers.errors import StatementRefusedError
from hsm_drivers.ports import CheckContext, Checked, KeyRecord, Statement
from pki.certificate_checker import judge_certificate
from pki.crl_checker import judge_crl
from pki.errors import PkiError


def check_certificate(record: KeyRecord, statement: Statement, context: CheckContext) -> Checked:
    """Judge a TBSCertificate (`hsm_drivers.ports.StatementChecker`).

    Args:
        record: Of the key that is to sign.
        statement: Its message is the TBSCertificate.
        context: Its clock bounds the dates.

    Raises:
        StatementRefusedError: It is not strict DER, goes beyond the record's constraints, or is
            dated at another time than now.
    """
    return _refusing(judge_certificate, record, statement, context)


def check_crl(record: KeyRecord, statement: Statement, context: CheckContext) -> Checked:
    """Judge a TBSCertList (`hsm_drivers.ports.StatementChecker`).

    Args:
        record: Of the key that is to sign.
        statement: Its message is the TBSCertList.
        context: Its clock bounds the dates.

    Raises:
        StatementRefusedError: As `check_certificate`.
    """
    return _refusing(judge_crl, record, statement, context)


def _refusing(
    judge: Callable[[KeyRecord, bytes, datetime], str],
    record: KeyRecord,
    statement: Statement,
    context: CheckContext,
) -> Checked:
    if statement.evidence:
        raise StatementRefusedError(f"a {statement.purpose.value} statement needs no evidence")
    try:
        return Checked(judge(record, statement.message, context.now))
    except PkiError as error:
        raise StatementRefusedError(
            f"key {record.label} may not sign this {statement.purpose.value}: {error}"
        ) from error
