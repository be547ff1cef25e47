r"""The file of a backup: a manifest that everybody reads, sealed keys, encrypted content.

    sovereign-kms/backup/v1\n
    length (4 bytes, big-endian)  manifest      JSON
    length (4 bytes, big-endian)  recipients    JSON: recovery keys, the file's key sealed to each
    content                                     the manifest's files in its order, see `stream`

The file's key is sealed with HPKE under the hash of the manifest, and the content's key is derived
from it and from everything before the content: whoever opens the content knows that manifest and
recipients are those it was written with. `docs/backup-format.md` has it for other programs.
"""

import hashlib
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import msgspec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from kms.backup import recovery
from kms.backup.errors import DamagedBackupError, ForeignFileError, RecoveryKeyError, SharesError
from kms.backup.files import Source
from kms.backup.recovery import RecoveryKey
from kms.backup.shares import Share
from kms.backup.stream import sealed_size, unseal
from pki.errors import PkiError
from policies.algorithms import UnknownAlgorithmError

MAGIC = b"sovereign-kms/backup/v1\n"
_FAMILY = b"sovereign-kms/backup/v"
_MAX_MAGIC = 40

MAX_MANIFEST = 64 << 20
"""Largest manifest in bytes: 200,000 keys."""
MAX_RECIPIENTS = 1 << 20
MAX_FILES = 250_000
"""The signer keeps one for each service key."""

_KEY_LABEL = b"sovereign-kms/backup/key/v1\x00"
_CONTENT_LABEL = b"sovereign-kms/backup/content/v1\x00"
_NAME = re.compile(
    r"ledger|signer(/[a-z0-9][a-z0-9._-]{0,99}){1,2}|home(/[A-Za-z0-9_-][\w.@+-]{0,99}){1,6}",
    re.ASCII,
)

Count = Annotated[int, msgspec.Meta(ge=0)]


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of the content; `sha256` of its plain bytes, hex."""

    name: str
    size: Count
    sha256: str


class KeyEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key as it is referred to, never the key itself.

    Attributes:
        label: Its name in the signer's records, and of its object on the token.
        key_id: CKA_ID in hex.
        public_key_sha256: Of the SPKI; of nothing for a secret key.
        wrapped: Whether the backup carries it, wrapped under a key of the token; else only the
            maker's own backup of the token does.
    """

    label: str
    key_id: str
    algorithm: str
    protection: str
    public_key_sha256: str
    wrapped: bool


class TokenEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A token of the configuration and what it holds.

    Attributes:
        name: In the configuration; empty for the service's own.
        label: CKA_LABEL.
        keys: Keys that were born on it.
        wrapping: Labels of its keys that wrapped ones need.
        replicas: Labels of keys that it holds besides.
    """

    name: str
    label: str
    keys: tuple[KeyEntry, ...]
    wrapping: tuple[str, ...]
    replicas: tuple[str, ...]


class LogEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The log as the backup has it; `checkpoint` is the exact note of its newest signed head."""

    origin: str
    size: Count
    root: bytes
    vkey: str
    checkpoint: str


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a backup says about itself to everybody.

    Attributes:
        id: Random, hex: names this backup in events.
        made: When the ledger was copied, RFC 3339 UTC.
        name: Name of the service's log, as configured.
        schema: The ledger's newest migration.
        absent: What the backup does not hold and a restored service needs, a sentence each.
    """

    id: str
    made: str
    name: str
    schema: str
    log: LogEntry
    tokens: tuple[TokenEntry, ...]
    files: tuple[FileEntry, ...]
    absent: tuple[str, ...]


class Recipient(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A recovery key that the backup is encrypted to, and the file's key sealed to it."""

    key: RecoveryKey
    sealed: bytes


class Header(msgspec.Struct, frozen=True):
    """Everything before the content.

    Attributes:
        manifest: What is said.
        recipients: Who can open it.
        size: Bytes of the header itself.
        manifest_sha256: Digest of the manifest's bytes.
        sha256: Digest of the header's bytes.
    """

    manifest: Manifest
    recipients: tuple[Recipient, ...]
    size: int
    manifest_sha256: bytes
    sha256: bytes

    @property
    def content_size(self) -> int:
        """Plain bytes of the content."""
        return sum(entry.size for entry in self.manifest.files)


class Sealed(msgspec.Struct, frozen=True):
    """A header to write, and the key of the content that follows it."""

    header: bytes
    key: bytes

    def __repr__(self) -> str:
        return "Sealed(...)"


def seal_header(manifest: Manifest, keys: Sequence[RecoveryKey]) -> Sealed:
    """The header for these recovery keys, under a fresh key."""
    said = msgspec.json.encode(manifest)
    if len(said) > MAX_MANIFEST:
        raise RecoveryKeyError(f"the manifest has {len(said)} bytes, more than {MAX_MANIFEST}")
    secret, info = secrets.token_bytes(32), _KEY_LABEL + hashlib.sha256(said).digest()
    recipients = [Recipient(key, recovery.seal_to(key, info, secret)) for key in keys]
    header = MAGIC + _block(said) + _block(msgspec.json.encode(recipients))
    return Sealed(header, _content_key(secret, hashlib.sha256(header).digest()))


