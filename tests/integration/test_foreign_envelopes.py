"""Envelopes cross between implementations: OpenSSL and BouncyCastle open ours, and we theirs."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from kms.device.encapsulation import KEMS
from kms.device.sealing import Recipient, seal_envelope
from pki.cms import parse_envelope
from pki.keys import parse_public_key
from pki.structure import read_certificate
from tests.support import pki
from tests.support.foreign_envelopes import ForeignSoftware, unpacked
from tests.support.unsealing import PrivateKem

NAMES = [kem.name for kem in KEMS]
OPENSSL_KNOWS = [name for name in NAMES if name.startswith("ML-KEM")]
"""It has no composites."""


@pytest.fixture(scope="module")
def foreign() -> ForeignSoftware:
    return unpacked()


@dataclass(frozen=True, slots=True)
class Slot:
    """A key of a slot with its certificate, as files that foreign software reads."""

    private: PrivateKem
    certificate: bytes
    pkcs8: Path
    der: Path
    key_pem: Path
    pem: Path

    @property
    def recipient(self) -> Recipient:
        (key_id,) = (
            item.value.digest
            for item in x509.load_der_x509_certificate(self.certificate).extensions
            if isinstance(item.value, x509.SubjectKeyIdentifier)
        )
        return Recipient.of("5a" * 16, 2, self.private.spki, key_id)


def slot(name: str, folder: Path) -> Slot:
    private, authority = PrivateKem.generate(name), pki.world().infrastructure
    request = pki.request("kem-slot", parse_public_key(private.spki, private.row))
    issued = authority.finish(authority.factory.prepare(request)).der
    pem = x509.load_der_x509_certificate(issued).public_bytes(Encoding.PEM)
    files = [folder / f"{name}.{kind}" for kind in ("p8", "der", "key", "pem")]
    for path, content in zip(files, (private.pkcs8(), issued, private.pem(), pem), strict=True):
        path.write_bytes(content)
    return Slot(private, issued, *files)


@pytest.fixture(scope="module")
def slots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Slot]:
    folder = tmp_path_factory.mktemp("slots")
    return {name: slot(name, folder) for name in NAMES}


@pytest.mark.parametrize("name", OPENSSL_KNOWS)
def test_openssl_opens_what_we_seal(
    foreign: ForeignSoftware, slots: dict[str, Slot], name: str, tmp_path: Path
):
    to, sealed, out = slots[name], tmp_path / "sealed", tmp_path / "out"
    sealed.write_bytes(seal_envelope([to.recipient], b"an object\n", b"room 7"))
    foreign.openssl_opens(to.key_pem, to.pem, sealed, out)
    assert out.read_bytes() == b"an object\n"


@pytest.mark.parametrize("name", OPENSSL_KNOWS)
def test_we_open_what_openssl_seals(
    foreign: ForeignSoftware, slots: dict[str, Slot], name: str, tmp_path: Path
):
    to, plaintext, sealed = slots[name], tmp_path / "plain", tmp_path / "sealed"
    plaintext.write_bytes(b"an object\n")
    foreign.openssl_seals(to.pem, plaintext, sealed)
    envelope = parse_envelope(sealed.read_bytes())
    (recipient,) = envelope.recipients
    tbs, _ = read_certificate(to.certificate)
    assert (recipient.issuer, recipient.serial) == (tbs.issuer, tbs.serial)
    assert to.private.open_envelope(envelope, recipient) == b"an object\n"


def test_bouncycastle_opens_ours_and_we_open_its(
    foreign: ForeignSoftware, slots: dict[str, Slot], tmp_path: Path
):
    """All algorithms, composites too; one process, for it takes seconds to start."""
    jobs, plaintext = [], tmp_path / "plain"
    plaintext.write_bytes(b"an object")
    for name, to in slots.items():
        ours = tmp_path / f"{name}.ours"
        ours.write_bytes(seal_envelope([to.recipient], name.encode(), b"room 7"))
        jobs.append(("open", to.pkcs8, ours, tmp_path / f"{name}.out"))
        jobs.append(("seal", to.der, plaintext, tmp_path / f"{name}.theirs"))
    foreign.java(*jobs)
    for name, to in slots.items():
        assert (tmp_path / f"{name}.out").read_bytes() == name.encode()
        envelope = parse_envelope((tmp_path / f"{name}.theirs").read_bytes())
        (recipient,) = envelope.recipients
        assert recipient.kem == to.private.row
        assert to.private.open_envelope(envelope, recipient) == b"an object"
