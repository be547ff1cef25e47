"""What is judged before and after a token is asked, with a token that answers as it is told."""

from dataclasses import dataclass, field
from typing import Any

import pkcs11
import pytest

from hsm_drivers.errors import TokenFailureError, UnsupportedError
from hsm_drivers.pkcs11.operations import KeyOperations, prepared
from hsm_drivers.pkcs11.returns import RefusedBytesError, raise_for
from hsm_drivers.vendor import shipped, spelling_of
from hsm_drivers.wrapping import MAX_WRAPPED
from policies.algorithms import algorithm


@dataclass
class ToldToken:
    """In the place of `cryptoki.Cryptoki`: notes what it is asked, answers what it is told."""

    answer: bytes = b""
    asked: list[str] = field(default_factory=list)

    def derive(self, *_: Any) -> int:
        self.asked.append("derive")
        return 1

    def decapsulate(self, *_: Any) -> int:
        self.asked.append("decapsulate")
        return 1

    def unwrap(self, *_: Any) -> int:
        self.asked.append("unwrap")
        return 1

    def value_once(self, _handle: int, _size: int) -> bytes:
        return self.answer

    def signer(self, *_: Any) -> Any:
        return self._operation("sign")

    def encrypter(self, *_: Any, **_named: Any) -> Any:
        return self._operation("encrypt")

    def decrypter(self, *_: Any) -> Any:
        return self._operation("decrypt")

    def _operation(self, name: str) -> Any:
        def operation(_data: bytes) -> bytes:
            self.asked.append(name)
            return self.answer

        return operation


def key(token: ToldToken, name: str, profile: str = "standard") -> KeyOperations:
    row = algorithm(name)
    spelling = spelling_of(shipped(profile), row)
    assert spelling is not None
    return prepared(token, 1, row, spelling)  # type: ignore[arg-type] # as said above


G = bytes.fromhex(
    "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"
    "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"
)
"""The base point of P-256 (SP 800-186)."""


def test_zeros_are_no_secret_of_x25519() -> None:
    """RFC 7748, 6.1: whatever the token thinks of points of small order."""
    token = ToldToken(bytes(32))
    agree = key(token, "X25519").decapsulate
    assert agree is not None
    with pytest.raises(RefusedBytesError):
        agree(bytes([9]) + bytes(31))
    assert token.asked == ["derive"]
    token.answer = bytes(31) + b"\1"
    assert agree(bytes([9]) + bytes(31)) == token.answer


def test_zeros_are_an_x_coordinate_of_p256_like_others() -> None:
    agree = key(ToldToken(bytes(32)), "ECDH-P256").decapsulate
    assert agree is not None
    assert agree(G) == bytes(32)


@pytest.mark.parametrize(("name", "sent"), [("ECDH-P256", G), ("ML-KEM-768", bytes(1088))])
def test_a_secret_that_lost_its_zeros_is_none(name: str, sent: bytes) -> None:
    agree = key(ToldToken(bytes(31)), name).decapsulate
    assert agree is not None
    with pytest.raises(TokenFailureError, match="31 bytes, not 32"):
        agree(sent)


def test_a_point_of_another_curve_never_reaches_the_token() -> None:
    token = ToldToken(bytes(32))
    agree = key(token, "ECDH-P256").decapsulate
    assert agree is not None
    for point in (G[:-1] + bytes([G[-1] ^ 1]), G[:-1], b"\2" + G[1:33], b"\0"):
        with pytest.raises(RefusedBytesError):
            agree(point)
    assert token.asked == []


@pytest.mark.parametrize("profile", ["standard", "nss-softoken"])
def test_sizes_that_cannot_be_never_reach_the_token(profile: str) -> None:
    token = ToldToken()
    kem = key(token, "ML-KEM-768", profile).decapsulate
    unwrap = key(token, "AES-256-KWP", profile).unwrap
    decrypt = key(token, "AES-256-GCM", profile).decrypt
    assert kem is not None
    assert unwrap is not None
    assert decrypt is not None
    for size in (0, 1087, 1089):
        with pytest.raises(RefusedBytesError):
            kem(bytes(size))
    for size in (0, 8, 15, 17, 41, MAX_WRAPPED + 16):
        with pytest.raises(RefusedBytesError):
            unwrap(bytes(size))
    for size in (0, 15):
        with pytest.raises(RefusedBytesError):
            decrypt(bytes(12), bytes(size), b"")
    assert token.asked == []
    unwrap(bytes(16))
    decrypt(bytes(12), bytes(16), b"")
    assert len(token.asked) == 2


def test_what_would_not_come_back_is_not_wrapped() -> None:
    wrap = key(ToldToken(), "AES-256-KWP", "nss-softoken").wrap
    assert wrap is not None
    for size in (0, 7, 9, MAX_WRAPPED + 8):
        with pytest.raises(UnsupportedError):
            wrap(bytes(size))


def test_codes_refuse_bytes_only_where_they_are_said_to() -> None:
    with pytest.raises(RefusedBytesError):
        raise_for(0x05, frozenset({0x05}))
    with pytest.raises(pkcs11.GeneralError):
        raise_for(0x05)
    raise_for(0, frozenset({0x05}))
