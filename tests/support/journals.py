"""A signer's journal as docs/wire-format.md describes it, written without the signer's code."""

import base64
import hashlib
import json
import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509

from kms import wire
from tests.support.ministry import Ministry
from tests.support.naive_log import NaiveLog

SIZE = 192


@dataclass(frozen=True)
class Signed:
    """One statement; `message` is hashed."""

    key: str
    purpose: str
    message: bytes
    reference: str
    time: datetime

    def entry(self, counter: int, first: int) -> bytes:
        texts = (self.key.encode(), self.purpose.encode(), self.reference.encode())
        digest, seconds = hashlib.sha256(self.message).digest(), int(self.time.timestamp())
        body = struct.pack(">QQ32s64s16s52sQ", counter, first, digest, *texts, seconds)
        return struct.pack(">I", zlib.crc32(body)) + body


@dataclass
class SignerJournal:
    """What a signer wrote down, and the log whose key vouches for it."""

    log: NaiveLog
    now: datetime
    signed: list[Signed] = field(default_factory=list)

    @classmethod
    def of(cls, ministry: Ministry) -> "SignerJournal":
        """The journal of a ministry that did nothing but what it logged."""
        made = cls(ministry.log, ministry.now + timedelta(minutes=1))
        for path in sorted(ministry.files):
            if path.endswith(".pem") and not path.endswith(".crl.pem"):
                made.certificate(ministry.files[path])
        newest = {name: ministry.files[f"ca/{name}.crl"] for name in ministry.numbers}
        for leaf in map(json.loads, ministry.log.leaves):
            detail = leaf["detail"] or {}
            if leaf["type"] == "certificate.orphaned":
                (orphan,) = leaf["certificates"]
                key = f"{orphan['authority']}-1"
                made.add(key, "certificate", os.urandom(8), orphan["serial"])
            elif leaf["type"] in {"crl.issued", "crl.orphaned"}:
                name, number = detail["authority"], detail["number"]
                der = newest[name] if number == ministry.numbers[name] else None
                tbs = x509.load_der_x509_crl(der).tbs_certlist_bytes if der else os.urandom(8)
                made.add(f"{name}-1", "crl", tbs, str(number))
        for size in {1, 2, 7, len(ministry.log.leaves)}:
            made.head(size)
        return made

    def add(self, key: str, purpose: str, message: bytes, reference: str) -> int:
        """Sign something; answers its counter."""
        self.signed.append(Signed(key, purpose, message, reference, self.now))
        return len(self.signed)

    def certificate(self, pem: bytes) -> int:
        certificate = x509.load_pem_x509_certificate(pem)
        (issuer,) = certificate.issuer
        serial = wire.serial_hex(certificate.serial_number)
        tbs = certificate.tbs_certificate_bytes
        return self.add(f"{issuer.value!s}-1", "certificate", tbs, serial)

    def head(self, size: int, log: NaiveLog | None = None) -> int:
        body = (log or self.log).checkpoint(size).split(b"\n\n")[0] + b"\n"
        return self.add("log", "checkpoint", body, str(size))

    def drop(self, reference: str) -> None:
        self.signed = [item for item in self.signed if item.reference != reference]

    def rewrite(self, counter: int, **change: object) -> None:
        self.signed[counter - 1] = replace(self.signed[counter - 1], **change)  # type: ignore[arg-type]

    def data(self) -> bytes:
        return b"".join(item.entry(at, at) for at, item in enumerate(self.signed, 1))

    def seal(self, data: bytes | None = None) -> bytes:
        held = self.data() if data is None else data
        digest = base64.b64encode(hashlib.sha256(held).digest()).decode()
        return self.log.sign(
            f"sovereign-kms/journal/v1\nentries {len(held) // SIZE}\nsha256 {digest}\n"
            f"time {wire.timestamp(self.now)}\n"
        )

    def write(self, record: Path, data: bytes | None = None, seal: bytes | None = None) -> Path:
        """Put copy and seal into a record; answers the record."""
        (record / "signer").mkdir(exist_ok=True)
        held = self.data() if data is None else data
        (record / "signer/journal").write_bytes(held)
        (record / "signer/seal").write_bytes(self.seal(held) if seal is None else seal)
        return record


def failures(found: Sequence[str]) -> list[str]:
    """Those about the journal."""
    return [item for item in found if item.startswith(("journal", "signatures"))]
