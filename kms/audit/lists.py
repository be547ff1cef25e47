"""CRLs against the log: what an event revokes is on the next list, and nothing else is. Pure."""

import hashlib
from collections.abc import Mapping
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from kms import wire
from kms.audit.certificates import Inventory
from kms.audit.findings import Check
from kms.audit.forms import X509_ERRORS
from kms.audit.history import History, ListIssued, Revoked

_REASONS = {
    "unspecified": x509.ReasonFlags.unspecified,
    "key-compromise": x509.ReasonFlags.key_compromise,
    "ca-compromise": x509.ReasonFlags.ca_compromise,
    "affiliation-changed": x509.ReasonFlags.affiliation_changed,
    "superseded": x509.ReasonFlags.superseded,
    "cessation-of-operation": x509.ReasonFlags.cessation_of_operation,
    "privilege-withdrawn": x509.ReasonFlags.privilege_withdrawn,
}
_ORPHAN_LISTED = timedelta(days=3650)
"""How long an orphan stands on lists, from its event on: nobody kept its real notAfter."""


def check_lists(files: Mapping[str, bytes], history: History, inventory: Inventory) -> Check:
    """Every authority's newest CRL is in the directory and says what the log says.

    Args:
        files: Path to DER (`.crl`) or PEM (`.crl.pem`).
        history: The replayed log.
        inventory: Matched certificates.
    """
    check = Check("crls", "revocations in the log and on the CRLs are the same")
    expected = {f"ca/{name}.crl": name for name in history.lists}
    for path in sorted(files.keys() - expected.keys() - {f"{path}.pem" for path in expected}):
        check.fail(path, "no event issued a CRL of this name")
    for path, name in expected.items():
        check.examined += 1
        newest = history.lists[name][-1]
        crl = _load(check, files, path)
        if crl is not None:
            _check_list(check, path, crl, newest)
            _check_signature(check, path, crl, inventory.authorities(history, name))
            _check_entries(check, path, crl, newest, history)
            _check_complete(check, path, crl, newest, history, inventory)
    revoking = {authority for authority, _ in history.revoked}
    for name in sorted(revoking - history.lists.keys()):
        check.fail(f"ca/{name}.crl", f"{name!r} has revoked certificates and never issued a CRL")
    return check


def _load(
    check: Check, files: Mapping[str, bytes], path: str
) -> x509.CertificateRevocationList | None:
    """The list in DER; a PEM copy beside it must hold the same bytes."""
    data = files.get(path)
    if data is None:
        check.fail(path, "missing")
        return None
    try:
        crl = x509.load_der_x509_crl(data)
        serials = [entry.serial_number for entry in crl]
    except X509_ERRORS:
        check.fail(path, "not a CRL in DER")
        return None
    check.expect(len(set(serials)) == len(serials), path, "lists a serial twice")
    pem = files.get(f"{path}.pem")
    if pem is not None:
        check.expect(_same(pem, data), f"{path}.pem", f"does not hold the list of {path}")
    return crl


def _same(pem: bytes, der: bytes) -> bool:
    try:
        return x509.load_pem_x509_crl(pem).public_bytes(Encoding.DER) == der
    except X509_ERRORS:
        return False


def _check_list(
    check: Check, path: str, crl: x509.CertificateRevocationList, newest: ListIssued
) -> None:
    """The list is the one that the newest event issued, byte for byte."""
    digest = hashlib.sha256(crl.public_bytes(Encoding.DER)).hexdigest()
    if digest != newest.sha256:
        check.fail(path, f"is not the list of event {newest.index} (number {newest.number})")
    said = (newest.number, newest.this_update, newest.next_update, newest.entries)
    true = (_number(crl), _time(crl, "last"), _time(crl, "next"), len(list(crl)))
    for name, logged, found in zip(
        ("number", "this update", "next update", "count of entries"), said, true, strict=True
    ):
        if logged != found:
            check.fail(path, f"{name} is {found}, event {newest.index} says {logged}")


