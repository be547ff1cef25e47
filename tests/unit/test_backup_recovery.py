"""Recovery keys: chosen by the policy, derived as the standards say, refused if they cannot be."""

import hashlib
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, mlkem
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from kms.backup import recovery
from kms.backup.errors import DamagedBackupError, RecoveryKeyError, SharesError
from kms.backup.recovery import decode, encode, generate, open_with, seal_to
from kms.backup.shares import SEED_SIZE, Share
from policies.algorithms import algorithm
from policies.decisions import Use
from policies.policy import load, shipped

NOW = datetime(2026, 11, 22, tzinfo=UTC)
INFO, SECRET = b"info", b"s" * 32


def test_the_wanted_algorithm_and_the_next_one() -> None:
    assert generate(shipped(), 2, 3, NOW).public.algorithm == "MLKEM1024-P384"
    other = shipped().source.replace(
        b'algorithms = ["MLKEM1024-P384", "MLKEM768-X25519"]\nhybrid = true\nminimum_classical_bits'
        b' = 128\nminimum_quantum_category = 3\nprotection = ["software"]',
        b'algorithms = ["MLKEM768-X25519"]\nprotection = ["software"]',
    )
    made = generate(load(other), 2, 3, NOW)
    assert made.public.algorithm == "MLKEM768-X25519"
    shares = {str(share.number): share for share in made.shares[1:]}
    assert open_with(made.public, shares, INFO, seal_to(made.public, INFO, SECRET)) == SECRET


def test_a_policy_that_allows_none() -> None:
    policy = shipped()
    without = replace(policy, rules=tuple(r for r in policy.rules if r.use is not Use.BACKUP))
    with pytest.raises(RecoveryKeyError, match="allows no recovery key: MLKEM1024-P384: "):
        generate(without, 2, 3, NOW)


def test_the_pair_is_derived_as_written() -> None:
    """Once more, from the pieces: SHAKE-256, the ML-KEM seed first, then the scalar of P-384."""
    seed = bytes(range(SEED_SIZE))
    expanded = hashlib.shake_256(seed).digest(64 + 48)
    kem = mlkem.MLKEM1024PrivateKey.from_seed_bytes(expanded[:64]).public_key().public_bytes_raw()
    scalar = int.from_bytes(expanded[64:], "big")
    point = ec.derive_private_key(scalar, ec.SECP384R1()).public_key()
    raw = point.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    found = recovery._derive(algorithm("MLKEM1024-P384"), seed).public_key
    assert found.endswith(kem + raw)
    assert hashlib.sha256(found).hexdigest() == PINNED


PINNED = "fd299278f09048561e089194e9f38eaba90bd3e0bda2dd79d521f54b3375dc55"
"""Of the seed 00 01 … 1f: what was sealed to it once must open for good."""


def test_the_file_is_read_again() -> None:
    public = generate(shipped(), 2, 3, NOW).public
    assert decode(encode(public), "x") == public
    assert public.id == hashlib.sha256(public.public_key).hexdigest()[:16]


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_decode_takes_no_other_bytes(data: bytes) -> None:
    with pytest.raises(RecoveryKeyError):
        decode(data, "x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"algorithm": "ML-KEM-1024"}, "no recovery key is of algorithm"),
        ({"algorithm": "MLKEM768-X25519"}, "not the public half"),
        ({"algorithm": "none"}, "not the public half"),
        ({"public_key": b"x"}, "not the public half"),
        ({"quorum": 1}, "quorum of 1 of 3"),
        ({"quorum": 4}, "quorum of 4 of 3"),
        ({"shares": ("00",) * 33}, "quorum of 2 of 33"),
        ({"version": 2}, "not the public half"),
    ],
)
def test_what_can_be_no_key(change: dict[str, object], message: str) -> None:
    public = generate(shipped(), 2, 3, NOW).public
    data = msgspec.json.encode(msgspec.structs.replace(public, **change))
    with pytest.raises(RecoveryKeyError, match=message):
        decode(data, "x")


def test_files_are_bounded() -> None:
    with pytest.raises(RecoveryKeyError, match="larger than"):
        decode(b" " * (recovery.MAX_FILE + 1), "x")


def test_no_key_in_a_directory(tmp_path: Path) -> None:
    with pytest.raises(RecoveryKeyError, match="holds no recovery key"):
        recovery.read_all(tmp_path)
    with pytest.raises(RecoveryKeyError, match="holds no recovery key"):
        recovery.read_all(tmp_path / "none")


def test_another_info_or_another_ciphertext() -> None:
    made = generate(shipped(), 2, 2, NOW)
    shares = {str(share.number): share for share in made.shares}
    sealed = seal_to(made.public, INFO, SECRET)
    for info, data in ((b"other", sealed), (INFO, sealed[:-1] + b"\0"), (INFO, b""), (INFO, b"x")):
        with pytest.raises(DamagedBackupError, match="does not open"):
            open_with(made.public, shares, info, data)


def test_shares_that_were_forged_with_their_digests() -> None:
    """Who writes the file can write digests, too: the key that comes out is still not the key."""
    made = generate(shipped(), 2, 2, NOW)
    forged = Share(made.public.id, 2, 2, 1, bytes(32))
    digests = (forged.digest(), made.shares[1].digest())
    public = msgspec.structs.replace(made.public, shares=digests)
    with pytest.raises(SharesError, match="do not rebuild"):
        open_with(public, {"a": forged, "b": made.shares[1]}, INFO, b"")


def test_nothing_secret_is_shown() -> None:
    made = generate(shipped(), 2, 2, NOW)
    assert repr(made) == f"NewKey({made.public.id})"
