"""A PKCS#11 token as a `Driver`, spoken to as its vendor profile says (docs/hsm/profiles.md)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from pkcs11 import MultipleObjectsReturned, NoSuchKey

from hsm_drivers.errors import BadCiphertextError, TokenFailureError, UnsupportedError
from hsm_drivers.pin import Pin
from hsm_drivers.pkcs11 import mechanisms, objects, transfer
from hsm_drivers.pkcs11.meanings import code_name
from hsm_drivers.pkcs11.operations import KeyOperations, prepared
from hsm_drivers.pkcs11.returns import RefusedBytesError
from hsm_drivers.pkcs11.session import TokenSession
from hsm_drivers.ports import Capability, KeyAttributes, KeyLabel
from hsm_drivers.vendor import Profile, Spelling, TrustedBy, spelling_of
from policies.algorithms import Algorithm, algorithm, algorithms

T = TypeVar("T")
P = ParamSpec("P")
_RANDOM_AT_ONCE = 4096
"""Bytes; some tokens refuse to give many at once."""


@dataclass(frozen=True, slots=True)
class _Key:
    """A key that was found, and what it does."""

    found: objects.Found
    operations: KeyOperations


class Pkcs11Driver:
    """`ports.Driver` over a PKCS#11 module; one thread, one session, handles found once."""

    def __init__(
        self,
        module: str,
        token_label: str,
        pin: Pin,
        *,
        profile: Profile | None = None,
        serial: str | None = None,
    ) -> None:
        """Open the token; the PIN is tried exactly once.

        Args:
            module: Path of the PKCS#11 module. What configures the module (SOFTHSM2_CONF) must
                stand in the environment of the process already.
            token_label: Label of the token.
            pin: User PIN; kept to log in again after a lost session.
            profile: None for the one that the token is recognised by.
            serial: Serial number that the token must have; None for any.

        Raises:
            PinRefusedError: The token refused the PIN.
            TokenUnavailableError: No token of that label and serial number now, or several.
            TokenFailureError: The module cannot be used.
        """
        self._session = TokenSession(
            module, token_label, pin, self._forget, profile=profile, serial=serial
        )
        self._keys: dict[KeyLabel, _Key] = {}

    @property
    def name(self) -> str:
        """Label of the token."""
        return self._session.token

    @property
    def serial(self) -> str:
        """Serial number of the token."""
        return self._session.serial

    @property
    def profile(self) -> Profile:
        """How the token is spoken to."""
        return self._session.profile

    @property
    def mechanisms(self) -> frozenset[int]:
        """Numbers of the mechanisms that the token offers."""
        return self._session.offered

    @property
    def algorithms(self) -> tuple[str, ...]:
        """As `ports.Driver.algorithms`: those whose mechanisms the token offers."""
        return tuple(row.name for row in algorithms() if not self.lacking(row.name))

    @property
    def capabilities(self) -> frozenset[Capability]:
        """As `ports.Driver.capabilities`; transfer only where wrapping keys can be trusted."""
        have = {Capability.GENERATE, Capability.RANDOM}
        have |= {mechanisms.CAPABILITIES[algorithm(name).kind] for name in self.algorithms}
        if Capability.WRAP in have and self.profile.attributes.trusted_by is not TrustedBy.NOBODY:
            have.add(Capability.TRANSFER)
        return frozenset(have)

    def lacking(self, algorithm_name: str) -> tuple[str, ...]:
        """As `ports.Driver.lacking`."""
        return mechanisms.lacking(algorithm_name, self.profile, self._session.offered)

    def generate(
        self, label: KeyLabel, algorithm_name: str, *, transferable: bool = False
    ) -> tuple[str, bytes, KeyAttributes]:
        """As `ports.KeyStore.generate`; the public key of a secret key is empty.

        A key whose attributes come back wrong is destroyed before the error is raised. A session
        lost on the way is not tried again: the key may be there already.
        """
        row, spelling = self._spelled(algorithm_name)
        if transferable:
            self._need_transfer()

        def generate() -> tuple[str, bytes, KeyAttributes]:
            token = self._session.calls
            self._refuse_taken(label)
            key, public = objects.make(token, label, row, spelling, transferable=transferable)
            made = self._verified(label, key, public, transferable=transferable)
            spki = b"" if public is None else objects.spki_of(token, public, row)
            return objects.id_of(token, key).hex(), spki, made

        return self._session.run(generate, again=False)

    def destroy(self, label: KeyLabel) -> None:
        """As `ports.KeyStore.destroy`; the public half goes first.

        What a crash leaves behind is therefore a private key that is found, and destroyed, again.
        """
        begun = False

        def destroy() -> None:
            nonlocal begun
            token = self._session.calls
            self._keys.pop(label, None)
            found = objects.secrets_labelled(token, label)
            if not found and not begun:
                raise NoSuchKey(repr(label))
            if len(found) > 1:
                raise MultipleObjectsReturned(repr(label))
            for handle in found:
                key_id = objects.id_of(token, handle)
                begun = True
                for public in objects.publics_of(token, key_id):
                    token.destroy(public)
                token.destroy(handle)
                if objects.publics_of(token, key_id):
                    raise TokenFailureError(
                        f"token {self.name!r} keeps the public key of {label!r}"
                    )
            if objects.secrets_labelled(token, label):
                raise TokenFailureError(f"token {self.name!r} keeps {label!r} and says it is gone")

        self._session.run(destroy)

    def labels(self, only: KeyLabel | None = None) -> Sequence[KeyLabel]:
        """As `ports.KeyStore.labels`."""

        def read() -> list[KeyLabel]:
            token = self._session.calls
            found = objects.secrets_labelled(token, only)
            return sorted(objects.label_of(token, handle) for handle in found)

        return self._session.run(read)

    def attributes(self, label: KeyLabel) -> KeyAttributes:
        """As `ports.KeyStore.attributes`."""

        def read() -> KeyAttributes:
            handle = self._key(label).found.handle
            return objects.attributes_of(self._session.calls, handle, self.profile)

        return self._session.run(read)

    def public_key(self, label: KeyLabel) -> bytes:
        """As `ports.KeyStore.public_key`."""

        def read() -> bytes:
            found = self._key(label).found
            if objects.is_secret(found.row):
                return b""
            public = objects.public_of(self._session.calls, found, label)
            return objects.spki_of(self._session.calls, public, found.row)

        return self._session.run(read)

    def sign(self, label: KeyLabel, message: bytes) -> bytes:
        """As `ports.MessageSigner.sign`."""
        return self._perform(label, lambda key: key.sign, message)

    def sign_digest(self, label: KeyLabel, digest: bytes) -> bytes:
        """As `ports.MessageSigner.sign_digest`."""
        return self._perform(label, lambda key: key.sign_digest, digest)

    def mac(self, label: KeyLabel, message: bytes) -> bytes:
        """As `ports.Mac.mac`."""
        return self._perform(label, lambda key: key.mac, message)

    def encrypt(self, label: KeyLabel, nonce: bytes, plaintext: bytes, associated: bytes) -> bytes:
        """As `ports.Cipher.encrypt`."""
        return self._perform(label, lambda key: key.encrypt, nonce, plaintext, associated)

    def decrypt(self, label: KeyLabel, nonce: bytes, ciphertext: bytes, associated: bytes) -> bytes:
        """As `ports.Cipher.decrypt`."""
        return self._perform(label, lambda key: key.decrypt, nonce, ciphertext, associated)

    def wrap(self, label: KeyLabel, plaintext: bytes) -> bytes:
        """As `ports.Wrapper.wrap`; multiples of 8 bytes only (`wrapping.refuse_unwrappable`)."""
        return self._perform(label, lambda key: key.wrap, plaintext)

    def unwrap(self, label: KeyLabel, ciphertext: bytes) -> bytes:
        """As `ports.Wrapper.unwrap`."""
        return self._perform(label, lambda key: key.unwrap, ciphertext)

    def decapsulate(self, label: KeyLabel, ciphertext: bytes) -> bytes:
        """As `ports.Kem.decapsulate`; a session object held the secret and is destroyed."""
        return self._perform(label, lambda key: key.decapsulate, ciphertext)

    def random(self, size: int) -> bytes:
        """As `ports.Rng.random`."""

        def draw() -> bytes:
            drawn = b""
            while missing := min(size - len(drawn), _RANDOM_AT_ONCE):
                drawn += bytes(self._session.raw.generate_random(missing * 8))
            return drawn

        return self._session.run(draw)

    def export_key(self, label: KeyLabel, trusted: KeyLabel) -> bytes:
        """As `ports.Transfer.export_key`."""
        self._need_transfer()

        def export() -> bytes:
            key, under = self._key(label).found, self._wrapping(trusted)
            if not self.attributes(label).transferable():
                raise UnsupportedError(f"key {label!r} was made to stay on its token")
            return self._session.calls.wrap(under.how, under.handle, key.handle)

        return self._session.run(export)

    def import_key(
        self,
        label: KeyLabel,
        algorithm_name: str,
        trusted: KeyLabel,
        wrapped: bytes,
        public_key: bytes,
    ) -> tuple[str, KeyAttributes]:
        """As `ports.Transfer.import_key`; a key that is not the public key's does not live on."""
        row, spelling = self._spelled(algorithm_name)
        self._need_transfer()

        def bring() -> tuple[str, KeyAttributes]:
            token = self._session.calls
            under = self._wrapping(trusted)
            self._refuse_taken(label)
            arriving = transfer.Arriving(label, row, spelling, wrapped, public_key)
            key, public = transfer.bring(token, arriving, under)
            made = self._verified(label, key, public, transferable=True)
            return objects.id_of(token, key).hex(), made

        return self._session.run(lambda: self._told(trusted, bring), again=False)

    def close(self) -> None:
        """Log out and let the token go."""
        self._session.close()

    def _perform(
        self,
        label: KeyLabel,
        choose: Callable[[KeyOperations], Callable[P, bytes] | None],
        *given: P.args,
        **named: P.kwargs,
    ) -> bytes:
        """Let a key do one thing."""

        def perform() -> bytes:
            operation = choose(self._key(label).operations)
            if operation is None:
                raise UnsupportedError(f"key {label!r} is of a kind that does not do this")
            return operation(*given, **named)

        return self._session.run(lambda: self._told(label, perform))

    def _told(self, label: KeyLabel, perform: Callable[[], T]) -> T:
        """Say of refused bytes whose they are not."""
        try:
            return perform()
        except RefusedBytesError as error:
            raise BadCiphertextError(
                f"token {self.name!r}: these bytes are not of key {label!r}, or were changed"
                f" [{code_name(error.code)}]"
            ) from None

    def _spelled(self, algorithm_name: str) -> tuple[Algorithm, Spelling]:
        """The registry's row of an algorithm that the token has, and how it is spelled there."""
        if missing := self.lacking(algorithm_name):
            raise UnsupportedError(
                f"token {self.name!r} makes no {algorithm_name!r} keys: it lacks"
                f" {', '.join(missing)}"
            )
        row = algorithm(algorithm_name)
        spelling = spelling_of(self.profile, row)
        if spelling is None:
            raise UnsupportedError(f"token {self.name!r} makes no {row.name} keys")
        return row, spelling

    def _need_transfer(self) -> None:
        if Capability.TRANSFER not in self.capabilities:
            raise UnsupportedError(f"token {self.name!r} makes and moves no transferable keys")

    def _verified(
        self, label: KeyLabel, key: int, public: int | None, *, transferable: bool
    ) -> KeyAttributes:
        """Attributes of a new key; a key that is not as it was asked for does not live on."""
        token = self._session.calls
        made = objects.attributes_of(token, key, self.profile)
        if not (made.transferable() if transferable else made.held()):
            for handle in (key, public):
                if handle is not None:
                    token.destroy(handle)
            raise TokenFailureError(
                f"token {self.name!r} made {label!r} with attributes that would let it leave"
                f" ({made}); the key was destroyed"
            )
        return made

    def _refuse_taken(self, label: KeyLabel) -> None:
        if objects.secrets_labelled(self._session.calls, label):
            raise TokenFailureError(
                f"token {self.name!r} holds a key called {label!r} already; choose another label"
            )

    def _wrapping(self, label: KeyLabel) -> transfer.TrustedKey:
        found = self._key(label).found
        spelling = spelling_of(self.profile, found.row)
        if spelling is None:
            raise UnsupportedError(f"key {label!r} does not wrap")
        return transfer.trusted_key(self._session.calls, found, spelling)

    def _key(self, label: KeyLabel) -> _Key:
        """A private or secret key: searched once (a search scans the whole token)."""
        known = self._keys.get(label)
        if known is not None:
            return known
        token = self._session.calls
        handles = objects.secrets_labelled(token, label)
        if not handles:
            raise NoSuchKey(repr(label))
        if len(handles) > 1:
            raise MultipleObjectsReturned(repr(label))
        found, spelling = objects.read(token, handles[0], self.profile)
        made = _Key(found, prepared(token, found.handle, found.row, spelling))
        self._keys[label] = made
        return made

    def _forget(self) -> None:
        """Handles are void once the session is."""
        self._keys.clear()
