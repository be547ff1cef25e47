"""Proofs that lead to the right root by a wrong way: made for it, and refused all the same."""

import pytest

from kms.tlog.errors import ProofError
from kms.tlog.hashing import leaf_hash, node_hash
from kms.tlog.proofs import verify_consistency, verify_inclusion

A, B, C, D, X = (leaf_hash(name) for name in (b"a", b"b", b"c", b"d", b"x"))


def test_a_hash_too_many_is_refused_even_if_the_root_was_made_for_it():
    verify_inclusion(A, 0, 1, [], A)
    with pytest.raises(ProofError, match="too long"):
        verify_inclusion(A, 0, 1, [X], node_hash(X, A))


def test_growth_with_a_hash_too_many_is_refused_even_if_the_roots_were_made_for_it():
    both = node_hash(A, B)
    old, new = node_hash(both, C), node_hash(both, node_hash(C, D))
    verify_consistency(3, 4, [C, D, both], old, new)
    with pytest.raises(ProofError, match="too long"):
        verify_consistency(3, 4, [C, D, both, X], node_hash(X, old), node_hash(X, new))


@pytest.mark.parametrize("root", [b"", b"x", A + b"x"])
def test_what_is_no_hash_is_no_root(root: bytes):
    with pytest.raises(ProofError, match="32-byte"):
        verify_consistency(5, 5, [], root, root)
    with pytest.raises(ProofError, match="32-byte"):
        verify_inclusion(root, 0, 1, [], root)
