"""A PKCS#11 token as a `Driver`. Tried on SoftHSM2 2.6.1 (softhsm/MECHANISMS.md)."""

from collections.abc import Callable, Sequence
from typing import Any

from pkcs11 import (
    Attribute,
    GeneralError,
    Mechanism,
    MultipleObjectsReturned,
    NoSuchKey,
    ObjectClass,
)

from hsm_drivers.errors import TokenFailureError, UnsupportedError
from hsm_drivers.pin import Pin
from hsm_drivers.pkcs11 import objects
from hsm_drivers.pkcs11.mechanisms import lacking
from hsm_drivers.pkcs11.session import TokenSession
from hsm_drivers.ports import Capability, KeyAttributes, KeyLabel
from hsm_drivers.wrapping import refuse_unwrappable
from policies.algorithms import Algorithm, Scheme, UnknownAlgorithmError, algorithm


class Pkcs11Driver:
    """`ports.Driver` over a PKCS#11 module; one thread, one session, handles found once.

    It does what SoftHSM2 can: ECDSA and Ed25519 signatures, random numbers, AES key wrapping. It
    decapsulates nothing.
    """

    def __init__(self, module: str, token_label: str, pin: Pin) -> None:
        """Open the token; the PIN is tried exactly once.

        Args:
            module: Path of the PKCS#11 module. What configures the module (SOFTHSM2_CONF) must
                stand in the environment of the process already.
            token_label: Label of the token.
            pin: User PIN; kept to log in again after a lost session.

        Raises:
            PinRefusedError: The token refused the PIN.
            TokenUnavailableError: No token of that label now, or several.
            TokenFailureError: The module cannot be used.
        """
        self._session = TokenSession(module, token_label, pin, self._forget)
        self._keys: dict[KeyLabel, Any] = {}
        self._signers: dict[KeyLabel, Callable[[bytes], bytes]] = {}
        self._public_keys: dict[KeyLabel, Any] = {}

    @property
    def name(self) -> str:
        """Label of the token."""
        return self._session.token

    @property
    def capabilities(self) -> frozenset[Capability]:
        """Wrapping only where the token wraps as RFC 5649 says."""
        have = {Capability.GENERATE, Capability.SIGN, Capability.RANDOM}
        if self._session.wrap_mechanism is not None:
            have.add(Capability.WRAP)
        return frozenset(have)

    def lacking(self, algorithm_name: str) -> tuple[str, ...]:
        """As `ports.Driver.lacking`."""
        return lacking(algorithm_name, self._session.offered)

    def generate(
        self, label: KeyLabel, algorithm_name: str, *, transferable: bool = False
    ) -> tuple[str, bytes, KeyAttributes]:
        """As `ports.KeyStore.generate`; the public key of a wrapping key is empty.

        A key whose attributes come back wrong is destroyed before the error is raised. A session
        lost on the way is not tried again: the key may be there already.
        """
        if transferable:
            raise UnsupportedError(f"token {self.name!r} makes no transferable keys")
        try:
            row = algorithm(algorithm_name)
        except UnknownAlgorithmError as error:
            raise UnsupportedError(str(error)) from None
        if row.scheme in objects.KEY_TYPES:
            return self._session.run(lambda: self._generate_pair(label, row), again=False)
        if row.scheme is Scheme.AES_KWP:
            return self._session.run(lambda: self._generate_wrapping_key(label, row), again=False)
        raise UnsupportedError(f"token {self.name!r} makes no {row.name} keys")

    def labels(self) -> Sequence[KeyLabel]:
        """As `ports.KeyStore.labels`; wrapping keys included."""

        def read() -> list[KeyLabel]:
            found = objects.secrets_labelled(self._session.raw, None)
            return sorted(KeyLabel(key.label) for key in found)

        return self._session.run(read)

    def attributes(self, label: KeyLabel) -> KeyAttributes:
        """As `ports.KeyStore.attributes`."""
        return self._session.run(lambda: objects.attributes_of(self._key(label)))

    def public_key(self, label: KeyLabel) -> bytes:
        """As `ports.KeyStore.public_key`."""

        def read() -> bytes:
            key = self._key(label)
            if key.object_class is ObjectClass.SECRET_KEY:
                return b""
            if label not in self._public_keys:
                self._public_keys[label] = objects.public_of(self._session.raw, key)
            return objects.spki_of(self._public_keys[label], objects.row_of(key))

        return self._session.run(read)

    def sign(self, label: KeyLabel, message: bytes) -> bytes:
        """As `ports.MessageSigner.sign`."""

        def sign() -> bytes:
            signer = self._signers.get(label)
            if signer is None:
                key = self._key_for(label, ObjectClass.PRIVATE_KEY)
                signer = objects.signer(key, self._session.module)
                self._signers[label] = signer
            return signer(message)

        return self._session.run(sign)

    def random(self, size: int) -> bytes:
        """As `ports.Rng.random`."""
        return self._session.run(lambda: bytes(self._session.raw.generate_random(size * 8)))

    def wrap(self, label: KeyLabel, plaintext: bytes) -> bytes:
        """As `ports.Wrapper.wrap`; multiples of 8 bytes only (`wrapping.refuse_unwrappable`)."""
        refuse_unwrappable(plaintext)

        def wrap() -> bytes:
            key = self._key_for(label, ObjectClass.SECRET_KEY)
            return objects.wrap_bytes(self._session.raw, key, self._wrap_mechanism(), plaintext)

        return self._session.run(wrap)

    def unwrap(self, label: KeyLabel, ciphertext: bytes) -> bytes:
        """As `ports.Wrapper.unwrap`."""

        def unwrap() -> bytes:
            key = self._key_for(label, ObjectClass.SECRET_KEY)
            try:
                return objects.unwrap_bytes(key, self._wrap_mechanism(), ciphertext)
            except GeneralError:
                # SoftHSM2's answer to a wrong integrity check; it has no better code for it.
                raise TokenFailureError(
                    f"token {self.name!r}: these bytes were not wrapped under key {label!r}"
                    " [CKR_GENERAL_ERROR]"
                ) from None

        return self._session.run(unwrap)

    def decapsulate(self, label: KeyLabel, ciphertext: bytes) -> bytes:  # noqa: ARG002 - the port's
        """Refused: this driver offers no KEM.

        Raises:
            UnsupportedError: Always.
        """
        raise UnsupportedError(f"token {self.name!r} does not decapsulate (key {label!r})")

    def sign_digest(self, label: KeyLabel, digest: bytes) -> bytes:  # noqa: ARG002 - the port's
        """Refused: this driver does not do it.

        Raises:
            UnsupportedError: Always.
        """
        raise UnsupportedError(f"token {self.name!r} does not sign digests (key {label!r})")

    def mac(self, label: KeyLabel, message: bytes) -> bytes:  # noqa: ARG002 - the port's
        """Refused: this driver does not do it.

        Raises:
            UnsupportedError: Always.
        """
        raise UnsupportedError(f"token {self.name!r} does not make MACs (key {label!r})")

    def encrypt(self, label: KeyLabel, nonce: bytes, plaintext: bytes, associated: bytes) -> bytes:  # noqa: ARG002 - the port's
        """Refused: this driver does not do it.

        Raises:
            UnsupportedError: Always.
        """
        raise UnsupportedError(f"token {self.name!r} does not encrypt (key {label!r})")

    def decrypt(self, label: KeyLabel, nonce: bytes, ciphertext: bytes, associated: bytes) -> bytes:  # noqa: ARG002 - the port's
        """Refused: this driver does not do it.

        Raises:
            UnsupportedError: Always.
        """
        raise UnsupportedError(f"token {self.name!r} does not decrypt (key {label!r})")

    def destroy(self, label: KeyLabel) -> None:
        """Refused: this driver does not do it.

        Raises:
            UnsupportedError: Always.
        """
        raise UnsupportedError(f"token {self.name!r} does not destroy keys (key {label!r})")

    def export_key(self, label: KeyLabel, trusted: KeyLabel) -> bytes:  # noqa: ARG002 - the port's
        """Refused: this driver does not do it.

        Raises:
            UnsupportedError: Always.
        """
        raise UnsupportedError(f"token {self.name!r} does not transfer keys (key {label!r})")

    def import_key(
        self,
        label: KeyLabel,
        algorithm: str,  # noqa: ARG002 - the port's
        trusted: KeyLabel,  # noqa: ARG002 - the port's
        wrapped: bytes,  # noqa: ARG002 - the port's
        public_key: bytes,  # noqa: ARG002 - the port's
    ) -> tuple[str, KeyAttributes]:
        """Refused: this driver does not do it.

        Raises:
            UnsupportedError: Always.
        """
        raise UnsupportedError(f"token {self.name!r} does not transfer keys (key {label!r})")

    def close(self) -> None:
        """Log out and let the token go."""
        self._session.close()

    def _generate_pair(self, label: KeyLabel, row: Algorithm) -> tuple[str, bytes, KeyAttributes]:
        self._refuse_taken(label)
        public, private = objects.make_pair(self._session.raw, label, row)
        made = self._verified(label, private, public)
        return bytes(private[Attribute.ID]).hex(), objects.spki_of(public, row), made

    def _generate_wrapping_key(
        self, label: KeyLabel, row: Algorithm
    ) -> tuple[str, bytes, KeyAttributes]:
        self._wrap_mechanism()
        self._refuse_taken(label)
        key = objects.make_wrapping_key(self._session.raw, label, row)
        return bytes(key[Attribute.ID]).hex(), b"", self._verified(label, key)

    def _verified(self, label: KeyLabel, secret: Any, *others: Any) -> KeyAttributes:
        """Attributes of a new key; a key that is not held does not live on."""
        made = objects.attributes_of(secret)
        if not made.held():
            for made_object in (secret, *others):
                made_object.destroy()
            raise TokenFailureError(
                f"token {self.name!r} made {label!r} with attributes that would let it leave"
                f" ({made}); the key was destroyed"
            )
        return made

    def _refuse_taken(self, label: KeyLabel) -> None:
        if objects.secrets_labelled(self._session.raw, label):
            raise TokenFailureError(
                f"token {self.name!r} holds a key called {label!r} already; choose another label"
            )

    def _wrap_mechanism(self) -> Mechanism:
        mechanism = self._session.wrap_mechanism
        if mechanism is None:
            raise UnsupportedError(f"token {self.name!r} does not wrap as RFC 5649 says")
        return mechanism

    def _key_for(self, label: KeyLabel, kind: ObjectClass) -> Any:
        key = self._key(label)
        if key.object_class is not kind:
            raise UnsupportedError(f"key {label!r} is of a kind that does not do this")
        return key

    def _key(self, label: KeyLabel) -> Any:
        """Handle of a private or secret key: searched once (a search scans the whole token)."""
        if label in self._keys:
            return self._keys[label]
        found = objects.secrets_labelled(self._session.raw, label)
        if not found:
            raise NoSuchKey(repr(label))
        if len(found) > 1:
            raise MultipleObjectsReturned(repr(label))
        self._keys[label] = found[0]
        return found[0]

    def _forget(self) -> None:
        """Handles are void once the session is."""
        self._keys.clear()
        self._signers.clear()
        self._public_keys.clear()
