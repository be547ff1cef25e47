"""What a key's record allows it to sign, as JSON: fixed at the ceremony, judged by `pki.checkers`.

When a key is made its certificate does not exist yet. So the constraints name what is known then:
the authority's subject, the shapes its certificates may have, its CRLs' longest life. The key
identifier follows from the key itself.
"""

from collections.abc import Sequence
from typing import Any

from hsm_drivers.ports import Purpose
from pki import names
from pki.certificates import MAX_BACKDATE
from pki.errors import ProfileError
from pki.profiles import (
    AuthorityProfile,
    CertificateProfile,
    authority_profile,
    certificate_profiles,
)

_BACKDATE = int(MAX_BACKDATE.total_seconds())


def authority_constraints(
    authority: str,
    subject: names.Subject,
    *,
    subordinates: Sequence[names.Subject] = (),
    san_prefixes: Sequence[str] = (),
) -> dict[Purpose, dict[str, Any]]:
    """Constraints for the `KeySpec` of an authority's key.

    Args:
        authority: `root`, or an issuing authority that there is a profile of.
        subject: The authority's own name.
        subordinates: For the root, names of the authorities it may certify. In later ceremonies it
            may certify others of its own organisation; none, ever, if it names no organisation.
        san_prefixes: For an issuing authority, what its URI names must begin with, each
            `https://<domain>/…`; none means any https URI.

    Raises:
        ProfileError: No such authority, or a prefix that does not end a host with a slash.
    """
    profile = authority_profile(authority)
    issuer = subject.encode().hex()
    crl = {"issuer": issuer, "max_interval": int(profile.crl_validity.total_seconds())}
    if profile.path_length is None:
        certificate = _root(profile, subject, subordinates)
    else:
        certificate = _issuing(profile, issuer, san_prefixes)
    return {Purpose.CERTIFICATE: certificate, Purpose.CRL: crl}


def _root(
    profile: AuthorityProfile, subject: names.Subject, subordinates: Sequence[names.Subject]
) -> dict[str, Any]:
    issuing = authority_profile("people")
    return {
        "ca": True,
        "issuer": subject.encode().hex(),
        "max_validity": _seconds(profile),
        "subordinates": [below.encode().hex() for below in subordinates],
        "organization": subject.organization,
        "subordinate_path_length": issuing.path_length,
        "subordinate_max_validity": _seconds(issuing),
    }


def _issuing(profile: AuthorityProfile, issuer: str, san_prefixes: Sequence[str]) -> dict[str, Any]:
    for prefix in san_prefixes:
        if not names.is_web_uri(prefix) or prefix.count("/") < 3 or prefix[:8] != "https://":
            raise ProfileError(
                f"{prefix[:80]!r} is not of the form https://<domain>/", field="san_prefixes"
            )
    return {
        "ca": False,
        "issuer": issuer,
        "san_prefixes": list(san_prefixes),
        "shapes": [
            _shape(row)
            for row in certificate_profiles().values()
            if profile.name in row.authorities
        ],
    }


def _shape(profile: CertificateProfile) -> dict[str, Any]:
    return {
        "profile": profile.name,
        "max_validity": _seconds(profile),
        "key_usages": sorted(profile.key_usages),
        "extended_key_usages": list(profile.extended_key_usages),
        "uris": [profile.uris.least, profile.uris.most],
        "dns": [profile.dns.least, profile.dns.most],
        "ips": [profile.ips.least, profile.ips.most],
    }


def _seconds(profile: AuthorityProfile | CertificateProfile) -> int:
    return int(profile.validity.total_seconds()) + _BACKDATE
