"""What is fuzzed: parsers of foreign bytes, each with what must hold of what it takes or refuses.

A target takes any bytes, lets its parser's own error pass, and fails on everything else. It is fed
by coverage in `make fuzz`; in the ordinary suite with its seeds and changes of those.
"""

import base64
import json
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsm_drivers import frames
from hsm_drivers.ports import KeyLabel, Purpose
from kms import wire
from kms.api import screening, strict_json
from kms.api.errors import MalformedJsonError
from kms.audit.leaves import parse_leaf
from kms.device import Device, DeviceError, Recipient, seal_envelope
from kms.services.errors import PrivateKeyMaterialError
from kms.tlog import checkpoint, notes, receipt, tiles
from kms.tlog.errors import FormatError
from pki import cms, csr, der, keys, structure
from pki.errors import DerError, EnvelopeError, InvalidCsrError, InvalidKeyError
from pki.private_material import find_private_key
from policies.algorithms import Kind, algorithms
from tests.support import vectors
from tests.support.enrolment_service import EnrolmentService
from tests.support.unsealing import PrivateKem


@dataclass(frozen=True, slots=True)
class Target:
    """One parser under fuzzing.

    Attributes:
        one: Feeds it one input; raises if a promise is broken.
        seeds: Inputs to begin with.
        longest: Bytes of the largest input that is tried.
    """

    one: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]
    longest: int = 4096


def _csr(data: bytes) -> None:
    with suppress(InvalidCsrError):
        found = csr.parse_csr(data)
        pem = not data.startswith(b"0")
        load = x509.load_pem_x509_csr if pem else x509.load_der_x509_csr
        foreign = load(data)
        assert foreign.is_signature_valid
        public = foreign.public_key()
        assert found.key.spki == public.public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )


def _csr_seeds() -> Iterator[bytes]:
    for path in sorted(vectors.folder("csr").iterdir()):
        if path.suffix in {".pem", ".der"}:
            yield path.read_bytes()


_ROWS = tuple(row for kind in (Kind.SIGNATURE, Kind.KEM) for row in algorithms(kind))


def _spki(data: bytes) -> None:
    for row in _ROWS:
        with suppress(InvalidKeyError):
            found = keys.parse_public_key(data, row)
            assert keys.encode_spki(row, found.raw) == data
            assert keys.infer_algorithm(data, row.kind) == row
            keys.fingerprints(found)
    for kind in (Kind.SIGNATURE, Kind.KEM):
        with suppress(InvalidKeyError):
            keys.infer_algorithm(data, kind)


def _spki_seeds() -> Iterator[bytes]:
    for path in sorted(vectors.folder("pqc").glob("rfc-*/*.pub")):
        yield _unarmoured(path.read_bytes())
    for seed in _csr_seeds():
        with suppress(InvalidCsrError):
            yield csr.parse_csr(seed).key.spki


def _transcript(data: bytes) -> None:
    known = _enrolment()
    with suppress(DeviceError):
        known.device.prove(known.offer | {"transcript": wire.b64(data)})
        document, offered = json.loads(data), json.loads(known.transcript)
        assert wire.canonical(document) == data
        assert document | {"nonce": offered["nonce"]} == offered  # which is the server's to choose


@dataclass(frozen=True, slots=True)
class _Enrolment:
    device: Device
    offer: dict[str, Any]
    certified: dict[str, Any]

    @property
    def transcript(self) -> bytes:
        return wire.unb64(self.offer["transcript"])


@cache
def _enrolment() -> _Enrolment:
    """One that went well."""
    service = EnrolmentService()
    device = Device("ada", "phone", {"identity": "Ed25519"}, service.expectations())
    offer = service.begin(device.request("device-identity"))
    return _Enrolment(device, offer, service.finish(offer["enrolment"], device.prove(offer)))


def _transcript_seeds() -> Iterator[bytes]:
    yield _enrolment().transcript


def _receipt(data: bytes) -> None:
    with suppress(FormatError):
        found = receipt.parse_receipt(data)
        again = receipt.format_receipt(found.index, found.proof, found.checkpoint_note, found.extra)
        assert again == data


def _receipt_seeds() -> Iterator[bytes]:
    yield _enrolment().certified["receipt"]["text"].encode()
    yield from _examples()


def _note(data: bytes) -> None:
    with suppress(FormatError):
        found = notes.parse_note(data)
        assert notes.format_note(found.text, found.signatures) == data
        assert checkpoint.parse_checkpoint(found.text).body() == found.text


def _note_seeds() -> Iterator[bytes]:
    for path in sorted(vectors.folder("tlog/tessera-log").glob("checkpoint*")):
        yield path.read_bytes()
    yield from _examples()


def _examples() -> Iterator[bytes]:
    examples = vectors.load_json(vectors.folder("tlog") / "c2sp-spec-examples.json")
    for some in examples.values():
        for text in some:
            yield text.encode()


def _vkey(data: bytes) -> None:
    with suppress(FormatError, UnicodeDecodeError):
        text = data.decode()
        assert notes.VerifierKey.parse(text).text() == text


