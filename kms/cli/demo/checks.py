"""What must hold in the end, asked of the files alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from kms.cli.demo.errors import DemoError
from kms.cli.demo.programs import run


def audit(program: str, record: Path, vkey: Path, root: Path) -> str:
    """Let the auditor verify everything, trusting only the verifier key and root it brought.

    Raises:
        DemoError: A check failed.
    """
    command = [program, "verify", str(record), "--vkey", str(vkey), "--root", str(root)]
    status, output, errors = run(command)
    if status != 0:
        raise DemoError(f"kms-audit found (status {status}):\n{output}\n{errors}")
    return output


def check_certificates(record: Path, summary: Mapping[str, Any]) -> tuple[int, int]:
    """Every device's certificate against its authority and that authority's revocation list.

    Returns:
        How many are good, and how many revoked.

    Raises:
        DemoError: One is not what the summary says.
    """
    authorities = load_authorities(record)
    good = revoked = 0
    for entry in summary["certificates"]:
        certificate = x509.load_pem_x509_certificate((record / entry["path"]).read_bytes())
        try:
            authority, crl = authorities[certificate.issuer]
            certificate.verify_directly_issued_by(authority)
        except (KeyError, ValueError, TypeError, InvalidSignature) as error:
            raise DemoError(f"{entry['path']}: not issued by an authority of ca/") from error
        listed = crl.get_revoked_certificate_by_serial_number(certificate.serial_number)
        status = "good" if listed is None else "revoked"
        if status != entry["status"]:
            raise DemoError(f"{entry['path']}: {entry['status']}, but {status} by the CRL")
        good, revoked = good + (listed is None), revoked + (listed is not None)
    return good, revoked


def load_authorities(
    record: Path,
) -> dict[x509.Name, tuple[x509.Certificate, x509.CertificateRevocationList]]:
    """Every authority of the record by its name, with its revocation list.

    Raises:
        DemoError: A list is not its authority's.
    """
    found = {}
    for path in sorted((record / "ca").glob("*.crl")):
        pem = path.with_suffix(".pem").read_bytes()
        certificate = x509.load_pem_x509_certificate(pem)
        found[certificate.subject] = certificate, load_crl(path, certificate)
    return found


def load_crl(path: Path, issuer: x509.Certificate) -> x509.CertificateRevocationList:
    """A revocation list that its issuer signed.

    Raises:
        DemoError: It did not.
    """
    crl = x509.load_der_x509_crl(path.read_bytes())
    if not crl.is_signature_valid(issuer.public_key()):  # type: ignore[arg-type]  # ML-DSA, too
        raise DemoError(f"{path}: not signed by its authority")
    return crl
