"""Algorithms that a ceremony takes where its plan names none; the policy still decides on each."""

LOG_KEY = "Ed25519"
"""The algorithm of C2SP log signatures, which the witness network demands; no plan changes it."""

ROOT_KEY = "ECDSA-P384"
ISSUING_KEY = "ECDSA-P256"
