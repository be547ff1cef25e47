"""What a certificate of each profile must be: who issues it, by which event, for what, to whom.

Written down once more, apart from the service's own profiles, for an auditor to judge those. Pure.
"""

import re
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from kms.wire import DEVICE_PATTERN, USER_PATTERN, EventType

X509_ERRORS = (
    ValueError,
    TypeError,
    InvalidSignature,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.UnsupportedGeneralNameType,
)
"""What `cryptography` raises for a certificate or CRL that is not as it should be."""

_ROOT = frozenset({"root"})
_INFRASTRUCTURE = frozenset({"infrastructure"})
_PEOPLE = frozenset({"people"})
_DEVICES = _PEOPLE | {"people-pq-3", "people-pq-5"}

_CLIENT = ("1.3.6.1.5.5.7.3.2",)
_SERVER = ("1.3.6.1.5.5.7.3.1",)
_MESSAGING = ("1.3.6.1.5.5.7.3.40",)  # id-kp-imUri, RFC 9734
_CREATED = frozenset({EventType.AUTHORITY_CREATED})
_BORN = frozenset({EventType.KEY_GENERATED})
_ISSUED = frozenset({EventType.CERTIFICATE_ISSUED})
_ENROLLED = frozenset({EventType.DEVICE_ENROLLED, EventType.DEVICE_RENEWED})

_BASE = r"https://(?P<domain>[a-z0-9.-]+)"
_USER = re.compile(rf"{_BASE}/users/(?P<user>{USER_PATTERN})")
_DEVICE = re.compile(rf"{_USER.pattern}/devices/(?P<device>{DEVICE_PATTERN})")
_PRINCIPAL = re.compile(rf"{_BASE}/principals/(?P<user>{DEVICE_PATTERN})")
_SLOT = re.compile(rf"{_BASE}/kem-slots/(?P<key>{DEVICE_PATTERN})/(?P<version>[1-9][0-9]{{0,9}})")


@dataclass(frozen=True, slots=True)
class Form:
    """One profile.

    Attributes:
        events: Which events may issue it.
        authorities: Who may sign it.
        usages: Extended key usages, as OIDs; none means that the extension is absent.
        uri: Its one subject alternative name, whose groups say whom it names; None has no URI.
        hosts: Whether it has DNS names and addresses instead.
    """

    events: frozenset[EventType]
    authorities: frozenset[str]
    usages: tuple[str, ...] = ()
    uri: re.Pattern[str] | None = None
    hosts: bool = False

    @property
    def slotted(self) -> bool:
        """Whether it fills a slot of a device."""
        return self.events == _ENROLLED


FORMS = {
    "root-ca": Form(_CREATED, _ROOT),
    "issuing-ca": Form(_CREATED, _ROOT),
    "device-identity": Form(_ENROLLED, _DEVICES, _MESSAGING, _DEVICE),
    "device-kem": Form(_ENROLLED, _DEVICES, (), _DEVICE),
    "user-identity": Form(_ENROLLED, _PEOPLE, _MESSAGING, _USER),
    "messaging-server": Form(_ISSUED, _INFRASTRUCTURE, _CLIENT, _PRINCIPAL),
    "officer": Form(_ISSUED, _INFRASTRUCTURE, _CLIENT, _PRINCIPAL),
    "auditor": Form(_ISSUED, _INFRASTRUCTURE, _CLIENT, _PRINCIPAL),
    "tls-server": Form(_ISSUED, _INFRASTRUCTURE, _SERVER, hosts=True),
    "kem-slot": Form(_BORN, _INFRASTRUCTURE, (), _SLOT),
}
"""Profile to what its certificates are; there are no others."""

ROLES = frozenset({"messaging-server", "officer", "auditor"})
"""Profiles that are called as the role of the principal they are for."""


def usages(certificate: x509.Certificate) -> tuple[str, ...] | None:
    """Extended key usages as OIDs, in order; None if they cannot be read."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return ()
    except X509_ERRORS:
        return None
    return tuple(item.dotted_string for item in found)


def names(certificate: x509.Certificate) -> list[x509.GeneralName] | None:
    """Subject alternative names; None if they cannot be read."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    except X509_ERRORS:
        return None
    return list(found)


def named(form: Form, certificate: x509.Certificate) -> dict[str, str] | None:
    """Whom the certificate names: `domain`, `user`, `device`, `key`, those that its form has.

    Returns:
        None if its names are not those of the form.
    """
    found = names(certificate)
    if found is None:
        return None
    if form.hosts:
        hosts = all(isinstance(item, x509.DNSName | x509.IPAddress) for item in found)
        return {} if found and hosts else None
    if form.uri is None:
        return None if found else {}
    match found:
        case [x509.UniformResourceIdentifier() as name]:
            fit = form.uri.fullmatch(name.value)
            return None if fit is None else fit.groupdict()
        case _:
            return None
