"""A small certification authority, made with `cryptography` only."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


def spki(public_key: Any) -> bytes:
    return public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _tlv(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 128:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 + len(length)]) + length + content


def _header_size(element: bytes) -> int:
    return 2 + (element[1] & 0x7F if element[1] & 0x80 else 0)


@dataclass
class Authority:
    """A CA; `certificate` is DER. Certificates may carry any SPKI, composites included."""

    name: str
    key: ec.EllipticCurvePrivateKey
    certificate: bytes

    @classmethod
    def create(
        cls, name: str, parent: "Authority | None", serial: int, begin: datetime
    ) -> "Authority":
        key = ec.generate_private_key(ec.SECP256R1())
        signer, issuer = (key, name) if parent is None else (parent.key, parent.name)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name(issuer))
            .public_key(key.public_key())
            .serial_number(serial)
            .not_valid_before(begin)
            .not_valid_after(begin + timedelta(days=3650))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        )
        certificate = builder.sign(signer, hashes.SHA256())
        return cls(name, key, certificate.public_bytes(Encoding.DER))

    def spki(self) -> bytes:
        return spki(self.key.public_key())

    def issue(
        self,
        public_key: bytes,
        uri: str,
        serial: int,
        begin: datetime,
        end: datetime,
        *,
        signs: bool = True,
        usages: Sequence[str] = (),
        names: Sequence[x509.GeneralName] | None = None,
    ) -> bytes:
        """DER of an end-entity certificate over any SPKI, to sign with or to encipher to.

        `usages` are extended, as OIDs; `names` stand in the place of the URI.
        """
        usage = dict.fromkeys(_USAGES, False)
        usage["digital_signature" if signs else "key_encipherment"] = True
        alternative = [x509.UniformResourceIdentifier(uri)] if names is None else names
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(uri.rsplit("/", 1)[-1] or "nameless"))
            .issuer_name(_name(self.name))
            .public_key(self.key.public_key())
            .serial_number(serial)
            .not_valid_before(begin)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.KeyUsage(**usage), critical=True)
            .add_extension(x509.SubjectAlternativeName(alternative), critical=False)
        )
        if usages:
            extended = x509.ExtendedKeyUsage(map(x509.ObjectIdentifier, usages))
            builder = builder.add_extension(extended, critical=False)
        der = builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.DER)
        return self._spliced(der, public_key)

    def _spliced(self, der: bytes, public_key: bytes) -> bytes:
        """The same certificate over another SPKI: no builder takes composite keys."""
        tbs = x509.load_der_x509_certificate(der).tbs_certificate_bytes
        content = tbs[_header_size(tbs) :].replace(self.spki(), public_key, 1)
        tbs = _tlv(0x30, content)
        signature = self.key.sign(tbs, ec.ECDSA(hashes.SHA256()))
        algorithm = bytes.fromhex("300a06082a8648ce3d040302")
        return _tlv(0x30, tbs + algorithm + _tlv(0x03, b"\x00" + signature))

    def crl(
        self,
        revoked: list[tuple[int, datetime, x509.ReasonFlags]],
        number: int,
        this_update: datetime,
        next_update: datetime,
    ) -> bytes:
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(_name(self.name))
            .last_update(this_update)
            .next_update(next_update)
            .add_extension(x509.CRLNumber(number), critical=False)
        )
        for serial, moment, reason in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(moment)
            if reason is not x509.ReasonFlags.unspecified:
                entry = entry.add_extension(x509.CRLReason(reason), critical=False)
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.DER)
