"""Envelopes that other implementations sealed to ML-KEM and composite keys open here.

They are the IETF hackathon's: BouncyCastle's, which stream (BER), and CryptoNext's, in DER.
"""

import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from pki import der
from pki.cms import parse_envelope
from pki.errors import EnvelopeError
from policies.algorithms import Algorithm, Kind, of_key
from tests.support import vectors
from tests.support.unsealing import PrivateKem

HACKATHON = vectors.folder("pqc") / "hackathon"
ARCHIVES = ("bc.artifacts_cms_v3.zip", "cryptonext.artifacts_cms_v3.zip")
KEMS = {
    "1.3.6.1.5.5.7.6.58",
    "1.3.6.1.5.5.7.6.59",
    "1.3.6.1.5.5.7.6.63",
    "2.16.840.1.101.3.4.4.2",
    "2.16.840.1.101.3.4.4.3",
}
"""The others are of no algorithm of ours (RSA, X448, Brainpool, P-521), or ML-KEM-512."""


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    sealed: bytes
    private: bytes
    plaintext: bytes


def cases() -> Iterator[Case]:
    for archive in ARCHIVES:
        with zipfile.ZipFile(HACKATHON / archive) as found:
            files = {name.rsplit("/", 1)[-1]: found.read(name) for name in found.namelist()}
        plaintext = files["expected_plaintext.txt"]
        privates = {oid(name): data for name, data in files.items() if "_priv" in name}
        for name, data in sorted(files.items()):
            if "_kemri" in name and oid(name) in KEMS and oid(name) in privates:
                yield Case(f"{archive[:2]}-{name}", data, privates[oid(name)], plaintext)


def oid(name: str) -> str:
    """`MLKEM768-X25519-SHA3-256-1.3.6.1.5.5.7.6.58_kemri_auth.der` has its OID before the `_`."""
    return name.split("_", 1)[0].rsplit("-", 1)[-1]


CASES = list(cases())
AUTHENTICATED = [case for case in CASES if "_auth" in case.name]
OTHERS = [case for case in CASES if "_auth" not in case.name]


def private_key(case: Case) -> PrivateKem:
    info = der.Reader(case.private).enter()
    assert info.integer() == 0
    identifier = info.enter().oid()
    row = of_key(Kind.KEM, identifier, None, None)
    assert isinstance(row, Algorithm)
    return PrivateKem.load(row, info.content(der.OCTET_STRING))


def definite(data: bytes) -> bytes:
    """Streamed BER as the DER of the same values."""
    stream = io.BytesIO(data)
    element = _element(stream)
    assert not stream.read()
    return element


def _element(stream: io.BytesIO) -> bytes:
    tag, first = stream.read(2)
    if first != 0x80:
        size = int.from_bytes(stream.read(first & 0x7F), "big") if first & 0x80 else first
        return der.tlv(tag, stream.read(size))
    parts = []
    while stream.getbuffer()[stream.tell() : stream.tell() + 2] != b"\x00\x00":
        parts.append(_element(stream))
    stream.read(2)
    pieces = all(part[0] == der.OCTET_STRING for part in parts)
    if tag == 0xA0 and pieces:  # a string in pieces under [0] IMPLICIT
        return der.tlv(0x80, b"".join(der.Reader(part).content(der.OCTET_STRING) for part in parts))
    return der.tlv(tag, b"".join(parts))


def test_every_file_is_accounted_for():
    assert (len(CASES), len(AUTHENTICATED)) == (40, 15)


@pytest.mark.parametrize("case", AUTHENTICATED, ids=[case.name for case in AUTHENTICATED])
def test_it_opens(case: Case):
    private = private_key(case)
    envelope = parse_envelope(definite(case.sealed))
    (recipient,) = envelope.recipients
    assert private.open_envelope(envelope, recipient) == case.plaintext


@pytest.mark.parametrize("case", AUTHENTICATED, ids=[case.name for case in AUTHENTICATED])
def test_only_der_is_read(case: Case):
    if definite(case.sealed) != case.sealed:
        with pytest.raises(EnvelopeError, match="indefinite"):
            parse_envelope(case.sealed)


@pytest.mark.parametrize("case", OTHERS, ids=[case.name for case in OTHERS])
def test_what_has_no_tag_is_refused(case: Case):
    with pytest.raises(EnvelopeError):
        parse_envelope(definite(case.sealed))
