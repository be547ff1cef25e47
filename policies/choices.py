"""Algorithms that are taken where nobody names one; the policy still decides on each."""

LOG_KEY = "Ed25519"
"""The algorithm of C2SP log signatures, which the witness network demands; no plan changes it."""

ROOT_KEY = "ECDSA-P384"
ISSUING_KEY = "ECDSA-P256"

CONTENT_CIPHER = "AES-256-GCM"
CONTENT_WRAP = "AES-256-KW"
"""What an envelope's content and content key are protected with (RFC 5084, RFC 9936 2.2.1)."""

RECOVERY_KEYS = ("MLKEM1024-P384", "MLKEM768-X25519")
"""Recovery keys of backups, the wanted one first: the first that the policy allows is made."""
