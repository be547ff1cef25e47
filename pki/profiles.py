"""Certificate, authority and bundle profiles, read once from the data files of this package."""

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import Any, TypeVar

from pki.errors import ProfileError
from policies.algorithms import Algorithm, Kind, Scheme

T = TypeVar("T")


class KeyUsage(StrEnum):
    """Key usage bits that this service gives (RFC 5280 4.2.1.3)."""

    DIGITAL_SIGNATURE = "digital_signature"
    KEY_ENCIPHERMENT = "key_encipherment"
    KEY_AGREEMENT = "key_agreement"
    KEY_CERT_SIGN = "key_cert_sign"
    CRL_SIGN = "crl_sign"


KEY_USAGE_BIT: Mapping[KeyUsage, int] = {
    KeyUsage.DIGITAL_SIGNATURE: 0,
    KeyUsage.KEY_ENCIPHERMENT: 2,
    KeyUsage.KEY_AGREEMENT: 4,
    KeyUsage.KEY_CERT_SIGN: 5,
    KeyUsage.CRL_SIGN: 6,
}

_SIGNING = frozenset(
    {KeyUsage.DIGITAL_SIGNATURE, KeyUsage.KEY_CERT_SIGN, KeyUsage.CRL_SIGN},
)
SCHEME_USAGES: Mapping[Scheme, frozenset[KeyUsage]] = {
    Scheme.ECDSA: _SIGNING,
    Scheme.EDDSA: _SIGNING,
    Scheme.RSA_PSS: _SIGNING,
    Scheme.ML_DSA: _SIGNING,
    Scheme.DHKEM_EC: frozenset({KeyUsage.KEY_AGREEMENT}),
    Scheme.DHKEM_X: frozenset({KeyUsage.KEY_AGREEMENT}),
    Scheme.ML_KEM: frozenset({KeyUsage.KEY_ENCIPHERMENT}),
    Scheme.COMPOSITE_KEM: frozenset({KeyUsage.KEY_ENCIPHERMENT}),
}
"""What a key can be used for at all (RFC 5480 3, RFC 8410 5, RFC 9881 5, RFC 9935 5)."""


@dataclass(frozen=True, slots=True)
class Count:
    """Least and greatest number of names of one type."""

    least: int = 0
    most: int = 0

    def admits(self, number: int) -> bool:
        """Whether so many names are in order."""
        return self.least <= number <= self.most


@dataclass(frozen=True, slots=True)
class CertificateProfile:
    """What a certificate of one kind looks like.

    Attributes:
        authorities: Names of those that may issue it.
        validity: Longest time from notBefore to notAfter, backdating not counted.
        kinds: What its keys may be.
        key_usages: What its keys may be used for, as far as their scheme allows.
        extended_key_usages: OIDs, in order; none means that the extension is absent.
        subject: Fields of `Subject` it may carry.
        uris, dns, ips: How many subject alternative names of each type; at least one in all.
    """

    name: str
    version: int
    authorities: frozenset[str]
    validity: timedelta
    kinds: frozenset[Kind]
    key_usages: frozenset[KeyUsage]
    extended_key_usages: tuple[str, ...]
    subject: frozenset[str]
    uris: Count
    dns: Count
    ips: Count

    def key_usage(self, algorithm: Algorithm) -> frozenset[KeyUsage]:
        """Usages that a key of this algorithm gets.

        Raises:
            ProfileError: The profile has no use for such a key.
        """
        usages = self.key_usages & SCHEME_USAGES.get(algorithm.scheme, frozenset())
        if algorithm.kind not in self.kinds or not usages:
            raise ProfileError(
                f"profile {self.name} does not certify {algorithm.name} keys", field="algorithm"
            )
        return usages


