"""Recovery keys: hybrid HPKE keys that backups are sealed to, their private halves held in shares.

The private half is a seed of 32 bytes that exists only while shares are made or joined. From it the
key pair is derived as the hybrid KEMs of HPKE do (draft-irtf-cfrg-concrete-hybrid-kems, X-Wing in
draft-connolly-cfrg-xwing-kem): SHAKE-256 of the seed gives the ML-KEM seed (64 bytes), then the
scalar of the elliptic part (X25519: 32 bytes, P-384: 48).

The public half is `<home>/recovery/<id>.json`; the id is the beginning of SHA-256 of its SPKI.
"""

import hashlib
import secrets
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec, mlkem, x25519
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM1024P384PrivateKey,
    Suite,
)
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from kms.backup.errors import DamagedBackupError, RecoveryKeyError, SharesError
from kms.backup.shares import KEY_ID_SIZE, MAX_SHARES, SEED_SIZE, Share, join, of_one_key, split
from kms.wire import timestamp
from pki.errors import PkiError
from pki.keys import encode_spki, parse_public_key
from pki.possession import seal
from policies.algorithms import Algorithm, UnknownAlgorithmError, algorithm
from policies.choices import RECOVERY_KEYS
from policies.decisions import Protection, Question, Use, decide
from policies.policy import Policy

MAX_FILE = 65_536
"""Largest file of a public half in bytes."""


class RecoveryKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The public half of a recovery key.

    Attributes:
        algorithm: Registry name.
        public_key: SubjectPublicKeyInfo, DER.
        quorum: How many shares rebuild the private half.
        shares: Digest of each share, by its number.
        created: RFC 3339 UTC.
    """

    version: Literal[1]
    algorithm: str
    public_key: bytes
    quorum: int
    shares: tuple[str, ...]
    created: str

    @property
    def id(self) -> str:
        """What shares and files know the key by."""
        return hashlib.sha256(self.public_key).hexdigest()[: 2 * KEY_ID_SIZE]

    @property
    def sha256(self) -> str:
        """SHA-256 of the SPKI, hex: what the log knows the key by."""
        return hashlib.sha256(self.public_key).hexdigest()


class NewKey(msgspec.Struct, frozen=True):
    """A key at its birth: what is kept, and what the officers take away."""

    public: RecoveryKey
    shares: tuple[Share, ...]
    rule: str
    """Rule of the policy that allowed the algorithm."""

    def __repr__(self) -> str:
        return f"NewKey({self.public.id})"


def generate(policy: Policy, quorum: int, shares: int, now: datetime) -> NewKey:
    """Make a key of the first algorithm that the policy allows, and divide it at once.

    Raises:
        RecoveryKeyError: The policy allows none.
        SharesError: No such quorum.
    """
    chosen, rule = _choose(policy, now)
    seed = secrets.token_bytes(SEED_SIZE)
    public_key = _derive(chosen, seed).public_key
    key = hashlib.sha256(public_key).hexdigest()[: 2 * KEY_ID_SIZE]
    parts = split(seed, key, quorum, shares)
    digests = tuple(share.digest() for share in parts)
    public = RecoveryKey(1, chosen.name, public_key, quorum, digests, timestamp(now))
    return NewKey(public, parts, rule)


def _choose(policy: Policy, now: datetime) -> tuple[Algorithm, str]:
    reasons = []
    for name in RECOVERY_KEYS:
        # A backup may have to be opened at any time later: what holds today decides.
        decision = decide(policy, Question(Use.BACKUP, None, name, Protection.SOFTWARE, now, now))
        if decision.allowed:
            return algorithm(name), decision.rule
        reasons.append(f"{name}: {decision.reason}")
    raise RecoveryKeyError(f"the policy allows no recovery key: {'; '.join(reasons)}")


def encode(key: RecoveryKey) -> bytes:
    """The file of a public half."""
    return msgspec.json.format(msgspec.json.encode(key), indent=1) + b"\n"


def decode(data: bytes, where: str) -> RecoveryKey:
    """Undo `encode`, and check that the parts belong together.

    Raises:
        RecoveryKeyError: It is no public half, or one of an unknown form.
    """
    if len(data) > MAX_FILE:
        raise RecoveryKeyError(f"{where}: larger than {MAX_FILE} bytes; no recovery key is")
    try:
        key = msgspec.json.decode(data, type=RecoveryKey)
        check(key)
    except (ValueError, UnknownAlgorithmError, PkiError) as error:
        raise RecoveryKeyError(f"{where}: not the public half of a recovery key: {error}") from None
    return key


def check(key: RecoveryKey) -> None:
    """Whether a public half can be one.

    Raises:
        ValueError: Its numbers do not fit, or nothing is derived for its algorithm.
        UnknownAlgorithmError: The registry has no such algorithm.
        PkiError: Its key does not parse.
    """
    row = algorithm(key.algorithm)
    if row.hpke_kem_id not in _DERIVE:
        raise ValueError(f"no recovery key is of algorithm {row.name}")
    parse_public_key(key.public_key, row)
    if not 2 <= key.quorum <= len(key.shares) <= MAX_SHARES:
        raise ValueError(f"a quorum of {key.quorum} of {len(key.shares)} shares is not possible")


def read_all(directory: Path) -> list[RecoveryKey]:
    """The public halves in a directory, by file name.

    Raises:
        RecoveryKeyError: There is none, or one of them is no public half.
        OSError: They cannot be read.
    """
    paths = sorted(directory.glob("*.json")) if directory.is_dir() else []
    if not paths:
        raise RecoveryKeyError(
            f"{directory} holds no recovery key: make one, `kms backup new-recovery-key`"
        )
    return [read(path) for path in paths]


def read(path: Path) -> RecoveryKey:
    """A public half from its file.

    Raises:
        RecoveryKeyError: It is none.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        return decode(file.read(MAX_FILE + 1), str(path))


