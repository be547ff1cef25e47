"""The ports of the key boundary: what a token can do, and what the signer signs.

A *driver* (`hsm_drivers.pkcs11`, `hsm_drivers.software`) implements `KeyStore`, `MessageSigner`,
`Rng`, `Wrapper` and `Kem` in process, each as far as its capability set goes. The *signer process*
owns one driver and offers `StatementSigner` over a Unix socket: it signs whole statements for a
purpose, checked against the key's record, never bare digests.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NewType, Protocol

from hsm_drivers.errors import HsmError
from policies import key_life
from policies.decisions import Protection

if TYPE_CHECKING:
    from hsm_drivers.operations import ServiceCall  # which stands on the names below

KeyLabel = NewType("KeyLabel", str)
"""A key's name on its token and in its record, `[a-z0-9-]{1,64}`."""


class Capability(StrEnum):
    """What a driver can do; anything else is refused with `UnsupportedError`."""

    GENERATE = "generate"
    SIGN = "sign"
    RANDOM = "random"
    WRAP = "wrap"
    KEM = "kem"
    MAC = "mac"
    CIPHER = "cipher"
    TRANSFER = "transfer"


Operation = key_life.Operation
"""What a service key does for those whom the service lets use it; its record says which."""


class Purpose(StrEnum):
    """What a statement is; a key's record says which purposes it serves."""

    CERTIFICATE = "certificate"
    CRL = "crl"
    CHECKPOINT = "checkpoint"
    COSIGNATURE = "cosignature"


@dataclass(frozen=True, slots=True)
class KeyAttributes:
    """A private key's attributes as read back from the token after generation (PKCS#11 4.9)."""

    local: bool
    sensitive: bool
    always_sensitive: bool
    extractable: bool
    never_extractable: bool
    private: bool
    on_token: bool
    sign: bool
    wrap_with_trusted: bool = False

    def transferable(self) -> bool:
        """Born on a token, and leaving it under a trusted wrapping key alone."""
        return self.sensitive and self.extractable and self.wrap_with_trusted and self.on_token

    def held(self) -> bool:
        """Born on the token and never able to leave it."""
        return (
            self.local
            and self.sensitive
            and self.always_sensitive
            and self.never_extractable
            and self.on_token
            and not self.extractable
        )


@dataclass(frozen=True, slots=True)
class Component:
    """A part of a key that is held apart: of a hybrid each of its two, of others the whole.

    Attributes:
        algorithm: Registry name.
        protection: TOKEN, TRANSFERABLE, or WRAPPED under a key-encryption key of the token.
    """

    algorithm: str
    protection: Protection


@dataclass(frozen=True, slots=True)
class KeySpec:
    """What is asked of the tokens: by a ceremony, or by the service for a key of its clients.

    A key has `purposes` and signs statements, or has `operations` and serves clients, never both:
    whoever could have foreign bytes signed with an authority's key could make certificates.

    Attributes:
        label: Name of the key.
        algorithm: Registry name.
        purposes: Statements the key may sign.
        constraints: Per purpose, what its checker needs (JSON values only); fixed for good.
        ceremony_only: Purposes that a signer serves in ceremony mode alone.
        operations: What a service key does.
        token: Name of the token in the configuration; empty for the service's own.
        components: How each part is held; empty for one part that is held by the token.
    """

    label: KeyLabel
    algorithm: str
    purposes: tuple[Purpose, ...]
    constraints: Mapping[Purpose, Mapping[str, Any]]
    ceremony_only: tuple[Purpose, ...] = ()
    operations: tuple[Operation, ...] = ()
    token: str = ""
    components: tuple[Component, ...] = ()


class Replication(StrEnum):
    """How a key came to a further token."""

    MAKER = "maker"
    """By the maker's own backup or clone; what we know is that the public key is the same."""
    TRANSFER = "transfer"
    """Wrapped under a trusted key that both tokens hold."""


@dataclass(frozen=True, slots=True)
class Replica:
    """A further token that holds the key, under the same label.

    Attributes:
        token: Its name in the configuration.
        key_id: CKA_ID there, in hex.
        attributes: As read back there.
        added: RFC 3339 UTC.
    """

    token: str
    key_id: str
    how: Replication
    attributes: KeyAttributes
    added: str


