"""Certification requests, read strictly (RFC 2986).

Nothing that a request asks for reaches a certificate but its key and, where the officer orders it,
its names. So all extensions but the alternative names are read for form only and dropped.
"""

import base64
import binascii
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding

from pki import der, extensions, names
from pki.errors import DerError, InvalidCsrError, InvalidKeyError
from pki.keys import PublicKey, infer_algorithm, parse_public_key, signature_identifier
from pki.structure import Signed, split
from policies.algorithms import Algorithm, Kind, Scheme, algorithms

MAX_CSR = 65_536
"""Larger requests are refused unread, in bytes, PEM or DER."""

_EXTENSION_REQUEST = "1.2.840.113549.1.9.14"
_BEGIN = b"-----BEGIN "
_PEM = re.compile(
    rb"^-----BEGIN ((?:NEW )?CERTIFICATE REQUEST)-----\r?\n"
    rb"((?:[A-Za-z0-9+/=]+\r?\n)+)"  # an empty line would end headers for other readers
    rb"-----END \1-----\s*\Z",
    re.MULTILINE,
)
_VERSION_1 = der.integer(0)

_Verify = Callable[[Any, bytes, bytes], None]


@dataclass(frozen=True, slots=True)
class Csr:
    """A request whose signature was verified: its key, and the names it would like to have."""

    key: PublicKey
    subject_common_name: str | None
    dns: tuple[str, ...]
    uris: tuple[str, ...]


def parse_csr(data: bytes, allowed: Collection[Algorithm] | None = None) -> Csr:
    """Read and verify a certification request.

    Args:
        data: PEM (one block and nothing else) or DER.
        allowed: Algorithms its key may have; None means any signature algorithm of the registry.
            Whether the policy allows it is not decided here.

    Raises:
        InvalidCsrError: Too large, not strict DER, trailing bytes, a malformed attribute or
            extension, a key that is none, or a signature that is weak or not of that key.
    """
    if len(data) > MAX_CSR:
        raise InvalidCsrError(f"a request has at most {MAX_CSR} bytes", field="csr")
    try:
        request = _unarmoured(data)
        der.parse(request)
        signed = split(request, MAX_CSR)
        info = _read_info(signed.content)
        key = parse_public_key(info.spki, infer_algorithm(info.spki, Kind.SIGNATURE))
    except (DerError, InvalidKeyError) as error:
        raise InvalidCsrError(f"not a certification request: {error}", field="csr") from error
    if allowed is not None and key.algorithm not in allowed:
        raise InvalidCsrError(f"{key.algorithm.name} keys are not accepted here", field="csr")
    _verify(key, signed)
    return Csr(key, info.common_name, info.alt_names.dns, info.alt_names.uris)


@dataclass(frozen=True, slots=True)
class _Info:
    """What is wanted of a CertificationRequestInfo."""

    common_name: str | None
    spki: bytes
    alt_names: extensions.AltNames


def _unarmoured(data: bytes) -> bytes:
    if data[:1] == b"\x30":
        return data
    match = _PEM.search(data)  # RFC 7468 2: explanatory text may stand before the block
    if match is None or data.count(_BEGIN) != 1:
        raise DerError("neither DER nor one PEM block CERTIFICATE REQUEST at the end")
    try:
        return base64.b64decode(match[2].translate(None, b"\r\n"), validate=True)
    except binascii.Error as error:
        raise DerError("the PEM block does not hold base64") from error


def _read_info(content: bytes) -> _Info:
    outer = der.Reader(content)
    reader = outer.enter()
    outer.finish()
    if reader.raw() != _VERSION_1:
        raise DerError("only version 1 requests exist")
    common_name = _common_name(reader.raw_of(der.SEQUENCE))
    spki = reader.raw_of(der.SEQUENCE)
    alt_names = _read_attributes(reader.enter(0xA0))
    reader.finish()
    return _Info(common_name, spki, alt_names)


def _common_name(name: bytes) -> str | None:
    """The common name, of whatever else the subject is made; only it is ever shown."""
    found: str | None = None
    rdns = der.Reader(name).enter()
    while not rdns.done():
        rdn = rdns.enter(der.SET)
        while not rdn.done():
            attribute = rdn.enter()
            kind = attribute.oid()
            tag = attribute.peek()
            value = attribute.raw()
            attribute.finish()
            if kind == names.COMMON_NAME:
                found = der.text(tag, der.Reader(value).content(tag))
    return found


def _read_attributes(attributes: der.Reader) -> extensions.AltNames:
    """Alternative names of the extension request; all attributes must be well-formed."""
    alt_names = extensions.AltNames((), (), ())
    seen: set[str] = set()
    while not attributes.done():
        attribute = attributes.enter()
        kind = attribute.oid()
        values = attribute.enter(der.SET)
        attribute.finish()
        if kind in seen or values.done():
            raise DerError(f"attribute {kind} stands twice or has no value")
        seen.add(kind)
        if kind == _EXTENSION_REQUEST:
            found = extensions.read_all(values)
            values.finish()
            if extensions.SUBJECT_ALT_NAME in found:
                value = found[extensions.SUBJECT_ALT_NAME].value
                alt_names = extensions.read_subject_alt_name(value)
    return alt_names


# --- the request's own signature -------------------------------------------------------------


def _pkcs1(digest: hashes.HashAlgorithm) -> _Verify:
    return lambda key, signature, data: key.verify(signature, data, padding.PKCS1v15(), digest)


def _ecdsa(digest: hashes.HashAlgorithm) -> _Verify:
    return lambda key, signature, data: key.verify(signature, data, ec.ECDSA(digest))


def _pss(key: Any, signature: bytes, data: bytes) -> None:
    key.verify(signature, data, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())


def _plain(key: Any, signature: bytes, data: bytes) -> None:
    key.verify(signature, data)


def _verifiers() -> dict[tuple[Scheme, bytes], _Verify]:
    """(Scheme of the key, AlgorithmIdentifier) to verification; SHA-2 of 256 bits and more only.

    RSA keys may sign their request with PKCS #1 v1.5, as most tools do, though nothing else.
    """
    digests = (hashes.SHA256(), hashes.SHA384(), hashes.SHA512())
    table: dict[tuple[Scheme, bytes], _Verify] = {}
    for arc, digest in zip((11, 12, 13), digests, strict=True):
        identifier = der.sequence(der.oid(f"1.2.840.113549.1.1.{arc}"), der.null())
        table[Scheme.RSA_PSS, identifier] = _pkcs1(digest)
    for arc, digest in zip((2, 3, 4), digests, strict=True):
        table[Scheme.ECDSA, der.sequence(der.oid(f"1.2.840.10045.4.3.{arc}"))] = _ecdsa(digest)
    for row in algorithms(Kind.SIGNATURE):
        if row.scheme is Scheme.RSA_PSS:
            table[row.scheme, signature_identifier(row)] = _pss
        elif row.scheme in {Scheme.EDDSA, Scheme.ML_DSA}:
            table[row.scheme, signature_identifier(row)] = _plain
    return table


_VERIFIERS = _verifiers()


def _verify(key: PublicKey, signed: Signed) -> None:
    verify = _VERIFIERS.get((key.algorithm.scheme, signed.algorithm))
    if verify is None:
        raise InvalidCsrError("the request is signed with an algorithm not accepted", field="csr")
    try:
        verify(key.handle, signed.signature, signed.content)
    except InvalidSignature:
        raise InvalidCsrError("the request is not signed by its own key", field="csr") from None
