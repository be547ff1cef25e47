"""A token's twin in memory: the whole `Driver` port, for tests; no command offers it.

It behaves as a token does (labels taken once, secrets never handed out, the same errors) and
reports the attributes a token would report, so that what stands on the port can be tested without
one. It protects nothing.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from hsm_drivers.errors import HsmError, KeyNotFoundError, TokenFailureError, UnsupportedError
from hsm_drivers.ports import Capability, KeyAttributes, KeyLabel
from hsm_drivers.software.keys import SoftwareKey, makes, new_key
from hsm_drivers.wrapping import refuse_unwrappable
from policies.algorithms import Kind, UnknownAlgorithmError, algorithm, algorithms

Doing = TypeVar("Doing")
"""What a key can do, as a callable."""

TOKEN_LIKE = KeyAttributes(
    local=True,
    sensitive=True,
    always_sensitive=True,
    extractable=False,
    never_extractable=True,
    private=True,
    on_token=True,
    sign=True,
)
"""What a sound token reports of a signing key it made."""


@dataclass(frozen=True, slots=True)
class _Held:
    key: SoftwareKey
    attributes: KeyAttributes


class SoftwareDriver:
    """`ports.Driver` in memory.

    Attributes:
        outage: While set, every operation raises it: a token that is away or broken.
        attributes_made: What the next keys claim to be; a test may make the token a liar.
    """

    def __init__(self, name: str = "software") -> None:
        self._name = name
        self._keys: dict[KeyLabel, _Held] = {}
        self.outage: HsmError | None = None
        self.attributes_made = TOKEN_LIKE

    @property
    def name(self) -> str:
        """As `ports.Driver`."""
        return self._name

    @property
    def capabilities(self) -> frozenset[Capability]:
        """Everything but to transfer keys."""
        return frozenset(Capability) - {Capability.TRANSFER}

    @property
    def algorithms(self) -> tuple[str, ...]:
        """As `ports.Driver.algorithms`."""
        return tuple(row.name for row in algorithms() if makes(row))

    def lacking(self, algorithm_name: str) -> tuple[str, ...]:  # noqa: ARG002 - the port's
        """As `ports.Driver.lacking`: software has no mechanisms to lack."""
        return ()

    def generate(
        self, label: KeyLabel, algorithm_name: str, *, transferable: bool = False
    ) -> tuple[str, bytes, KeyAttributes]:
        """As `ports.KeyStore.generate`; the public key of a wrapping key is empty."""
        self._answer()
        if label in self._keys:
            raise TokenFailureError(
                f"token {self._name!r} holds a key called {label!r} already; choose another label"
            )
        try:
            row = algorithm(algorithm_name)
        except UnknownAlgorithmError as error:
            raise UnsupportedError(f"{error}") from None
        made = replace(self.attributes_made, sign=row.kind in (Kind.SIGNATURE, Kind.MAC))
        if transferable:
            made = replace(made, extractable=True, never_extractable=False, wrap_with_trusted=True)
        key = new_key(row)
        if not (made.transferable() if transferable else made.held()):
            raise TokenFailureError(
                f"token {self._name!r} made {label!r} with attributes that would let it leave; "
                "the key was destroyed"
            )
        self._keys[label] = _Held(key, made)
        return os.urandom(16).hex(), key.spki, made

    def destroy(self, label: KeyLabel) -> None:
        """As `ports.KeyStore.destroy`."""
        self._held(label)
        del self._keys[label]

    def labels(self, only: KeyLabel | None = None) -> Sequence[KeyLabel]:
        """As `ports.KeyStore.labels`."""
        self._answer()
        return [label for label in sorted(self._keys) if only in (None, label)]

    def attributes(self, label: KeyLabel) -> KeyAttributes:
        """As `ports.KeyStore.attributes`."""
        return self._held(label).attributes

    def public_key(self, label: KeyLabel) -> bytes:
        """As `ports.KeyStore.public_key`."""
        return self._held(label).key.spki

    def sign(self, label: KeyLabel, message: bytes) -> bytes:
        """As `ports.MessageSigner.sign`."""
        return self._operation(label, self._held(label).key.sign)(message)

    def sign_digest(self, label: KeyLabel, digest: bytes) -> bytes:
        """As `ports.MessageSigner.sign_digest`."""
        return self._operation(label, self._held(label).key.sign_digest)(digest)

    def mac(self, label: KeyLabel, message: bytes) -> bytes:
        """As `ports.Mac.mac`."""
        return self._operation(label, self._held(label).key.mac)(message)

    def encrypt(self, label: KeyLabel, nonce: bytes, plaintext: bytes, associated: bytes) -> bytes:
        """As `ports.Cipher.encrypt`."""
        encrypt = self._operation(label, self._held(label).key.encrypt)
        return encrypt(nonce, plaintext, associated)

    def decrypt(self, label: KeyLabel, nonce: bytes, ciphertext: bytes, associated: bytes) -> bytes:
        """As `ports.Cipher.decrypt`."""
        decrypt = self._operation(label, self._held(label).key.decrypt)
        return decrypt(nonce, ciphertext, associated)

    def random(self, size: int) -> bytes:
        """As `ports.Rng.random`."""
        self._answer()
        return os.urandom(size)

    def wrap(self, label: KeyLabel, plaintext: bytes) -> bytes:
        """As `ports.Wrapper.wrap`; multiples of 8 bytes only (`wrapping.refuse_unwrappable`)."""
        refuse_unwrappable(plaintext)
        return self._operation(label, self._held(label).key.wrap)(plaintext)

    def unwrap(self, label: KeyLabel, ciphertext: bytes) -> bytes:
        """As `ports.Wrapper.unwrap`."""
        return self._operation(label, self._held(label).key.unwrap)(ciphertext)

    def decapsulate(self, label: KeyLabel, ciphertext: bytes) -> bytes:
        """As `ports.Kem.decapsulate`."""
        return self._operation(label, self._held(label).key.decapsulate)(ciphertext)

    def export_key(self, label: KeyLabel, trusted: KeyLabel) -> bytes:  # noqa: ARG002 - the port's
        """Refused: the twin keeps no key as bytes.

        Raises:
            UnsupportedError: Always.
        """
        raise UnsupportedError(f"token {self._name!r} transfers no keys (key {label!r})")

    def import_key(
        self,
        label: KeyLabel,
        algorithm_name: str,  # noqa: ARG002 - the port's
        trusted: KeyLabel,  # noqa: ARG002 - the port's
        wrapped: bytes,  # noqa: ARG002 - the port's
        public_key: bytes,  # noqa: ARG002 - the port's
    ) -> tuple[str, KeyAttributes]:
        """Refused, as `export_key`.

        Raises:
            UnsupportedError: Always.
        """
        raise UnsupportedError(f"token {self._name!r} transfers no keys (key {label!r})")

    def close(self) -> None:
        """Nothing to let go."""

    def _operation(self, label: KeyLabel, operation: Doing | None) -> Doing:
        if operation is None:
            raise UnsupportedError(f"key {label!r} is of a kind that does not do this")
        return operation

    def _answer(self) -> None:
        if self.outage is not None:
            raise self.outage

    def _held(self, label: KeyLabel) -> _Held:
        self._answer()
        try:
            return self._keys[label]
        except KeyError:
            raise KeyNotFoundError(f"token {self._name!r} holds no key called {label!r}") from None