@dataclass(frozen=True, slots=True)
class HeldComponent:
    """A part of a key as it was made.

    Attributes:
        label: Name of its object on the token; of a wrapped one, of the key that wraps it.
        public_key: Raw bytes, as they stand in the whole key's SPKI.
        wrapped: Private key wrapped (RFC 5649), for protection WRAPPED; else empty.
        attributes: As read back from the token; None for WRAPPED.
    """

    algorithm: str
    protection: Protection
    label: KeyLabel
    public_key: bytes
    wrapped: bytes = field(default=b"", repr=False)
    attributes: KeyAttributes | None = None


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key as it was made; kept by the signer, outside the worker's reach.

    Attributes:
        key_id: CKA_ID in hex, random.
        public_key: SubjectPublicKeyInfo, DER; empty for a secret key.
        protection: The weakest of its components'.
        attributes: As read back from the token.
        token: Label of the token that it was born on.
        created: RFC 3339 UTC.
        operations: What a service key does; empty for a key that signs statements.
        home: Name of that token in the configuration; empty for the service's own.
        components: Of a key held in parts or wrapped; else empty.
        replicas: Further tokens that hold it.
        destroys: RFC 3339 UTC; from when on the signer may destroy a service key; empty for one
            that is to stay. Told with what `keys` answers, not kept in the record.
    """

    label: KeyLabel
    key_id: str
    algorithm: str
    purposes: tuple[Purpose, ...]
    constraints: Mapping[Purpose, Mapping[str, Any]]
    protection: Protection
    public_key: bytes
    attributes: KeyAttributes
    token: str
    created: str
    ceremony_only: tuple[Purpose, ...] = ()
    operations: tuple[Operation, ...] = ()
    home: str = ""
    components: tuple[HeldComponent, ...] = ()
    replicas: tuple[Replica, ...] = ()
    destroys: str = ""

    @property
    def places(self) -> tuple[str, ...]:
        """Names of the tokens that hold it, its home first."""
        if not self.replicas:  # asked for every call
            return (self.home,)
        return (self.home, *(replica.token for replica in self.replicas))


@dataclass(frozen=True, slots=True)
class Statement:
    """One whole message to sign.

    Attributes:
        message: TBSCertificate, TBSCertList, the checkpoint's note text, or what a cosigner signs
            of it, exact bytes.
        evidence: What the checker needs beyond the message: for a checkpoint, the consistency
            proof from the signer's remembered head (concatenated 32-byte hashes); else empty.
    """

    key: KeyLabel
    purpose: Purpose
    message: bytes
    evidence: bytes = b""


@dataclass(frozen=True, slots=True)
class Head:
    """A log head the signer has signed: it remembers the last one per origin."""

    origin: str
    size: int
    root: bytes


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One released or about-to-be-released signature.

    Attributes:
        counter: Position in the journal, from 1, without gaps.
        digest: SHA-256 of the statement's message.
        reference: What the checker says the statement is: a serial in hex, a CRL number, a size.
        time: By the signer's clock, Unix seconds; 0 in entries from before times were kept.
    """

    counter: int
    key: KeyLabel
    purpose: Purpose
    digest: bytes
    reference: str
    time: int = 0


@dataclass(frozen=True, slots=True)
class JournalSeal:
    """The signer's word for what its journal holds: with it a copy cannot be shortened or changed.

    Attributes:
        key: The log key that signed.
        entries: How many the journal had.
        sha256: Digest of these entries, as they stand in the file.
        text: What was signed: these two and the time, see `docs/wire-format.md`; no statement.
    """

    key: KeyLabel
    entries: int
    sha256: bytes
    text: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class KeyRate:
    """How far a key is from the most that it may sign.

    Attributes:
        per_hour: The most that it may sign at once, and in every hour after that.
        left: What it may sign now.
        refused: Statements refused because nothing was left, since the signer started.
    """

    key: KeyLabel
    purpose: Purpose
    per_hour: int
    left: int
    refused: int


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """What the signer does for clients' keys.

    Attributes:
        keys: How many serve.
        scheduled: How many of them may be destroyed once their time has come.
        unfinished: Labels of those that were not made whole and wait for their token to be undone.
        keys_per_hour: The most that are made at once, and in every hour after that.
        keys_left: What may be made now.
        calls: Operation, calls, and how many of them failed, since the signer started.
    """

    keys: int = 0
    unfinished: tuple[KeyLabel, ...] = ()
    keys_per_hour: int = 0
    keys_left: int = 0
    calls: tuple[tuple[Operation, int, int], ...] = ()
    scheduled: int = 0


