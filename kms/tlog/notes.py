"""Signed notes (C2SP signed-note) and the cosignatures on them (C2SP tlog-cosignature)."""

import hashlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey

from kms.tlog.checkpoint import MAX_ORIGIN, Checkpoint, parse_checkpoint
from kms.tlog.encoding import MAX_NUMBER, b64, unb64
from kms.tlog.errors import FormatError, SignatureError
from kms.tlog.hashing import HASH_SIZE

MAX_NOTE = 256 * 1024
"""Largest note in bytes; room for more than 16 signatures of 5 kB, which all must accept."""
MAX_SIGNATURES = 64
_MAX_TEXT_KEY = 4096
_ID_SIZE = 4
_TIME_SIZE = 8
_DASH = "\N{EM DASH}"
_SUBTREE_LABEL = b"subtree/v1\n\x00"
_VKEY = re.compile(r"(?P<name>[^+]+)\+(?P<id>[0-9a-f]{8})\+(?P<key>[A-Za-z0-9+/=]+)", re.ASCII)


class KeyType(IntEnum):
    """How a key signs notes; the byte is part of its key id."""

    ED25519 = 0x01
    ED25519_COSIGNATURE = 0x04
    ML_DSA_44_COSIGNATURE = 0x06


_PUBLIC_SIZE = {
    KeyType.ED25519: 32,
    KeyType.ED25519_COSIGNATURE: 32,
    KeyType.ML_DSA_44_COSIGNATURE: 1312,
}
_SIGNATURE_SIZE = {
    KeyType.ED25519: 64,
    KeyType.ED25519_COSIGNATURE: _TIME_SIZE + 64,
    KeyType.ML_DSA_44_COSIGNATURE: _TIME_SIZE + 2420,
}


def key_id(name: str, type_: int, public: bytes) -> bytes:
    """The four bytes that, with the name, tell which key signed."""
    return hashlib.sha256(name.encode() + b"\n" + bytes([type_]) + public).digest()[:_ID_SIZE]


def vkey(name: str, public_key_raw: bytes) -> str:
    """Verifier key text of an Ed25519 log key.

    Raises:
        FormatError: A name or key that cannot be one.
    """
    return VerifierKey(name, KeyType.ED25519, public_key_raw).text()


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key that may sign notes.

    Raises:
        FormatError: A name that cannot stand in a signature line, or a key of the wrong size.
    """

    name: str
    type: KeyType
    public: bytes

    def __post_init__(self) -> None:
        _check_name(self.name)
        if len(self.public) != _PUBLIC_SIZE[self.type]:
            raise FormatError(f"key {self.name!r} has {len(self.public)} bytes")

    @classmethod
    def parse(cls, text: str) -> "VerifierKey":
        """Read `name+hex(key id)+base64(type ‖ public key)`.

        Raises:
            FormatError: Any other form, an unknown type, or an id that is not the key's.
        """
        match = _VKEY.fullmatch(text) if len(text) <= _MAX_TEXT_KEY else None
        if match is None:
            raise FormatError(f"not a verifier key: {text[:80]!r}")
        data = unb64(match["key"], "the verifier key")
        try:
            key = cls(match["name"], KeyType(data[0]), data[1:])
        except ValueError as error:
            raise FormatError(f"verifier key of unknown type {data[0]:#04x}") from error
        if key.key_id.hex() != match["id"]:
            raise FormatError(f"verifier key id {match['id']} is not the key's")
        return key

    @property
    def key_id(self) -> bytes:
        """The key's id in signature lines."""
        return key_id(self.name, self.type, self.public)

    def text(self) -> str:
        """Undo `parse`."""
        return f"{self.name}+{self.key_id.hex()}+{b64(bytes([self.type]) + self.public)}"

    def verify(self, text: bytes, signature: bytes) -> None:
        """Check a signature (without its key id) over a note's text.

        Raises:
            SignatureError: It is not this key's signature over the text.
            FormatError: A cosignature over a text that is not a checkpoint.
        """
        if len(signature) != _SIGNATURE_SIZE[self.type]:
            raise SignatureError(f"signature of {self.name!r} has {len(signature)} bytes")
        try:
            if self.type is KeyType.ED25519:
                Ed25519PublicKey.from_public_bytes(self.public).verify(signature, text)
            else:
                self._verify_cosignature(text, signature)
        except (InvalidSignature, ValueError) as error:
            raise SignatureError(f"signature of {self.name!r} does not fit the note") from error

    def _verify_cosignature(self, text: bytes, signature: bytes) -> None:
        time, signature = int.from_bytes(signature[:_TIME_SIZE], "big"), signature[_TIME_SIZE:]
        checkpoint = parse_checkpoint(text)
        if self.type is KeyType.ED25519_COSIGNATURE:
            message = ed25519_cosigned(checkpoint, time)
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, message)
        else:
            message = ml_dsa_cosigned(checkpoint, time, self.name)
            MLDSA44PublicKey.from_public_bytes(self.public).verify(signature, message)


def ed25519_cosigned(checkpoint: Checkpoint, time: int) -> bytes:
    """What an Ed25519 cosigner signs at `time`, in seconds since 1970.

    Raises:
        SignatureError: No such time.
    """
    _check_time(time)
    return b"cosignature/v1\ntime %d\n" % time + checkpoint.body()


