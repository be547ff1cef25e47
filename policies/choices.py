"""Algorithms that are taken where nobody names one; the policy still decides on each."""

from collections.abc import Mapping
from types import MappingProxyType

from policies.key_life import KeyPurpose

LOG_KEY = "Ed25519"
"""The algorithm of C2SP log signatures, which the witness network demands; no plan changes it."""

LOG_COSIGNER = "ML-DSA-44"
"""The algorithm of the log's own cosignature, the one that C2SP tlog-cosignature has for it."""

ROOT_KEY = "ECDSA-P384"
ISSUING_KEYS: Mapping[int, str] = MappingProxyType(
    {0: "ECDSA-P256", 3: "ML-DSA-65", 5: "ML-DSA-87"}
)
"""Keys of issuing authorities, by the NIST category that their profile demands."""

KEY_ENCRYPTION = "AES-256-KWP"
"""What the signer wraps parts of keys with that a token cannot use (RFC 5649)."""

CONTENT_CIPHER = "AES-256-GCM"
CONTENT_WRAP = "AES-256-KW"
"""What an envelope's content and content key are protected with (RFC 5084, RFC 9936 2.2.1)."""

RECOVERY_KEYS = ("MLKEM1024-P384", "MLKEM768-X25519")
"""Recovery keys of backups, the wanted one first: the first that the policy allows is made."""

KEYS: Mapping[KeyPurpose, tuple[str, ...]] = MappingProxyType(
    {
        KeyPurpose.SIGNING: ("ECDSA-P256", "Ed25519", "ECDSA-P384", "ML-DSA-65", "ML-DSA-87"),
        KeyPurpose.MAC: ("HMAC-SHA-256", "HMAC-SHA-512"),
        KeyPurpose.ENCRYPTION: ("AES-256-GCM",),
        KeyPurpose.WRAPPING: ("AES-256-KWP",),
        KeyPurpose.KEM: ("MLKEM768-X25519", "MLKEM1024-P384", "MLKEM768-P256"),
    }
)
"""Keys of clients by purpose: the first that the policy allows, and a token can hold, is made."""