@dataclass(frozen=True, slots=True)
class TokenStatus:
    """One token of the estate, as the signer sees it now.

    Attributes:
        name: In the configuration; empty for the service's own.
        label: CKA_LABEL.
        healthy: Whether calls go to it.
        detail: Why not, or that it answers, as a sentence.
        capabilities: What it can do.
        algorithms: Registry names of what keys can be made on it.
        processes: Token processes that serve it now; 0 where the signer holds it itself.
    """

    name: str
    label: str
    healthy: bool
    detail: str
    capabilities: frozenset[Capability]
    algorithms: tuple[str, ...]
    processes: int = 0


@dataclass(frozen=True, slots=True)
class SignerHealth:
    """State of the signer and its token, measured by a round trip to the token.

    Attributes:
        ready: Whether the token answers and holds the recorded keys.
        detail: The same as a sentence.
        counter: Entries in the journal.
        heads: Last head signed, per log origin.
        lacking: What recorded keys need and the token does not offer, a sentence each.
        crl_numbers: Label and last CRL number of each key that signed one.
        rates: Of the keys that were used since the signer started.
        journal_writes: Batches journalled since the signer started.
        journal_seconds: How long those took altogether, until they were on disk.
        service: Of service keys.
        tokens: All of the estate, the service's own first.
    """

    token: str
    ready: bool
    detail: str
    counter: int
    heads: tuple[Head, ...] = field(default=())
    lacking: tuple[str, ...] = field(default=())
    crl_numbers: tuple[tuple[str, int], ...] = field(default=())
    rates: tuple[KeyRate, ...] = field(default=())
    journal_writes: int = field(default=0)
    journal_seconds: float = field(default=0.0)
    service: ServiceStatus = ServiceStatus()
    tokens: tuple[TokenStatus, ...] = field(default=())


class MessageSigner(Protocol):
    """A driver's signing operation."""

    def sign(self, label: KeyLabel, message: bytes) -> bytes:
        """Sign the whole message; ECDSA as DER, others raw.

        Raises:
            HsmError: As its subclasses say.
        """
        ...

    def sign_digest(self, label: KeyLabel, digest: bytes) -> bytes:
        """Sign a digest of the algorithm's own hash, for schemes that sign digests (ECDSA).

        Raises:
            UnsupportedError: The scheme signs whole messages only, or the size is not the hash's.
        """
        ...


class KeyStore(Protocol):
    """A driver's keys."""

    def generate(
        self, label: KeyLabel, algorithm: str, *, transferable: bool = False
    ) -> tuple[str, bytes, KeyAttributes]:
        """Make a key on the token; answer CKA_ID (hex), SPKI DER and read-back attributes.

        The SPKI of a secret key is empty. A transferable key may leave the token under a trusted
        wrapping key; any other never.

        Raises:
            UnsupportedError: The token lacks the algorithm.
            TokenFailureError: The label is taken, or the attributes came back wrong.
        """
        ...

    def destroy(self, label: KeyLabel) -> None:
        """Destroy a key, public half included, and look that it is gone.

        Raises:
            KeyNotFoundError: No such key.
            TokenFailureError: It is still there.
        """
        ...

    def labels(self, only: KeyLabel | None = None) -> Sequence[KeyLabel]:
        """Labels of the private and secret keys on the token: all, or this one as often as it is.

        To ask for one that is not there costs no more than to look, unlike `attributes`, which
        opens the token anew before it says so.
        """
        ...

    def attributes(self, label: KeyLabel) -> KeyAttributes:
        """Attributes of a private key, read now.

        Raises:
            KeyNotFoundError: No such key.
        """
        ...

    def public_key(self, label: KeyLabel) -> bytes:
        """SPKI DER of a key, read now."""
        ...


