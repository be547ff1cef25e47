"""KEM private keys in software, as a foreign recipient of envelopes and messages holds them."""

import base64
import hashlib
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives import hashes, hpke, keywrap
from cryptography.hazmat.primitives.asymmetric import ec, mlkem, x25519
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pki import der
from pki.cms import Envelope, KemRecipient
from pki.keys import encode_spki
from policies.algorithms import Algorithm, algorithm

_ML_KEM = {1088: mlkem.MLKEM768PrivateKey, 1568: mlkem.MLKEM1024PrivateKey}
_CURVES = {"ECDH-P256": ec.SECP256R1(), "ECDH-P384": ec.SECP384R1()}
_LABELS = {
    "MLKEM768-X25519": bytes.fromhex("5c2e2f2f5e5c"),
    "MLKEM768-P256": b"MLKEM768-P256",
    "MLKEM1024-P384": b"MLKEM1024-P384",
}
SEED_SIZE = 64


@dataclass(frozen=True, slots=True)
class PrivateKem:
    """A private key: its ML-KEM part, and of a hybrid the other."""

    row: Algorithm
    module: Any
    traditional: Any = None

    @classmethod
    def generate(cls, name: str) -> "PrivateKem":
        row = algorithm(name)
        first, *others = row.components or (name,)
        module = _ML_KEM[algorithm(first).ciphertext_size or 0].generate()
        if not others:
            return cls(row, module)
        if others[0] in _CURVES:
            return cls(row, module, ec.generate_private_key(_CURVES[others[0]]))
        return cls(row, module, x25519.X25519PrivateKey.generate())

    @classmethod
    def load(cls, row: Algorithm, content: bytes) -> "PrivateKem":
        """From the content of a PKCS#8 structure (RFC 9935, draft-ietf-lamps-pq-composite-kem)."""
        first, *others = row.components or (row.name,)
        kind = _ML_KEM[algorithm(first).ciphertext_size or 0]
        if not others:
            return cls(row, kind.from_seed_bytes(_seed(content)))
        module, rest = kind.from_seed_bytes(content[:SEED_SIZE]), content[SEED_SIZE:]
        if others[0] not in _CURVES:
            return cls(row, module, x25519.X25519PrivateKey.from_private_bytes(rest))
        reader = der.Reader(rest).enter()  # ECPrivateKey (RFC 5915) without its curve
        assert reader.integer() == 1
        number = int.from_bytes(reader.content(der.OCTET_STRING), "big")
        return cls(row, module, ec.derive_private_key(number, _CURVES[others[0]]))

    @property
    def public_key(self) -> bytes:
        return self.module.public_key().public_bytes_raw() + self._own()

    @property
    def spki(self) -> bytes:
        return encode_spki(self.row, self.public_key)

    def pkcs8(self) -> bytes:
        """As foreign software takes it: what `load` reads, in its structure."""
        content = self.module.private_bytes_raw()
        if self.traditional is None:
            content = der.tlv(0x80, content)
        elif self.row.components[1] in _CURVES:
            numbers = self.traditional.private_numbers()
            size = (self.traditional.curve.key_size + 7) // 8
            curve = der.context(0, der.oid(algorithm(self.row.components[1]).curve or ""))
            private = der.octet_string(numbers.private_value.to_bytes(size, "big"))
            content += der.sequence(der.integer(1), private, curve)
        else:
            content += self.traditional.private_bytes_raw()
        identifier = der.sequence(der.oid(self.row.oid))
        return der.sequence(der.integer(0), identifier, der.octet_string(content))

    def pem(self) -> bytes:
        body = base64.encodebytes(self.pkcs8())
        return b"-----BEGIN PRIVATE KEY-----\n" + body + b"-----END PRIVATE KEY-----\n"

    def _own(self) -> bytes:
        if self.traditional is None:
            return b""
        public = self.traditional.public_key()
        if isinstance(public, x25519.X25519PublicKey):
            return public.public_bytes_raw()
        return public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)

    def decapsulate(self, ciphertext: bytes) -> bytes:
        if self.traditional is None:
            return self.module.decapsulate(ciphertext)
        size = algorithm(self.row.components[0]).ciphertext_size or 0
        share, secret = ciphertext[size:], self.module.decapsulate(ciphertext[:size])
        if isinstance(self.traditional, x25519.X25519PrivateKey):
            agreed = self.traditional.exchange(x25519.X25519PublicKey.from_public_bytes(share))
        else:
            peer = ec.EllipticCurvePublicKey.from_encoded_point(self.traditional.curve, share)
            agreed = self.traditional.exchange(ec.ECDH(), peer)
        known = secret + agreed + share + self._own() + _LABELS[self.row.name]
        return hashlib.sha3_256(known).digest()

    def open_envelope(self, envelope: Envelope, recipient: KemRecipient) -> bytes:
        if recipient.kem != self.row:
            raise ValueError("another KEM is named than that of the key")
        return envelope.decrypt(self.content_key(recipient))

    def content_key(self, recipient: KemRecipient) -> bytes:
        secret = self.decapsulate(recipient.ciphertext)
        derive = HKDF(hashes.SHA256(), 32, salt=None, info=recipient.kdf_info).derive
        return keywrap.aes_key_unwrap(derive(secret), recipient.wrapped)

    def hpke(self) -> tuple[hpke.Suite, Any]:
        """The library's own opener of messages; not of MLKEM768-P256, which it lacks."""
        kem, private = {
            "MLKEM768-X25519": (hpke.KEM.MLKEM768_X25519, hpke.MLKEM768X25519PrivateKey),
            "MLKEM1024-P384": (hpke.KEM.MLKEM1024_P384, hpke.MLKEM1024P384PrivateKey),
            "ML-KEM-768": (hpke.KEM.MLKEM768, None),
            "ML-KEM-1024": (hpke.KEM.MLKEM1024, None),
        }[self.row.name]
        suite = hpke.Suite(kem, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
        return suite, self.module if private is None else private(self.module, self.traditional)


def _seed(content: bytes) -> bytes:
    """Of ML-KEM-PrivateKey (RFC 9935 6): the seed alone, or the seed and what it expands to."""
    reader = der.Reader(content)
    if reader.peek() == 0x80:
        return reader.content(0x80)
    return reader.enter().content(der.OCTET_STRING)
