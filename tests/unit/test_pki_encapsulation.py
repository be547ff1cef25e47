"""A secret sent to a KEM key is what its holder gets, and nothing is sent to other keys."""

import pytest

from pki.encapsulation import encapsulate
from pki.errors import ProofError
from pki.keys import parse_public_key
from policies.algorithms import Algorithm, Kind, algorithm, algorithms
from tests.support import pki
from tests.support.unsealing import PrivateKem

SLOTS = ["MLKEM768-X25519", "MLKEM768-P256", "MLKEM1024-P384", "ML-KEM-768", "ML-KEM-1024"]


@pytest.mark.parametrize("name", SLOTS)
def test_the_holder_gets_the_secret(name: str):
    private = PrivateKem.generate(name)
    ciphertext, secret = encapsulate(parse_public_key(private.spki, private.row))
    assert len(ciphertext) == private.row.ciphertext_size
    assert private.decapsulate(ciphertext) == secret
    assert PrivateKem.generate(name).decapsulate(ciphertext) != secret


@pytest.mark.parametrize("row", [*algorithms(Kind.SIGNATURE), algorithm("ML-KEM-512")])
def test_nothing_is_sent_to_others(row: Algorithm):
    with pytest.raises(ProofError):
        encapsulate(pki.public(row.name))


def test_a_point_of_small_order_is_refused():
    good = PrivateKem.generate("MLKEM768-X25519").spki
    with pytest.raises(ProofError):
        encapsulate(parse_public_key(good[:-32] + bytes(32), algorithm("MLKEM768-X25519")))