class Rng(Protocol):
    """A driver's random numbers."""

    def random(self, size: int) -> bytes:
        """Random bytes made on the token."""
        ...


class Wrapper(Protocol):
    """A driver's key wrapping under a key that never leaves it (RFC 5649)."""

    def wrap(self, label: KeyLabel, plaintext: bytes) -> bytes:
        """Wrap bytes under the named key-encryption key."""
        ...

    def unwrap(self, label: KeyLabel, ciphertext: bytes) -> bytes:
        """Undo `wrap`.

        Raises:
            BadCiphertextError: The ciphertext is not one of this key.
        """
        ...


class Kem(Protocol):
    """A driver's decapsulation."""

    def decapsulate(self, label: KeyLabel, ciphertext: bytes) -> bytes:
        """Shared secret of the ciphertext under the named key; for ECDH of the sender's point.

        Raises:
            BadCiphertextError: Not a ciphertext of this algorithm (a wrong size, no point).
        """
        ...


class Mac(Protocol):
    """A driver's message authentication (FIPS 198-1)."""

    def mac(self, label: KeyLabel, message: bytes) -> bytes:
        """HMAC of the message, whole length."""
        ...


class Cipher(Protocol):
    """A driver's authenticated encryption (SP 800-38D)."""

    def encrypt(self, label: KeyLabel, nonce: bytes, plaintext: bytes, associated: bytes) -> bytes:
        """Ciphertext and 16-byte tag; the caller answers for the 12-byte nonce being fresh."""
        ...

    def decrypt(self, label: KeyLabel, nonce: bytes, ciphertext: bytes, associated: bytes) -> bytes:
        """Undo `encrypt`.

        Raises:
            BadCiphertextError: Ciphertext, nonce, associated data and key do not belong together.
        """
        ...


class Transfer(Protocol):
    """A driver's way of moving transferable keys between tokens that share a trusted key."""

    def export_key(self, label: KeyLabel, trusted: KeyLabel) -> bytes:
        """The key wrapped under the trusted key (RFC 5649).

        Raises:
            UnsupportedError: The key is not transferable, or the other not trusted.
        """
        ...

    def import_key(
        self, label: KeyLabel, algorithm: str, trusted: KeyLabel, wrapped: bytes, public_key: bytes
    ) -> tuple[str, KeyAttributes]:
        """Unwrap a key under its label; answer CKA_ID (hex) and read-back attributes.

        Args:
            label: As on the token that it came from.
            algorithm: Registry name.
            trusted: The wrapping key on this token.
            wrapped: What `export_key` gave.
            public_key: SPKI DER; empty for a secret key.
        """
        ...


class Driver(KeyStore, MessageSigner, Rng, Wrapper, Kem, Mac, Cipher, Transfer, Protocol):
    """A whole token as one object; what it cannot do it refuses with `UnsupportedError`."""

    @property
    def name(self) -> str:
        """Token label, for records and messages."""
        ...

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What this token can do."""
        ...

    @property
    def algorithms(self) -> tuple[str, ...]:
        """Registry names of what keys can be made for on this token."""
        ...

    def lacking(self, algorithm: str) -> tuple[str, ...]:
        """Mechanisms that keys of this algorithm need and the token does not offer."""
        ...

    def close(self) -> None:
        """Log out and let the token go."""
        ...


@dataclass(frozen=True, slots=True)
class CheckContext:
    """What a checker is told besides record and statement: the signer's own knowledge.

    Attributes:
        now: The signer's clock, aware; never the worker's.
        head: For a checkpoint, the last head signed for its origin, else None.
    """

    now: datetime
    head: Head | None = None


class StatementChecker(Protocol):
    """Judges one kind of statement against its key's record; pure; injected by bootstrap."""

    def __call__(self, record: KeyRecord, statement: Statement, context: CheckContext) -> "Checked":
        """Accept or refuse.

        Args:
            record: The key's record.
            statement: What is to be signed.
            context: What the signer knows.

        Raises:
            StatementRefusedError: With the sentence that says why.
        """
        ...


