"""Recovery keys against the vectors of X-Wing, which MLKEM768-X25519 of HPKE is."""

import pytest

from kms.backup import recovery
from policies.algorithms import algorithm
from tests.support.vectors import folder, load_json

VECTORS = load_json(folder("crypto") / "xwing-draft-test-vectors.json")


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["seed"][:8])
def test_the_public_key_of_a_seed(vector: dict[str, str]) -> None:
    pair = recovery._derive(algorithm("MLKEM768-X25519"), bytes.fromhex(vector["seed"]))
    assert pair.public_key.endswith(bytes.fromhex(vector["pk"]))