def ml_dsa_cosigned(checkpoint: Checkpoint, time: int, cosigner: str) -> bytes:
    """What an ML-DSA-44 cosigner signs at `time`, in seconds since 1970, or 0 for no time.

    Raises:
        SignatureError: No such time.
    """
    _check_time(time)
    return b"".join(
        (
            _SUBTREE_LABEL,
            _short(cosigner),
            time.to_bytes(8, "big"),
            _short(checkpoint.origin),
            (0).to_bytes(8, "big"),
            checkpoint.size.to_bytes(8, "big"),
            checkpoint.root,
        )
    )


def read_ml_dsa_cosigned(data: bytes) -> tuple[Checkpoint, int, str]:
    """Checkpoint, time and cosigner of what an ML-DSA-44 cosigner signs; undoes `ml_dsa_cosigned`.

    Raises:
        FormatError: Other bytes, or of a subtree that is not a whole log.
        SignatureError: No such time.
    """
    reader = io.BytesIO(data)
    label = reader.read(len(_SUBTREE_LABEL))
    cosigner = _read_short(reader)
    time = int.from_bytes(reader.read(_TIME_SIZE), "big")
    origin = _read_short(reader)
    start, size = (int.from_bytes(reader.read(8), "big") for _ in range(2))
    checkpoint = Checkpoint(origin, size, reader.read(HASH_SIZE))
    if label != _SUBTREE_LABEL or start or data != ml_dsa_cosigned(checkpoint, time, cosigner):
        raise FormatError("not what an ML-DSA-44 cosigner signs of a whole log")
    return checkpoint, time, cosigner


def _read_short(reader: io.BytesIO) -> str:
    try:
        return reader.read(int.from_bytes(reader.read(1), "big")).decode()
    except UnicodeDecodeError as error:
        raise FormatError("a name is not UTF-8") from error


def _check_time(time: int) -> None:
    if not 0 <= time <= MAX_NUMBER:
        raise SignatureError(f"cosignature at an impossible time {time}")


def _short(text: str) -> bytes:
    """Behind its length in one byte; origins and key names are that short."""
    data = text.encode()
    return bytes([len(data)]) + data


@dataclass(frozen=True, slots=True)
class NoteSignature:
    """One signature line."""

    name: str
    key_id: bytes
    signature: bytes

    def line(self) -> str:
        """The line, with its newline."""
        return f"{_DASH} {self.name} {b64(self.key_id + self.signature)}\n"


@dataclass(frozen=True, slots=True)
class Note:
    """A note as it was read: nothing about it is verified. `text` ends with a newline."""

    text: bytes
    signatures: tuple[NoteSignature, ...]


def format_note(text: bytes, signatures: Sequence[NoteSignature]) -> bytes:
    """The note's bytes.

    Raises:
        FormatError: The text or a name cannot stand in a note.
    """
    note = text + b"\n" + "".join(item.line() for item in signatures).encode()
    if parse_note(note) != Note(text, tuple(signatures)):
        raise FormatError("text or signatures cannot stand in a note")
    return note


def parse_note(data: bytes) -> Note:
    """Read a note; bounded by `MAX_NOTE` and `MAX_SIGNATURES`.

    Raises:
        FormatError: Not a note.
    """
    if len(data) > MAX_NOTE:
        raise FormatError(f"a note of {len(data)} bytes is larger than {MAX_NOTE}")
    try:
        content = data.decode()
    except UnicodeDecodeError as error:
        raise FormatError("the note is not UTF-8") from error
    if any(letter < 0x20 and letter != 0x0A for letter in data):
        raise FormatError("the note has control characters")
    text, separator, tail = content.rpartition("\n\n")
    if not separator or not tail.endswith("\n"):
        raise FormatError("the note has no signatures after an empty line")
    lines = tail.removesuffix("\n").split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise FormatError(f"the note has {len(lines)} signatures, more than {MAX_SIGNATURES}")
    return Note(f"{text}\n".encode(), tuple(map(_parse_signature, lines)))


def _parse_signature(line: str) -> NoteSignature:
    parts = line.split(" ")
    if len(parts) != 3 or parts[0] != _DASH:
        raise FormatError(f"not a signature line: {line[:80]!r}")
    _check_name(parts[1])
    blob = unb64(parts[2], f"signature of {parts[1][:80]!r}")
    if len(blob) <= _ID_SIZE:
        raise FormatError(f"signature of {parts[1][:80]!r} is too short")
    return NoteSignature(parts[1], blob[:_ID_SIZE], blob[_ID_SIZE:])


def _check_name(name: str) -> None:
    """A key name has no spaces, no plus and no control characters, and a bounded length."""
    if not name or any(letter.isspace() or letter == "+" or letter < " " for letter in name):
        raise FormatError(f"not a key name: {name[:80]!r}")
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        raise FormatError(f"key name is not Unicode text: {name[:80]!r}") from error
    if size > MAX_ORIGIN:
        raise FormatError(f"key name longer than {MAX_ORIGIN} bytes: {name[:80]!r}")


def verify_note(note: Note, keys: Sequence[VerifierKey]) -> list[str]:
    """Names of the given keys that signed the note, each once, in the note's order.

    Signatures of other keys are ignored, even if they share a name or an id (not both) with one.

    Raises:
        SignatureError: None of the keys signed it, or one of them signed it wrongly.
        FormatError: A cosignature on a text that is not a checkpoint.
    """
    known = {(key.name, key.key_id): key for key in keys}
    verified: dict[str, None] = {}
    for item in note.signatures:
        key = known.get((item.name, item.key_id))
        if key is not None:
            key.verify(note.text, item.signature)
            verified[item.name] = None
    if not verified:
        raise SignatureError("no known key signed the note")
    return list(verified)