def _vkey_seeds() -> Iterator[bytes]:
    yield (vectors.folder("tlog") / "tessera-log.vkey").read_bytes().strip()


def _frames(data: bytes) -> None:
    for decode in (frames.decode_request, frames.decode_answer):
        with suppress(frames.FrameError):
            found = decode(data)
            assert decode(frames.encode(found)[4:]) == found


def _frame_seeds() -> Iterator[bytes]:
    statement = frames.StatementFrame(KeyLabel("people"), Purpose.CERTIFICATE, b"\x30\x00", b"")
    refused = frames.Refusal("statement-refused", "no")
    for message in (
        frames.Sign(1, [statement, statement]),
        frames.ReadKeys(2),
        frames.ReadAttributes(3, KeyLabel("people")),
        frames.ReadJournal(4, 0, 10),
        frames.ReadHealth(5),
        frames.SealJournal(6, KeyLabel("log")),
        frames.Failed(7, refused),
        frames.Signed(8, [b"signature", refused]),
    ):
        yield frames.encode(message)[4:]


def _entries(data: bytes) -> None:
    width = 1 + data[0] if data else 1
    with suppress(FormatError):
        assert tiles.encode_entries(tiles.decode_entries(data[1:], width)) == data[1:]


def _entry_seeds() -> Iterator[bytes]:
    for path in sorted(vectors.folder("tlog/tessera-log").glob("tile/entries/000.p/*")):
        yield bytes([int(path.name) - 1]) + path.read_bytes()


def _leaf(data: bytes) -> None:
    with suppress(wire.WireError):
        assert parse_leaf(data).encode() == data


def _leaf_seeds() -> Iterator[bytes]:
    yield wire.unb64(_enrolment().certified["leaf"])


def _der(data: bytes) -> None:
    with suppress(DerError):
        assert der.parse(data).encode() == data
    with suppress(DerError):
        structure.read_certificate(data)


def _der_seeds() -> Iterator[bytes]:
    archive = vectors.folder("x509") / "boringssl-cert-fuzz-corpus-a.zip"
    with zipfile.ZipFile(archive) as corpus:
        for name in sorted(corpus.namelist())[:200]:
            yield corpus.read(name)
    for path in sorted(vectors.folder("pqc").glob("rfc-*/*.crt")):
        yield _unarmoured(path.read_bytes())


def _json(data: bytes) -> None:
    with suppress(MalformedJsonError, PrivateKeyMaterialError):
        value = screening.screen_body(data)
        if data:
            assert value == json.loads(data)
            assert all(text.encode() is not None for text in strict_json.strings(value))


def _json_seeds() -> Iterator[bytes]:
    known = _enrolment()
    yield json.dumps(known.device.request("device-identity")).encode()
    yield json.dumps(known.device.prove(known.offer)).encode()
    yield b'{"items":[{"a":[1,2.5,-3e9,true,null,"\\u00e9\\ud83d\\ude00"]}]}'


def _private(data: bytes) -> None:
    for value in (data, data.decode("latin-1")):
        assert find_private_key(value) is None or isinstance(find_private_key(value), str)


def _private_seeds() -> Iterator[bytes]:
    for path in sorted(vectors.folder("pqc").glob("rfc-*/*.priv")):
        yield path.read_bytes()


def _unarmoured(pem: bytes) -> bytes:
    found = re.search(rb"-----BEGIN [A-Z0-9 ]+-----([A-Za-z0-9+/=\s]+)-----END", pem)
    assert found is not None
    return base64.b64decode(found[1])


def _envelope(data: bytes) -> None:
    """What is taken has one encoding, and comes apart and together again."""
    with suppress(EnvelopeError):
        found = cms.parse_envelope(data)
        assert found.recipients
        apart = cms.detached(data)
        assert cms.detached(apart) == apart
        assert cms.parse_envelope(apart).recipients == found.recipients
        for recipient in found.recipients:
            assert der.parse(recipient.kdf_info)


def _envelope_seeds() -> Iterator[bytes]:
    for name in ("MLKEM768-X25519", "ML-KEM-768"):
        private = PrivateKem.generate(name)
        to = Recipient.of("ab" * 16, 1, private.spki, b"an identifier")
        yield seal_envelope([to], b"an object", b"room 7")


TARGETS = {
    "envelope": Target(_envelope, _envelope_seeds, 4096),
    "csr": Target(_csr, _csr_seeds, 8192),
    "spki": Target(_spki, _spki_seeds),
    "transcript": Target(_transcript, _transcript_seeds),
    "receipt": Target(_receipt, _receipt_seeds),
    "note": Target(_note, _note_seeds),
    "vkey": Target(_vkey, _vkey_seeds),
    "frames": Target(_frames, _frame_seeds),
    "entries": Target(_entries, _entry_seeds),
    "leaf": Target(_leaf, _leaf_seeds),
    "der": Target(_der, _der_seeds, 8192),
    "json": Target(_json, _json_seeds),
    "private": Target(_private, _private_seeds, 8192),
}
