"""The signer's judges: may a key sign this TBSCertificate or TBSCertList?

They run beside the key and trust nothing of the worker: the bytes are read again, strictly, and
held against the constraints in the key's record (`pki.constraints`). Pure; no clock, no I/O.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Any

from hsm_drivers.errors import StatementRefusedError
from hsm_drivers.ports import Checked, Head, KeyRecord, Purpose, Statement
from pki import der, extensions, names
from pki.crl import REASON_CODES, VERSION_2
from pki.errors import InvalidKeyError, PkiError
from pki.keys import encode_spki, infer_algorithm, key_id, signature_identifier, spki_header
from pki.profiles import SCHEME_USAGES, Count, KeyUsage
from pki.structure import Tbs, read_tbs
from policies.algorithms import Algorithm, Kind, algorithm, algorithms

MAX_CERTIFICATE_STATEMENT = 65_536
MAX_CRL_STATEMENT = der.MAX_SIZE

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


class _RefusalError(PkiError):
    """Why a statement will not be signed; leaves the module as `StatementRefusedError`."""


@dataclass(frozen=True, slots=True)
class _Shape:
    """What one certificate profile allows (`pki.constraints`)."""

    profile: str
    longest: timedelta
    key_usages: frozenset[KeyUsage]
    extended_key_usages: tuple[str, ...]
    uris: Count
    dns: Count
    ips: Count
    prefixes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Key:
    """What follows from a key's record for every statement it signs."""

    record: KeyRecord  # kept so that its id stays taken while this stands in the cache
    source: Mapping[str, Any]
    identifier: bytes
    issuer: bytes
    key_id: bytes
    shapes: tuple[_Shape, ...] = ()


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
    return _refusing(_certificate, record, statement)


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
    return _refusing(_crl, record, statement)


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


# --- certificates ----------------------------------------------------------------------------


