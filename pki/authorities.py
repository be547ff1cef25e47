"""Ceremony builders: the root's own certificate and those of the authorities below it."""

from dataclasses import dataclass
from datetime import datetime

from hsm_drivers.ports import KeyLabel
from pki import extensions
from pki.certificates import (
    MAX_SERIAL,
    Issuer,
    Prepared,
    assemble_tbs,
    authority_urls,
    lint_validity,
)
from pki.constraints import authority_constraints
from pki.errors import LintError
from pki.keys import PublicKey, signature_identifier
from pki.names import Subject
from pki.profiles import AuthorityProfile, KeyUsage, authority_profile
from policies.algorithms import Kind

__all__ = ["NamePermissions", "authority_constraints", "prepare_root", "prepare_subordinate"]

AUTHORITY_USAGES = frozenset({KeyUsage.KEY_CERT_SIGN, KeyUsage.CRL_SIGN})


@dataclass(frozen=True, slots=True)
class NamePermissions:
    """Name constraints of an authority: hosts of URIs and DNS names that it may certify."""

    uri_hosts: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()


def prepare_root(
    label: KeyLabel,
    subject: Subject,
    key: PublicKey,
    *,
    serial: int,
    not_before: datetime,
    not_after: datetime,
) -> Prepared:
    """The root's self-signed certificate; its key signs it.

    Args:
        label: The root key on its token.
        subject: The root's name.
        key: The root's public key.
        serial: Positive, at most 20 octets.
        not_before: Whole seconds.
        not_after: Whole seconds.

    Raises:
        LintError: Serial, validity or key are out of bounds.
    """
    profile = authority_profile("root")
    _lint(profile, key, serial)
    lint_validity(not_before, not_after, profile.validity, None)
    items = _authority_extensions(key, None)
    name = subject.encode()
    head = signature_identifier(key.algorithm) + name
    tbs = assemble_tbs(serial, head, not_before, not_after, name, key.spki, items)
    return Prepared(label, key.algorithm, serial, tbs)


def prepare_subordinate(
    root: Issuer,
    authority: str,
    subject: Subject,
    key: PublicKey,
    *,
    serial: int,
    not_before: datetime,
    not_after: datetime,
    base_url: str,
    permitted: NamePermissions | None = None,
) -> Prepared:
    """Certificate of an issuing authority, signed by the root.

    Args:
        root: Who signs.
        authority: Name of its profile: `people`, `infrastructure` and so on.
        subject: The authority's name.
        key: Its public key.
        serial: Positive, at most 20 octets.
        not_before: Whole seconds.
        not_after: Whole seconds.
        base_url: Where the root's CRL and certificate are published.
        permitted: Name constraints; none by default.

    Raises:
        LintError: Serial, validity, name or key are out of bounds.
        ProfileError: No such authority, or an unusable base URL.
    """
    profile = authority_profile(authority)
    _lint(profile, key, serial)
    lint_validity(not_before, not_after, profile.validity, root)
    name = subject.encode()
    if name == root.subject:
        raise LintError("an authority cannot bear the root's name", field="subject")
    crl_url, certificate_url = authority_urls(base_url, root.name)
    items = (
        _authority_extensions(key, profile.path_length)
        + extensions.authority_key_identifier(root.key_id)
        + extensions.crl_distribution_point(crl_url)
        + extensions.authority_info_access(certificate_url)
    )
    if permitted is not None:
        items += extensions.name_constraints(permitted.uri_hosts, permitted.dns)
    head = signature_identifier(root.algorithm) + root.subject
    tbs = assemble_tbs(serial, head, not_before, not_after, name, key.spki, items)
    return Prepared(root.key, root.algorithm, serial, tbs)


def _lint(profile: AuthorityProfile, key: PublicKey, serial: int) -> None:
    if not 0 < serial <= MAX_SERIAL:
        raise LintError("a serial is positive and has at most 20 octets", field="serial")
    if key.algorithm.kind is not Kind.SIGNATURE:
        raise LintError(f"{key.algorithm.name} keys cannot sign certificates", field="algorithm")
    if not profile.admits(key.algorithm):
        raise LintError(
            f"the key of {profile.name} is of NIST category {profile.minimum_quantum_category} or"
            f" above, which {key.algorithm.name} is not",
            field="algorithm",
        )


def _authority_extensions(key: PublicKey, path_length: int | None) -> bytes:
    return (
        extensions.basic_constraints(ca=True, path_length=path_length)
        + extensions.key_usage(AUTHORITY_USAGES)
        + extensions.subject_key_identifier(key.key_id())
    )
