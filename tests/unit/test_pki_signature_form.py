"""A signature has one form, to the byte; what is looked at before any key is asked."""

import pytest

from pki import der
from pki.errors import ProofError
from pki.possession import Challenge, check_signature_form
from policies.algorithms import Kind, Scheme, algorithm, algorithms

SIZED = [row for row in algorithms(Kind.SIGNATURE) if row.scheme is not Scheme.ECDSA]
P256 = algorithm("ECDSA-P256")
LARGEST = 2**256 - 1


def ecdsa(r: int, s: int) -> bytes:
    return der.sequence(der.integer(r), der.integer(s))


def refused(name: str, signature: bytes) -> None:
    with pytest.raises(ProofError) as error:
        check_signature_form(algorithm(name), signature)
    assert error.value.field == "signature"


@pytest.mark.parametrize("name", [row.name for row in SIZED])
def test_a_signature_has_its_algorithms_size(name: str):
    size = algorithm(name).signature_size or 0
    check_signature_form(algorithm(name), bytes(size))
    for wrong in (0, size - 1, size + 1):
        refused(name, bytes(wrong))


@pytest.mark.parametrize("name", ["X25519", "ML-KEM-768", "ECDH-P256"])
def test_what_does_not_sign_has_no_signature(name: str):
    refused(name, ecdsa(1, 1))


@pytest.mark.parametrize(("r", "s"), [(1, 1), (1, LARGEST), (LARGEST, LARGEST)])
def test_two_positive_numbers_are_an_ecdsa_signature(r: int, s: int):
    check_signature_form(P256, ecdsa(r, s))


@pytest.mark.parametrize(("r", "s"), [(0, 1), (1, 0), (-1, 1), (1, -1), (0, 0)])
def test_numbers_that_are_not_positive_are_none(r: int, s: int):
    refused(P256.name, ecdsa(r, s))


def test_no_ecdsa_signature_is_longer_than_two_numbers_of_the_curve():
    assert len(ecdsa(LARGEST, LARGEST)) == P256.signature_size
    refused(P256.name, ecdsa(LARGEST << 8, LARGEST))


def test_der_that_goes_on_or_ends_early_is_refused():
    good = ecdsa(5, 7)
    for wrong in (good + b"\0", good[:-1], b"", der.sequence(der.integer(5)), der.integer(5)):
        refused(P256.name, wrong)
    refused(P256.name, der.sequence(der.integer(5), der.integer(7), der.integer(9)))


def test_a_challenge_shows_nothing_of_what_is_sealed():
    assert "sealed" not in repr(Challenge(b"sealed secret", "00"))