def read_header(file: Source, name: str) -> Header:
    """Read up to the content; no key is needed, and nothing is proven by it.

    Args:
        file: Stands at its beginning.
        name: Names it in messages.

    Raises:
        ForeignFileError: No backup, or one of another version.
        DamagedBackupError: It is cut short, or a backup never says such things.
    """
    _read_magic(file, name)
    said = _read_block(file, MAX_MANIFEST, name)
    sealed = _read_block(file, MAX_RECIPIENTS, name)
    manifest = _decode(said, Manifest, name)
    recipients = _decode(sealed, tuple[Recipient, ...], name)
    _check(manifest, recipients, name)
    header = MAGIC + _block(said) + _block(sealed)
    digests = hashlib.sha256(said).digest(), hashlib.sha256(header).digest()
    return Header(manifest, recipients, len(header), *digests)


def check_size(header: Header, size: int, name: str) -> None:
    """Whether a file has the size that its manifest leads to.

    Raises:
        DamagedBackupError: It has another.
    """
    expected = header.size + sealed_size(header.content_size)
    if size != expected:
        fault = "cut short" if size < expected else "longer than it was written"
        raise DamagedBackupError(f"{name}: {size} bytes, not {expected}: it is {fault}")


def open_content(header: Header, file: Source, shares: Mapping[str, Share]) -> Iterator[bytes]:
    """Decrypt what follows the header.

    Args:
        header: Of the file, which stands behind it.
        file: The backup.
        shares: A quorum of one of the recipients, by where each comes from.

    Raises:
        SharesError: The shares open none of the recipients, or one is wrong.
        DamagedBackupError: The file was changed.
    """
    recipient = _recipient(header, shares)
    info = _KEY_LABEL + header.manifest_sha256
    secret = recovery.open_with(recipient.key, shares, info, recipient.sealed)
    return unseal(_content_key(secret, header.sha256), file)


def _recipient(header: Header, shares: Mapping[str, Share]) -> Recipient:
    """The one whose key the shares are of."""
    known = {item.key.id: item for item in header.recipients}
    named = [share.key for share in shares.values()]
    if not named:
        needs = " or ".join(f"{item.key.quorum} of {key}" for key, item in known.items())
        raise SharesError(f"no share was given; the backup opens with {needs}")
    for key in named:
        if key in known:
            return known[key]
    raise SharesError(
        f"the shares are of recovery key {named[0]}; the backup opens with"
        f" {' or '.join(known)} alone"
    )


def _content_key(secret: bytes, header_sha256: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt=header_sha256, info=_CONTENT_LABEL).derive(secret)


def _block(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def _read_magic(file: Source, name: str) -> None:
    line = file.readline(_MAX_MAGIC)
    if line == MAGIC:
        return
    if line.startswith(_FAMILY) and line.endswith(b"\n"):
        version = line.removeprefix(_FAMILY).strip().decode("ascii", "replace")
        raise ForeignFileError(
            f"{name}: a backup of format version {version}; this program reads version 1:"
            " use the program that it was made with"
        )
    raise ForeignFileError(f"{name}: not a backup of this service")


def _read_block(file: Source, most: int, name: str) -> bytes:
    prefix = file.read(4)
    size = int.from_bytes(prefix, "big")
    if len(prefix) == 4 and size > most:
        raise DamagedBackupError(f"{name}: its header claims {size} bytes, more than {most}")
    data = file.read(size) if len(prefix) == 4 else b""
    if len(prefix) < 4 or len(data) < size:
        raise DamagedBackupError(f"{name}: cut short in its header")
    return data


def _decode(data: bytes, kind: Any, name: str) -> Any:
    try:
        return msgspec.json.decode(data, type=kind)
    except (ValueError, RecursionError) as error:
        raise DamagedBackupError(f"{name}: its header is not that of a backup: {error}") from None


def _check(manifest: Manifest, recipients: Sequence[Recipient], name: str) -> None:
    """Names lead nowhere else, and every recovery key can be one."""
    names = [entry.name for entry in manifest.files]
    bad = [item for item in names if not _NAME.fullmatch(item)]
    if bad or len(set(names)) != len(names) or len(names) > MAX_FILES:
        raise DamagedBackupError(f"{name}: no backup has files {bad or names!r:.200}")
    if "ledger" not in names or "home/kms.toml" not in names:
        raise DamagedBackupError(f"{name}: it holds no ledger or no settings")
    if not recipients:
        raise DamagedBackupError(f"{name}: it is encrypted to nobody")
    for recipient in recipients:
        try:
            recovery.check(recipient.key)
        except (ValueError, UnknownAlgorithmError, PkiError) as error:
            raise DamagedBackupError(f"{name}: recovery key {recipient.key.id}: {error}") from None