def _certificate(record: KeyRecord, message: bytes) -> str:
    if len(message) > MAX_CERTIFICATE_STATEMENT:
        raise _RefusalError(f"it has more than {MAX_CERTIFICATE_STATEMENT} bytes")
    key = _key(record, Purpose.CERTIFICATE)
    tbs = read_tbs(message)
    if tbs.algorithm != key.identifier:
        raise _RefusalError("it names another signature algorithm")
    if tbs.issuer != key.issuer:
        raise _RefusalError("it names a foreign issuer")
    octets = (tbs.serial.bit_length() + 8) // 8
    if tbs.serial <= 0 or octets > 20:
        raise _RefusalError("its serial is not positive or has more than 20 octets")
    for extension in tbs.extensions.values():
        if extension.critical != (extension.oid in _CRITICAL):
            raise _RefusalError(f"extension {extension.oid} has the wrong criticality")
    if key.source["ca"]:
        _authority(record, key, tbs)
    else:
        _leaf(key, tbs)
    return tbs.serial.to_bytes((tbs.serial.bit_length() + 7) // 8, "big").hex()


def _leaf(key: _Key, tbs: Tbs) -> None:
    _check_extensions(tbs, _LEAF_EXTENSIONS)
    if tbs.subject == key.issuer:
        raise _RefusalError("its subject bears the issuer's name")
    _check_name(tbs.subject)
    value = _value(tbs, extensions.BASIC_CONSTRAINTS)
    if extensions.read_basic_constraints(value) != (False, None):
        raise _RefusalError("it would be a certification authority")
    _check_identifiers(key, tbs)
    _check_locations(tbs)
    usages = extensions.read_key_usage(_value(tbs, extensions.KEY_USAGE))
    purposes: tuple[str, ...] = ()
    if extensions.EXTENDED_KEY_USAGE in tbs.extensions:
        value = tbs.extensions[extensions.EXTENDED_KEY_USAGE].value
        purposes = extensions.read_extended_key_usage(value)
    if not usages <= _possible_usages(tbs.spki):
        raise _RefusalError("its key cannot serve the key usage it names")
    alt_names = extensions.read_subject_alt_name(_value(tbs, extensions.SUBJECT_ALT_NAME))
    _check_shapes(key, tbs, usages, purposes, alt_names)


def _check_shapes(
    key: _Key,
    tbs: Tbs,
    usages: frozenset[KeyUsage],
    purposes: tuple[str, ...],
    alt_names: extensions.AltNames,
) -> None:
    """One profile must allow all of it together."""
    reason = "it has key usages that no profile of this key has together"
    for shape in key.shapes:
        if shape.extended_key_usages != purposes or not usages <= shape.key_usages:
            continue
        found = _misfit(shape, tbs, alt_names)
        if found is None:
            return
        reason = f"as {shape.profile}, {found}"
    raise _RefusalError(reason)


def _misfit(shape: _Shape, tbs: Tbs, alt_names: extensions.AltNames) -> str | None:
    if not timedelta(0) < tbs.not_after - tbs.not_before <= shape.longest:
        return "its validity is not positive or too long"
    if not (
        shape.uris.admits(len(alt_names.uris))
        and shape.dns.admits(len(alt_names.dns))
        and shape.ips.admits(len(alt_names.ips))
    ):
        return "it has other alternative names than the profile"
    for uri in alt_names.uris:
        if not uri.startswith(shape.prefixes) or not names.is_web_uri(uri):
            return f"its name {uri[:80]!r} is not one that this key may certify"
    if not all(map(names.is_host_name, alt_names.dns)):
        return "a DNS name of it is not one"
    return None


def _authority(record: KeyRecord, key: _Key, tbs: Tbs) -> None:
    """The root signs itself and the authorities it was made for, nothing else."""
    if extensions.read_key_usage(_value(tbs, extensions.KEY_USAGE)) != _AUTHORITY_USAGES:
        raise _RefusalError("an authority signs certificates and CRLs, and does nothing else")
    infer_algorithm(tbs.spki, Kind.SIGNATURE)
    if tbs.subject == key.issuer:
        _own_certificate(record, key, tbs)
    else:
        _subordinate(record, key, tbs)


def _own_certificate(record: KeyRecord, key: _Key, tbs: Tbs) -> None:
    if tbs.spki != record.public_key:
        raise _RefusalError("it gives the root's name to another key")
    _check_authority_shape(tbs, None, key.source["max_validity"])
    _check_extensions(tbs, _ROOT_EXTENSIONS)
    value = _value(tbs, extensions.SUBJECT_KEY_IDENTIFIER)
    if extensions.read_subject_key_identifier(value) != key.key_id:
        raise _RefusalError("its key identifier is not that of its key")


def _subordinate(record: KeyRecord, key: _Key, tbs: Tbs) -> None:
    limits = key.source
    if tbs.subject.hex() not in limits["subordinates"]:
        raise _RefusalError("its subject is not an authority that this root was made for")
    if tbs.spki == record.public_key:
        raise _RefusalError("it gives the root's key another name")
    _check_authority_shape(
        tbs, limits["subordinate_path_length"], limits["subordinate_max_validity"]
    )
    _check_extensions(tbs, _SUBORDINATE_EXTENSIONS)
    _check_identifiers(key, tbs)
    _check_locations(tbs)
    if extensions.NAME_CONSTRAINTS in tbs.extensions:
        extensions.read_name_constraints(tbs.extensions[extensions.NAME_CONSTRAINTS].value)


def _check_authority_shape(tbs: Tbs, path_length: int | None, longest: int) -> None:
    if not timedelta(0) < tbs.not_after - tbs.not_before <= timedelta(seconds=longest):
        raise _RefusalError("its validity is not positive or too long")
    value = _value(tbs, extensions.BASIC_CONSTRAINTS)
    if extensions.read_basic_constraints(value) != (True, path_length):
        raise _RefusalError("it is not an authority of the right path length")


def _check_extensions(tbs: Tbs, known: frozenset[str]) -> None:
    unknown = tbs.extensions.keys() - known
    if unknown:
        raise _RefusalError(f"extension {min(unknown)} has no place in it")


def _value(tbs: Tbs, oid: str) -> bytes:
    extension = tbs.extensions.get(oid)
    if extension is None:
        raise _RefusalError(f"extension {oid} is missing")
    return extension.value


def _check_name(name: bytes) -> None:
    reader = der.Reader(name)
    attributes = names.read_name(reader)
    reader.finish()
    kinds = [kind for kind, _ in attributes]
    allowed = (names.ORGANIZATION, names.ORGANIZATIONAL_UNIT, names.COMMON_NAME)
    if names.COMMON_NAME not in kinds or len(set(kinds)) != len(kinds) or set(kinds) - {*allowed}:
        raise _RefusalError("its subject is not organisation, unit and common name")


def _check_identifiers(key: _Key, tbs: Tbs) -> None:
    value = _value(tbs, extensions.AUTHORITY_KEY_IDENTIFIER)
    if extensions.read_authority_key_identifier(value) != key.key_id:
        raise _RefusalError("its authority key identifier is not this key's")
    value = _value(tbs, extensions.SUBJECT_KEY_IDENTIFIER)
    if extensions.read_subject_key_identifier(value) != key_id(_raw_key(tbs.spki)):
        raise _RefusalError("its key identifier is not that of its key")


def _check_locations(tbs: Tbs) -> None:
    urls = (
        extensions.read_crl_distribution_point(_value(tbs, extensions.CRL_DISTRIBUTION_POINTS)),
        extensions.read_authority_info_access(_value(tbs, extensions.AUTHORITY_INFO_ACCESS)),
    )
    if not all(map(_is_location, urls)):
        raise _RefusalError("where its CRL or issuer can be had is not an http(s) URL")


@lru_cache(maxsize=64)
def _is_location(url: str) -> bool:
    return names.is_location(url)


def _raw_key(spki: bytes) -> bytes:
    outer = der.Reader(spki)
    reader = outer.enter()
    outer.finish()
    reader.raw_of(der.SEQUENCE)
    raw = reader.bit_string()
    reader.finish()
    return raw


def _possible_usages(spki: bytes) -> frozenset[KeyUsage]:
    """What a key can do; for a P-256 or P-384 key, which may sign or agree, either."""
    for size, rows in _fixed_size_rows().get(len(spki), {}).items():
        if spki.startswith(size):
            return rows
    row = infer_algorithm(spki, Kind.SIGNATURE)
    if row.public_key_size is not None or encode_spki(row, _raw_key(spki)) != spki:
        raise InvalidKeyError("its key is of no known algorithm and size")
    return SCHEME_USAGES[row.scheme]


@lru_cache(maxsize=1)
def _fixed_size_rows() -> dict[int, dict[bytes, frozenset[KeyUsage]]]:
    """SPKI size → SPKI header → usages, for all algorithms whose keys have one size."""
    table: dict[int, dict[bytes, frozenset[KeyUsage]]] = {}
    for row in algorithms():
        if row.public_key_size is None:
            continue
        header = spki_header(row)
        known = table.setdefault(len(header) + row.public_key_size, {})
        known[header] = known.get(header, frozenset()) | SCHEME_USAGES[row.scheme]
    return table


# --- CRLs ------------------------------------------------------------------------------------


def _crl(record: KeyRecord, message: bytes) -> str:
    key = _key(record, Purpose.CRL)
    outer = der.Reader(message)
    reader = outer.enter()
    outer.finish()
    if reader.raw() != VERSION_2:
        raise _RefusalError("it is not a version 2 CRL")
    if reader.raw_of(der.SEQUENCE) != key.identifier:
        raise _RefusalError("it names another signature algorithm")
    if reader.raw_of(der.SEQUENCE) != key.issuer:
        raise _RefusalError("it names a foreign issuer")
    interval = -(reader.time() - reader.time())
    if not timedelta(0) < interval <= timedelta(seconds=key.source["max_interval"]):
        raise _RefusalError("its next update does not follow, or follows too late")
    if reader.peek() == der.SEQUENCE:
        _entries(reader.enter())
    wrapper = reader.enter(0xA0)
    reader.finish()
    found = extensions.read_all(wrapper)
    wrapper.finish()
    if found.keys() != {extensions.AUTHORITY_KEY_IDENTIFIER, extensions.CRL_NUMBER}:
        raise _RefusalError("its extensions are not authority key identifier and number")
    if any(extension.critical for extension in found.values()):
        raise _RefusalError("an extension of it has the wrong criticality")
    value = found[extensions.AUTHORITY_KEY_IDENTIFIER].value
    if extensions.read_authority_key_identifier(value) != key.key_id:
        raise _RefusalError("its authority key identifier is not this key's")
    number = extensions.read_integer(found[extensions.CRL_NUMBER].value)
    if number <= 0 or number.bit_length() > 159:
        raise _RefusalError("its number is not positive or has more than 20 octets")
    return str(number)


def _entries(reader: der.Reader) -> None:
    """Revoked certificates in serial order, each once, at least one."""
    previous = 0
    if reader.done():
        raise _RefusalError("its list of entries is empty, which is said by leaving it out")
    while not reader.done():
        entry = reader.enter()
        serial = entry.integer()
        if serial <= previous or serial.bit_length() > 159:
            raise _RefusalError("its entries are not in serial order, or a serial is out of bounds")
        previous = serial
        _check_tail(entry.rest())


@lru_cache(maxsize=4096)
def _check_tail(tail: bytes) -> None:
    """Revocation date and, at most, a reason."""
    reader = der.Reader(tail)
    reader.time()
    if reader.done():
        return
    found = extensions.read_all(reader)
    reader.finish()
    reason = found.pop(extensions.CRL_REASON, None)
    if found or reason is None or reason.critical:
        raise _RefusalError("an entry has extensions other than its reason")
    value = der.Reader(reason.value)
    code = value.content(der.ENUMERATED)
    value.finish()
    if len(code) != 1 or code[0] == 0 or code[0] not in REASON_CODES.values():
        raise _RefusalError("an entry has a reason that is not given here")


# --- records ---------------------------------------------------------------------------------

_KEYS: dict[tuple[int, Purpose], _Key] = {}
_MAX_KEYS = 256


def _key(record: KeyRecord, purpose: Purpose) -> _Key:
    """What the record means for this purpose; worked out once per record that the signer holds."""
    known = _KEYS.get((id(record), purpose))
    if known is not None and known.record is record:
        return known
    source = record.constraints.get(purpose)
    if source is None or purpose not in record.purposes:
        raise _RefusalError(f"its record has no constraints for {purpose.value}")
    prefixes = tuple(source.get("san_prefixes", ())) or ("https://",)
    signer: Algorithm = algorithm(record.algorithm)
    key = _Key(
        record=record,
        source=source,
        identifier=signature_identifier(signer),
        issuer=bytes.fromhex(source["issuer"]),
        key_id=key_id(_raw_key(record.public_key)),
        shapes=tuple(_shape(row, prefixes) for row in source.get("shapes", ())),
    )
    if len(_KEYS) >= _MAX_KEYS:
        _KEYS.clear()
    _KEYS[id(record), purpose] = key
    return key


def _shape(row: Mapping[str, Any], prefixes: tuple[str, ...]) -> _Shape:
    return _Shape(
        profile=row["profile"],
        longest=timedelta(seconds=row["max_validity"]),
        key_usages=frozenset(map(KeyUsage, row["key_usages"])),
        extended_key_usages=tuple(row["extended_key_usages"]),
        uris=Count(*row["uris"]),
        dns=Count(*row["dns"]),
        ips=Count(*row["ips"]),
        prefixes=prefixes,
    )