@dataclass(frozen=True, slots=True)
class AuthorityProfile:
    """What a certification authority may be.

    Attributes:
        path_length: How many authorities may stand below it in a chain; None is any number, for
            the root, which alone certifies authorities.
        validity: Longest time from notBefore to notAfter of its own certificate.
        crl_validity: Longest time from thisUpdate to nextUpdate.
        minimum_quantum_category: NIST category that its key must have at least; 0 for any key.
    """

    name: str
    version: int
    path_length: int | None
    validity: timedelta
    crl_validity: timedelta
    minimum_quantum_category: int = 0

    def admits(self, algorithm: Algorithm) -> bool:
        """Whether the authority's key may be of this algorithm."""
        return (
            algorithm.kind is Kind.SIGNATURE
            and algorithm.quantum_category >= self.minimum_quantum_category
        )


@dataclass(frozen=True, slots=True)
class BundleSlot:
    """One key of a bundle: the profile it is certified under and what may fill it."""

    name: str
    profile: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class BundleProfile:
    """The keys of a device that are certified together, by one authority."""

    name: str
    version: int
    authority: str
    slots: tuple[BundleSlot, ...]


def certificate_profile(name: str) -> CertificateProfile:
    """The certificate profile of that name.

    Raises:
        ProfileError: There is none.
    """
    return _lookup(certificate_profiles(), name, "certificate profile")


def authority_profile(name: str) -> AuthorityProfile:
    """The profile of the authority of that name.

    Raises:
        ProfileError: There is none.
    """
    return _lookup(authority_profiles(), name, "authority")


def bundle_profile(name: str) -> BundleProfile:
    """The bundle profile of that name.

    Raises:
        ProfileError: There is none.
    """
    return _lookup(bundle_profiles(), name, "bundle profile")


@cache
def certificate_profiles() -> Mapping[str, CertificateProfile]:
    """All certificate profiles by name."""
    return _load("profiles.toml", "certificate", _certificate)


@cache
def authority_profiles() -> Mapping[str, AuthorityProfile]:
    """All authority profiles by name."""
    return _load("profiles.toml", "authority", _authority)


@cache
def bundle_profiles() -> Mapping[str, BundleProfile]:
    """All bundle profiles by name."""
    return _load("bundles.toml", "bundle", _bundle)


def _lookup(table: Mapping[str, T], name: str, what: str) -> T:
    try:
        return table[name]
    except KeyError:
        known = ", ".join(sorted(table))
        raise ProfileError(
            f"no {what} is called {name[:80]!r}; there are {known}", field="profile"
        ) from None


def _load(file: str, table: str, build: Callable[[str, Mapping[str, Any]], T]) -> Mapping[str, T]:
    text = files("pki").joinpath("data", file).read_text("utf-8")
    return {name: build(name, row) for name, row in tomllib.loads(text)[table].items()}


def _certificate(name: str, row: Mapping[str, Any]) -> CertificateProfile:
    san = row["san"]
    return CertificateProfile(
        name=name,
        version=row["version"],
        authorities=frozenset(row["authorities"]),
        validity=timedelta(days=row["validity_days"]),
        kinds=frozenset(map(Kind, row["kinds"])),
        key_usages=frozenset(map(KeyUsage, row["key_usages"])),
        extended_key_usages=tuple(row["extended_key_usages"]),
        subject=frozenset(row["subject"]),
        uris=Count(*san.get("uris", ())),
        dns=Count(*san.get("dns", ())),
        ips=Count(*san.get("ips", ())),
    )


def _authority(name: str, row: Mapping[str, Any]) -> AuthorityProfile:
    return AuthorityProfile(
        name=name,
        version=row["version"],
        path_length=row.get("path_length"),
        validity=timedelta(days=row["validity_days"]),
        crl_validity=timedelta(days=row["crl_validity_days"]),
        minimum_quantum_category=row.get("minimum_quantum_category", 0),
    )


def _bundle(name: str, row: Mapping[str, Any]) -> BundleProfile:
    slots = tuple(
        BundleSlot(slot["name"], slot["profile"], Kind(slot["kind"])) for slot in row["slots"]
    )
    return BundleProfile(name, row["version"], row["authority"], slots)