def seal_to(key: RecoveryKey, info: bytes, secret: bytes) -> bytes:
    """Seal a secret so that a quorum of the key's shares opens it: `enc ‖ ct` (RFC 9180)."""
    return seal(parse_public_key(key.public_key, algorithm(key.algorithm)), info, secret)


def open_with(key: RecoveryKey, shares: Mapping[str, Share], info: bytes, sealed: bytes) -> bytes:
    """Rebuild the private half for as long as it takes to open a secret.

    Raises:
        SharesError: The shares are too few, or one is wrong.
        DamagedBackupError: The secret was sealed for something else, or changed.
    """
    seed = join(of_one_key(shares, key.id, key.quorum, key.shares))
    pair = _derive(algorithm(key.algorithm), seed)
    if pair.public_key != key.public_key:
        raise SharesError(f"the shares do not rebuild recovery key {key.id}: one was altered")
    try:
        return pair.open(sealed, info)
    except (InvalidTag, ValueError):
        raise DamagedBackupError(
            f"the backup's key does not open with recovery key {key.id}: the file was changed"
        ) from None


class _Pair(msgspec.Struct, frozen=True):
    """A derived key pair: its SPKI, and how it opens."""

    public_key: bytes
    open: Callable[[bytes, bytes], bytes]


def _derive(row: Algorithm, seed: bytes) -> _Pair:
    """The pair of a seed; nothing of it is kept."""
    raw, opening = _DERIVE[row.hpke_kem_id](seed)
    return _Pair(encode_spki(row, raw), opening)


_Derived = tuple[bytes, Callable[[bytes, bytes], bytes]]


def _suite(kem: KEM) -> Suite:
    """The suite of `pki.possession.seal`."""
    return Suite(kem, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def _mlkem768_x25519(seed: bytes) -> _Derived:
    expanded = hashlib.shake_256(seed).digest(96)
    post_quantum = mlkem.MLKEM768PrivateKey.from_seed_bytes(expanded[:64])
    elliptic = x25519.X25519PrivateKey.from_private_bytes(expanded[64:])
    raw = post_quantum.public_key().public_bytes_raw() + elliptic.public_key().public_bytes_raw()
    private, suite = MLKEM768X25519PrivateKey(post_quantum, elliptic), _suite(KEM.MLKEM768_X25519)
    return raw, lambda sealed, info: suite.decrypt(sealed, private, info)


def _mlkem1024_p384(seed: bytes) -> _Derived:
    expanded = hashlib.shake_256(seed).digest(112)
    post_quantum = mlkem.MLKEM1024PrivateKey.from_seed_bytes(expanded[:64])
    # Not a number below the group's order: once in 2^189 seeds, and then an error, not a weak key.
    elliptic = ec.derive_private_key(int.from_bytes(expanded[64:], "big"), ec.SECP384R1())
    point = elliptic.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    raw = post_quantum.public_key().public_bytes_raw() + point
    private, suite = MLKEM1024P384PrivateKey(post_quantum, elliptic), _suite(KEM.MLKEM1024_P384)
    return raw, lambda sealed, info: suite.decrypt(sealed, private, info)


_DERIVE: dict[int | None, Any] = {0x0051: _mlkem1024_p384, 0x647A: _mlkem768_x25519}
"""By HPKE KEM id (IANA; draft-ietf-hpke-pq)."""
