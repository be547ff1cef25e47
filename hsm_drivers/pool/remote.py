"""One token behind its processes, as a `ports.Driver`: for what concerns that token alone."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from hsm_drivers.calls import (
    DecapsulateCall,
    DecryptCall,
    EncryptCall,
    MacCall,
    RandomCall,
    SignCall,
    SignDigestCall,
    TokenCall,
    UnwrapCall,
    WrapCall,
)
from hsm_drivers.errors import HsmError, TokenUnavailableError
from hsm_drivers.pool import frames
from hsm_drivers.pool.link import next_number
from hsm_drivers.ports import Capability, KeyAttributes, KeyLabel
from hsm_drivers.tokens import Job, drained

if TYPE_CHECKING:
    from hsm_drivers.pool.tokens import PoolOfTokens

ANSWER_S = 30.0
"""How long reading or destroying a key may take."""
MAKING_S = 300.0
"""How long making one may take: RSA keys on small HSMs take minutes."""

_A = TypeVar("_A")


class RemoteDriver:
    """`ports.Driver` over a pool, bound to one token; nothing is made on another."""

    def __init__(self, pool: "PoolOfTokens", token: str, label: str) -> None:
        self._pool = pool
        self._token = token
        self._label = label

    @property
    def name(self) -> str:
        """As `ports.Driver`: CKA_LABEL, by the settings."""
        return self._label

    @property
    def capabilities(self) -> frozenset[Capability]:
        """As `ports.Driver`, as the token said last.

        Raises:
            TokenUnavailableError: It has said nothing yet.
        """
        return self._pool.described(self._token).capabilities

    @property
    def algorithms(self) -> tuple[str, ...]:
        """As `ports.Driver`, as the token said last.

        Raises:
            TokenUnavailableError: It has said nothing yet.
        """
        return self._pool.described(self._token).algorithms

    def lacking(self, algorithm: str) -> tuple[str, ...]:
        """As `ports.Driver.lacking`, as the token said last.

        Raises:
            TokenUnavailableError: It has said nothing yet.
        """
        return self._pool.described(self._token).lacking.get(algorithm, ("a driver that knows it",))

    def generate(
        self, label: KeyLabel, algorithm: str, *, transferable: bool = False
    ) -> tuple[str, bytes, KeyAttributes]:
        """As `ports.KeyStore.generate`; should the process die meanwhile, the key may be there."""
        request = frames.Generate(next_number(), label, algorithm, transferable)
        made = self._ask(request, frames.Generated, MAKING_S)
        return made.key_id, made.public_key, made.attributes

    def destroy(self, label: KeyLabel) -> None:
        """As `ports.KeyStore.destroy`."""
        self._ask(frames.Destroy(next_number(), label), frames.Done)

    def labels(self, only: KeyLabel | None = None) -> Sequence[KeyLabel]:
        """As `ports.KeyStore.labels`."""
        return self._ask(frames.Labels(next_number(), only), frames.Listed).labels

    def attributes(self, label: KeyLabel) -> KeyAttributes:
        """As `ports.KeyStore.attributes`."""
        return self._ask(frames.Attributes(next_number(), label), frames.Read).attributes

    def public_key(self, label: KeyLabel) -> bytes:
        """As `ports.KeyStore.public_key`."""
        found = self._ask(frames.Prove(next_number(), [label]), frames.Proved).public_keys[0]
        if isinstance(found, frames.Fault):
            raise found.raised()
        return found

    def export_key(self, label: KeyLabel, trusted: KeyLabel) -> bytes:
        """As `ports.Transfer.export_key`."""
        return self._ask(frames.Export(next_number(), label, trusted), frames.Done).value

    def import_key(
        self, label: KeyLabel, algorithm: str, trusted: KeyLabel, wrapped: bytes, public_key: bytes
    ) -> tuple[str, KeyAttributes]:
        """As `ports.Transfer.import_key`."""
        request = frames.Import(next_number(), label, algorithm, trusted, wrapped, public_key)
        made = self._ask(request, frames.Generated)
        return made.key_id, made.attributes

    def sign(self, label: KeyLabel, message: bytes) -> bytes:
        """As `ports.MessageSigner.sign`."""
        return self._make(SignCall(label, message))

    def sign_digest(self, label: KeyLabel, digest: bytes) -> bytes:
        """As `ports.MessageSigner.sign_digest`."""
        return self._make(SignDigestCall(label, digest))

    def random(self, size: int) -> bytes:
        """As `ports.Rng.random`."""
        return self._make(RandomCall(KeyLabel(""), size))

    def wrap(self, label: KeyLabel, plaintext: bytes) -> bytes:
        """As `ports.Wrapper.wrap`."""
        return self._make(WrapCall(label, plaintext))

    def unwrap(self, label: KeyLabel, ciphertext: bytes) -> bytes:
        """As `ports.Wrapper.unwrap`."""
        return self._make(UnwrapCall(label, ciphertext))

    def decapsulate(self, label: KeyLabel, ciphertext: bytes) -> bytes:
        """As `ports.Kem.decapsulate`."""
        return self._make(DecapsulateCall(label, ciphertext))

    def mac(self, label: KeyLabel, message: bytes) -> bytes:
        """As `ports.Mac.mac`."""
        return self._make(MacCall(label, message))

    def encrypt(self, label: KeyLabel, nonce: bytes, plaintext: bytes, associated: bytes) -> bytes:
        """As `ports.Cipher.encrypt`."""
        return self._make(EncryptCall(label, nonce, plaintext, associated))

    def decrypt(self, label: KeyLabel, nonce: bytes, ciphertext: bytes, associated: bytes) -> bytes:
        """As `ports.Cipher.decrypt`."""
        return self._make(DecryptCall(label, nonce, ciphertext, associated))

    def close(self) -> None:
        """Nothing of its own: the pool lets the token go."""

    def _make(self, call: TokenCall) -> bytes:
        (outcome,) = drained(self._pool.perform([Job((self._token,), call)]))
        if isinstance(outcome, HsmError):
            raise outcome
        return outcome

    def _ask(self, request: frames.Request, expected: type[_A], patience: float = ANSWER_S) -> _A:
        answer = self._pool.ask(self._token, request, patience)
        if not isinstance(answer, expected):
            raise TokenUnavailableError(f"token {self._label!r}: its process answers amiss")
        return answer
