"""May a key sign this TBSCertificate? It is read again, strictly, and held against the limits."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import lru_cache

from hsm_drivers.ports import KeyRecord, Purpose
from pki import der, extensions, names
from pki.familiar import recognised, remember
from pki.keys import infer_algorithm, key_id
from pki.limits import (
    MAX_AGE,
    MAX_AHEAD,
    KnownKey,
    Limits,
    RefusalError,
    Shape,
    check_authority_key,
    known_key,
    limits_of,
)
from pki.profiles import KeyUsage
from pki.structure import Tbs, read_tbs
from policies.algorithms import Kind

MAX_STATEMENT = 65_536
"""Larger TBSCertificates are refused unread, in bytes."""

_AUTHORITY_USAGES = frozenset({KeyUsage.KEY_CERT_SIGN, KeyUsage.CRL_SIGN})
_LEAF_EXTENSIONS = frozenset(
    {
        extensions.AUTHORITY_KEY_IDENTIFIER,
        extensions.SUBJECT_KEY_IDENTIFIER,
        extensions.KEY_USAGE,
        extensions.EXTENDED_KEY_USAGE,
        extensions.BASIC_CONSTRAINTS,
        extensions.SUBJECT_ALT_NAME,
        extensions.CRL_DISTRIBUTION_POINTS,
        extensions.AUTHORITY_INFO_ACCESS,
    }
)
_ROOT_EXTENSIONS = frozenset(
    {extensions.BASIC_CONSTRAINTS, extensions.KEY_USAGE, extensions.SUBJECT_KEY_IDENTIFIER}
)
_SUBORDINATE_EXTENSIONS = _ROOT_EXTENSIONS | {
    extensions.AUTHORITY_KEY_IDENTIFIER,
    extensions.CRL_DISTRIBUTION_POINTS,
    extensions.AUTHORITY_INFO_ACCESS,
    extensions.NAME_CONSTRAINTS,
}
_CRITICAL = frozenset(
    {extensions.KEY_USAGE, extensions.BASIC_CONSTRAINTS, extensions.NAME_CONSTRAINTS}
)
_NAME_PARTS = frozenset({names.ORGANIZATION, names.ORGANIZATIONAL_UNIT, names.COMMON_NAME})


def judge_certificate(record: KeyRecord, message: bytes, now: datetime) -> str:
    """Serial in hex of a TBSCertificate that the key may sign now.

    Raises:
        RefusalError: It goes beyond the key's limits.
        PkiError: It is not strict DER of a certificate.
    """
    if len(message) > MAX_STATEMENT:
        raise RefusalError(f"it has more than {MAX_STATEMENT} bytes")
    limits = limits_of(record, Purpose.CERTIFICATE)
    return recognised(limits, message, now) or _judge_whole(record, limits, message, now)


def _judge_whole(record: KeyRecord, limits: Limits, message: bytes, now: datetime) -> str:
    """As `judge_certificate`, whatever was accepted before."""
    tbs = read_tbs(message)
    if tbs.algorithm != limits.identifier:
        raise RefusalError("it names another signature algorithm")
    if tbs.issuer != limits.issuer:
        raise RefusalError("it names a foreign issuer")
    octets = (tbs.serial.bit_length() + 8) // 8
    if tbs.serial <= 0 or octets > 20:
        raise RefusalError("its serial is not positive or has more than 20 octets")
    if not -MAX_AGE <= tbs.not_before - now <= MAX_AHEAD:
        raise RefusalError("its validity begins too long ago or in the future")
    for extension in tbs.extensions.values():
        if extension.critical != (extension.oid in _CRITICAL):
            raise RefusalError(f"extension {extension.oid} has the wrong criticality")
    if limits.source["ca"]:
        _authority(record, limits, tbs)
    else:
        _leaf(limits, tbs)
    return tbs.serial.to_bytes((tbs.serial.bit_length() + 7) // 8, "big").hex()


def _leaf(limits: Limits, tbs: Tbs) -> None:
    _check_extensions(tbs, _LEAF_EXTENSIONS)
    if tbs.subject == limits.issuer:
        raise RefusalError("its subject bears the issuer's name")
    _check_name(tbs.subject)
    value = _value(tbs, extensions.BASIC_CONSTRAINTS)
    if extensions.read_basic_constraints(value) != (False, None):
        raise RefusalError("it would be a certification authority")
    subject_key = known_key(tbs.spki)
    check_authority_key(limits, tbs.extensions)
    _check_subject_key(tbs, subject_key)
    _check_locations(tbs)
    usages = extensions.read_key_usage(_value(tbs, extensions.KEY_USAGE))
    purposes: tuple[str, ...] = ()
    if extensions.EXTENDED_KEY_USAGE in tbs.extensions:
        value = tbs.extensions[extensions.EXTENDED_KEY_USAGE].value
        purposes = extensions.read_extended_key_usage(value)
    if not usages <= subject_key.usages:
        raise RefusalError("its key cannot serve the key usage it names")
    alt_names = extensions.read_subject_alt_name(_value(tbs, extensions.SUBJECT_ALT_NAME))
    shapes = tuple(
        shape
        for shape in limits.shapes
        if shape.extended_key_usages == purposes and usages <= shape.key_usages
    )
    _check_shapes(shapes, tbs, alt_names)
    remember(limits, tbs, usages, shapes)


def _check_shapes(shapes: Iterable[Shape], tbs: Tbs, alt_names: extensions.AltNames) -> None:
    """One profile must allow all of it together."""
    reason = "it has key usages that no profile of this key has together"
    for shape in shapes:
        found = _misfit(shape, tbs, alt_names)
        if found is None:
            return
        reason = f"as {shape.profile}, {found}"
    raise RefusalError(reason)


def _misfit(shape: Shape, tbs: Tbs, alt_names: extensions.AltNames) -> str | None:
    if not timedelta(0) < tbs.not_after - tbs.not_before <= shape.longest:
        return "its validity is not positive or too long"
    if not shape.admits(len(alt_names.uris), len(alt_names.dns), len(alt_names.ips)):
        return "it has other alternative names than the profile"
    for uri in alt_names.uris:
        if not uri.startswith(shape.prefixes) or not names.is_web_uri(uri):
            return f"its name {uri[:80]!r} is not one that this key may certify"
    if not all(map(names.is_host_name, alt_names.dns)):
        return "a DNS name of it is not one"
    return None


def _authority(record: KeyRecord, limits: Limits, tbs: Tbs) -> None:
    """The root signs itself and the authorities it was made for, nothing else."""
    if extensions.read_key_usage(_value(tbs, extensions.KEY_USAGE)) != _AUTHORITY_USAGES:
        raise RefusalError("an authority signs certificates and CRLs, and does nothing else")
    infer_algorithm(tbs.spki, Kind.SIGNATURE)
    if tbs.subject == limits.issuer:
        _own_certificate(record, limits, tbs)
    else:
        _subordinate(record, limits, tbs)


def _own_certificate(record: KeyRecord, limits: Limits, tbs: Tbs) -> None:
    if tbs.spki != record.public_key:
        raise RefusalError("it gives the root's name to another key")
    _check_authority_shape(tbs, None, limits.source["max_validity"])
    _check_extensions(tbs, _ROOT_EXTENSIONS)
    _check_subject_key(tbs, known_key(tbs.spki))


def _subordinate(record: KeyRecord, limits: Limits, tbs: Tbs) -> None:
    if tbs.subject.hex() not in limits.source["subordinates"]:
        _check_kinship(limits, tbs.subject)
    if tbs.spki == record.public_key:
        raise RefusalError("it gives the root's key another name")
    _check_authority_shape(
        tbs, limits.source["subordinate_path_length"], limits.source["subordinate_max_validity"]
    )
    _check_extensions(tbs, _SUBORDINATE_EXTENSIONS)
    check_authority_key(limits, tbs.extensions)
    _check_subject_key(tbs, known_key(tbs.spki))
    _check_locations(tbs)
    if extensions.NAME_CONSTRAINTS in tbs.extensions:
        extensions.read_name_constraints(tbs.extensions[extensions.NAME_CONSTRAINTS].value)


def _check_kinship(limits: Limits, subject: bytes) -> None:
    """An authority of a later ceremony bears the root's organisation and a common name.

    Roots from before this was possible have no organisation in their records, and are as they were
    made: for the authorities of their own ceremony, no others.
    """
    organization = limits.source.get("organization")
    name = names.common_name(subject)
    if (
        organization is None
        or name is None
        or names.Subject(name, organization).encode() != subject
    ):
        raise RefusalError("its subject is not an authority that this root was made for")


def _check_authority_shape(tbs: Tbs, path_length: int | None, longest: int) -> None:
    if not timedelta(0) < tbs.not_after - tbs.not_before <= timedelta(seconds=longest):
        raise RefusalError("its validity is not positive or too long")
    value = _value(tbs, extensions.BASIC_CONSTRAINTS)
    if extensions.read_basic_constraints(value) != (True, path_length):
        raise RefusalError("it is not an authority of the right path length")


def _check_extensions(tbs: Tbs, known: frozenset[str]) -> None:
    unknown = tbs.extensions.keys() - known
    if unknown:
        raise RefusalError(f"extension {min(unknown)} has no place in it")


def _value(tbs: Tbs, oid: str) -> bytes:
    extension = tbs.extensions.get(oid)
    if extension is None:
        raise RefusalError(f"extension {oid} is missing")
    return extension.value


def _check_name(name: bytes) -> None:
    reader = der.Reader(name)
    attributes = names.read_name(reader)
    reader.finish()
    kinds = {kind for kind, _ in attributes}
    if not {names.COMMON_NAME} <= kinds <= _NAME_PARTS or len(kinds) != len(attributes):
        raise RefusalError("its subject is not organisation, unit and common name")


def _check_subject_key(tbs: Tbs, subject_key: KnownKey) -> None:
    expected = der.octet_string(key_id(subject_key.raw))
    if _value(tbs, extensions.SUBJECT_KEY_IDENTIFIER) != expected:
        raise RefusalError("its key identifier is not that of its key")


def _check_locations(tbs: Tbs) -> None:
    urls = (
        extensions.read_crl_distribution_point(_value(tbs, extensions.CRL_DISTRIBUTION_POINTS)),
        extensions.read_authority_info_access(_value(tbs, extensions.AUTHORITY_INFO_ACCESS)),
    )
    if not all(map(_is_location, urls)):
        raise RefusalError("where its CRL or issuer can be had is not an http(s) URL")


@lru_cache(maxsize=64)
def _is_location(url: str) -> bool:
    return names.is_location(url)