def _number(crl: x509.CertificateRevocationList) -> int | None:
    try:
        return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except X509_ERRORS:
        return None


def _time(crl: x509.CertificateRevocationList, which: str) -> str | None:
    moment = crl.last_update_utc if which == "last" else crl.next_update_utc
    return None if moment is None else wire.timestamp(moment)


def _check_signature(
    check: Check,
    path: str,
    crl: x509.CertificateRevocationList,
    authorities: list[x509.Certificate],
) -> None:
    for authority in authorities:
        if crl.issuer == authority.subject and _signed(crl, authority):
            return
    check.fail(path, "not signed by its authority")


def _signed(crl: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    try:
        return crl.is_signature_valid(authority.public_key())  # type: ignore[arg-type]  # KEM keys raise TypeError
    except X509_ERRORS:
        return False


def _check_entries(
    check: Check,
    path: str,
    crl: x509.CertificateRevocationList,
    newest: ListIssued,
    history: History,
) -> None:
    """Every entry has its event."""
    for entry in crl:
        check.examined += 1
        serial = wire.serial_hex(entry.serial_number)
        item = history.revoked.get((newest.authority, serial))
        if item is None:
            check.fail(path, f"lists {serial}, which no event revokes")
        else:
            _check_entry(check, path, serial, entry, item)


def _check_complete(
    check: Check,
    path: str,
    crl: x509.CertificateRevocationList,
    newest: ListIssued,
    history: History,
    inventory: Inventory,
) -> None:
    """Every revocation has its entry, unless it is over, or too young and the list still valid."""
    listed = {wire.serial_hex(entry.serial_number) for entry in crl}
    young = 0
    for (authority, serial), item in history.revoked.items():
        if authority != newest.authority or serial in listed:
            continue
        held = inventory.by_key.get((authority, serial))
        end = held.certificate.not_valid_after_utc if held else _orphan_end(item)
        if end is not None and end < crl.last_update_utc:
            continue
        if _precedes(item, newest, crl):
            check.fail(path, f"does not list {serial}, which event {item.index} revokes")
        elif _outlived(crl, history):
            check.fail(path, f"ran out, and no list followed with {serial} of event {item.index}")
        else:
            young += 1
    if young:
        check.notes.append(f"{path}: {young} revocations, younger than the list, not yet on a list")


def _orphan_end(item: Revoked) -> datetime | None:
    return item.time + _ORPHAN_LISTED if item.orphan else None


def _precedes(item: Revoked, newest: ListIssued, crl: x509.CertificateRevocationList) -> bool:
    """Whether the list had to know of it; within thisUpdate's own second it may be either way."""
    return item.index < newest.index and item.time < crl.last_update_utc


def _outlived(crl: x509.CertificateRevocationList, history: History) -> bool:
    """Whether the log went on after the list's nextUpdate: then a newer one was due."""
    end, last = crl.next_update_utc, history.last
    return end is not None and last is not None and last > end


def _check_entry(
    check: Check, path: str, serial: str, entry: x509.RevokedCertificate, item: Revoked
) -> None:
    reason = _reason(entry)
    if reason is not _REASONS.get(item.reason):
        check.fail(path, f"{serial}: another reason than event {item.index}, {item.reason}")
    if entry.revocation_date_utc != item.time:
        date = wire.timestamp(entry.revocation_date_utc)
        check.fail(path, f"{serial}: revoked {date}, event {item.index} says otherwise")


def _reason(entry: x509.RevokedCertificate) -> x509.ReasonFlags | None:
    """`unspecified` is said by saying nothing (RFC 5280 5.3.1)."""
    try:
        return entry.extensions.get_extension_for_class(x509.CRLReason).value.reason
    except x509.ExtensionNotFound:
        return x509.ReasonFlags.unspecified
    except X509_ERRORS:
        return None