@dataclass(frozen=True, slots=True)
class Checked:
    """A checker's acceptance.

    Attributes:
        reference: For the journal; a CRL's is its number in decimal.
        head: The new head, for a checkpoint; for a cosignature the head that it is of.
    """

    reference: str
    head: Head | None = None


class StatementSigner(Protocol):
    """The signer process as its clients see it."""

    async def sign(self, statements: Sequence[Statement]) -> list[bytes | HsmError]:
        """Sign a batch; each answer is a signature or the error of that statement, in order.

        Raises:
            TokenUnavailableError: The signer could not be reached; nothing is known of the batch.
        """
        ...

    async def keys(self) -> list[KeyRecord]:
        """Records of all keys."""
        ...

    async def attributes(self, label: KeyLabel) -> KeyAttributes:
        """A key's attributes, read from the token now."""
        ...

    async def journal(self, after: int, limit: int) -> list[JournalEntry]:
        """Journal entries with a counter above `after`, oldest first."""
        ...

    async def health(self) -> SignerHealth:
        """A round trip to the token."""
        ...

    async def generate(self, spec: KeySpec) -> KeyRecord:
        """Make a key and fix its record; only a signer in ceremony mode does.

        Raises:
            UnsupportedError: The signer is not in ceremony mode.
        """
        ...


class ServiceKeys(Protocol):
    """The signer as the services see it that work with clients' keys."""

    async def use(self, calls: Sequence["ServiceCall"]) -> list[tuple[bytes, ...] | HsmError]:
        """Make a batch of calls; an answer or the error of that call each, in order.

        Raises:
            TokenUnavailableError: The signer could not be reached.
        """
        ...

    async def generate(self, spec: KeySpec) -> KeyRecord:
        """Make a service key and fix its record; in service, too.

        Asked again with the same spec, it answers the record: the first answer may have got lost.

        Raises:
            StatementRefusedError: The label is not `s-<32 hex>-<number>` or was used before, or the
                algorithm does not do these operations.
            RateExceededError: Enough were made in this hour.
            UnsupportedError: The token lacks the algorithm, or a part is not held in that way.
        """
        ...

    async def keys(self) -> list[KeyRecord]:
        """Records of all keys, without wrapped private keys."""
        ...

    async def tokens(self) -> list[TokenStatus]:
        """The tokens of the estate, the service's own first."""
        ...

    async def narrow(self, label: KeyLabel, operations: Sequence[Operation]) -> None:
        """Take operations that protect from a key for good: only those named here remain.

        What undoes and checks stays as long as the key: whoever speaks for the service for a
        minute must not end the opening of all that was ever sealed.

        Raises:
            StatementRefusedError: One of them is not the key's now, or one that is left out undoes
                or checks.
        """
        ...

    async def schedule_destruction(self, label: KeyLabel, at: datetime) -> None:
        """Let a service key be destroyed from that moment on; not before the signer's own delay.

        Its clock and the caller's may differ by five minutes.

        Raises:
            StatementRefusedError: Too early, or not a service key.
        """
        ...

    async def cancel_destruction(self, label: KeyLabel) -> None:
        """Undo `schedule_destruction`, even begun, as long as nothing is destroyed.

        Raises:
            DestructionBegunError: The key, or a part of it on one of its tokens, is gone.
            TokenUnavailableError: It has begun, and a token that would show how far is away.
        """
        ...

    async def destroy(self, label: KeyLabel) -> tuple[str, ...]:
        """Destroy a key that is due on every token that holds it, and look that it is gone.

        Answers the tokens' names. Asking again for a key that is gone answers the same. Nothing is
        touched before all of its tokens have shown all of its parts.

        Raises:
            StatementRefusedError: It is not scheduled, not due by the signer's clock, or was due so
                long ago that the schedule has lapsed.
            TokenUnavailableError: One of its tokens is away.
            TokenFailureError: One of them does not hold it, so that nothing could be verified.
        """
        ...
