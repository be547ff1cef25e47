"""Nonces for AES-GCM that no key sees twice, whatever is restarted or restored (SP 800-38D, 8.2).

64 random bits of the token, drawn anew for each key by each run of the signer, and a 32-bit count.
Nothing of it is kept on disk, so that nothing can be put back; nothing of it comes from outside.
"""

from hsm_drivers.ports import KeyLabel

PREFIX_SIZE = 8
NONCE_SIZE = 12
_LAST = 2**32 - 1


class Nonces:
    """The counts of one process."""

    def __init__(self) -> None:
        self._next: dict[KeyLabel, tuple[bytes, int]] = {}

    def wants_prefix(self, key: KeyLabel) -> bool:
        """Whether `start` must come before the key's next nonce."""
        return key not in self._next

    def start(self, key: KeyLabel, prefix: bytes) -> None:
        """Begin to count; a prefix that comes second is not wanted any more.

        Args:
            key: What encrypts.
            prefix: Random bytes of the key's token.
        """
        if len(prefix) != PREFIX_SIZE:
            raise ValueError(f"a prefix has {PREFIX_SIZE} bytes")
        self._next.setdefault(key, (prefix, 0))

    def take(self, key: KeyLabel) -> bytes:
        """The key's next nonce."""
        prefix, count = self._next[key]
        if count == _LAST:
            del self._next[key]
        else:
            self._next[key] = (prefix, count + 1)
        return prefix + count.to_bytes(4, "big")

    def forget(self, key: KeyLabel) -> None:
        """The key is gone."""
        self._next.pop(key, None)
