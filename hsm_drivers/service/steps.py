"""What each kind of service call does, step by step.

A step yields what it asks of tokens and is sent their answers. Secrets live in a step's local
variables: they are in no answer but the caller's, in no error and in no log.
"""

import hmac
from collections.abc import Callable, Generator, Sequence
from typing import Any

from hsm_drivers import kem
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
from hsm_drivers.errors import (
    BadCiphertextError,
    StatementRefusedError,
    UnsupportedError,
)
from hsm_drivers.making import held
from hsm_drivers.opened import Opened, opened
from hsm_drivers.operations import (
    NEEDED,
    Decapsulate,
    Decrypt,
    Encrypt,
    MakeMac,
    NewDataKey,
    OpenHpke,
    RandomBytes,
    Rewrap,
    ServiceCall,
    SignDigest,
    SignMessage,
    UnwrapContentKey,
    UnwrapKey,
    VerifyMac,
    WrapKey,
)
from hsm_drivers.ports import KeyLabel, KeyRecord, Operation
from hsm_drivers.service.nonces import NONCE_SIZE, PREFIX_SIZE, Nonces
from hsm_drivers.service.store import ServiceStore
from hsm_drivers.tokens import Job
from hsm_drivers.wrapping import framed, unframed
from policies.algorithms import algorithm

Asking = Generator[tuple[Job, ...], tuple[bytes, ...], Any]
"""Yields what it asks of tokens and is sent their answers; its value is what it is for."""
_Answer = Generator[tuple[Job, ...], tuple[bytes, ...], tuple[bytes, ...]]
_Bytes = Generator[tuple[Job, ...], tuple[bytes, ...], bytes]

_TAG_SIZE = 16
_DATA_KEY_SIZES = range(16, 65)
_MOST_RANDOM = 4096


class Steps:
    """The calls of one batch."""

    def __init__(self, store: ServiceStore, nonces: Nonces, keys: Opened) -> None:
        """Take the parts.

        Args:
            store: Which keys there are, and what they may do.
            nonces: Of the process.
            keys: The wrapped parts of the batch's keys, opened.
        """
        self._store = store
        self._nonces = nonces
        self._keys = keys
        self._permitted: dict[tuple[KeyLabel, Operation], KeyRecord] = {}

    def of(self, call: ServiceCall) -> _Answer:
        """The steps of a call; their value is its answer.

        Raises:
            KeyNotFoundError: No such service key.
            StatementRefusedError: It does not do this.
        """
        if isinstance(call, RandomBytes):
            return self.random(call)
        record = self._record(call.key, NEEDED[type(call)])
        return _STEPS[type(call)](self, record, call)

    def _record(self, key: KeyLabel, operation: Operation) -> KeyRecord:
        found = self._permitted.get((key, operation))
        if found is None:
            found = self._store.held(key).record
            if operation not in found.operations:
                raise StatementRefusedError(
                    f"service key {key!r} does not {operation}, or no longer"
                )
            self._permitted[key, operation] = found
        return found

    def sign(self, record: KeyRecord, call: SignMessage) -> _Answer:
        """A signature by the token, or by the key that it opened."""
        return tuple((yield from self._parts(record, SignCall, [call.message])))

    def sign_digest(self, record: KeyRecord, call: SignDigest) -> _Answer:
        """A signature of a digest."""
        if record.components:
            raise UnsupportedError(f"{record.algorithm} signs whole messages only")
        return (yield _job(record, SignDigestCall(record.label, call.digest)))

    def mac(self, record: KeyRecord, call: MakeMac) -> _Answer:
        """The MAC."""
        return (yield _job(record, MacCall(record.label, call.message)))

    def verify_mac(self, record: KeyRecord, call: VerifyMac) -> _Answer:
        """Made again and compared in constant time; it is not shown."""
        (right,) = yield _job(record, MacCall(record.label, call.message))
        return (b"\x01" if hmac.compare_digest(right, call.mac) else b"",)

    def encrypt(self, record: KeyRecord, call: Encrypt) -> _Answer:
        """Under a nonce of our own."""
        return ((yield from self._seal(record, call.plaintext, call.associated)),)

    def decrypt(self, record: KeyRecord, call: Decrypt) -> _Answer:
        """What `encrypt` made."""
        return ((yield from self._open(record, call.sealed, call.associated)),)

    def rewrap(self, record: KeyRecord, call: Rewrap) -> _Answer:
        """Opened under one key and sealed under another; the plaintext stays here."""
        into = self._record(call.into, Operation.ENCRYPT)
        plaintext = yield from self._open(record, call.sealed, call.associated)
        return ((yield from self._seal(into, plaintext, call.into_associated)),)

    def data_key(self, record: KeyRecord, call: NewDataKey) -> _Answer:
        """Random bytes of the token, sealed."""
        if call.size not in _DATA_KEY_SIZES:
            raise UnsupportedError(
                f"a data key has {_DATA_KEY_SIZES[0]} to {_DATA_KEY_SIZES[-1]} bytes, not"
                f" {call.size}"
            )
        plain = yield from _random(record, call.size)
        sealed = yield from self._seal(record, plain, call.associated)
        return (sealed, plain) if call.plain else (sealed,)

    def random(self, call: RandomBytes) -> _Answer:
        """Of the service's own token, which is always there."""
        if not 0 < call.size <= _MOST_RANDOM:
            raise UnsupportedError(f"1 to {_MOST_RANDOM} random bytes at once, not {call.size}")
        return (yield (Job(("",), RandomCall(KeyLabel(""), call.size)),))

    def wrap(self, record: KeyRecord, call: WrapKey) -> _Answer:
        """RFC 5649, of a block that says how long the bytes are."""
        return (yield _job(record, WrapCall(record.label, framed(call.plaintext))))

    def unwrap(self, record: KeyRecord, call: UnwrapKey) -> _Answer:
        """What `wrap` was given."""
        size = len(call.wrapped)
        if size < 16 or size % 8:
            raise BadCiphertextError(f"{size} bytes are nothing that was wrapped here")
        (block,) = yield _job(record, UnwrapCall(record.label, call.wrapped))
        return (unframed(block),)

    def decapsulate(self, record: KeyRecord, call: Decapsulate) -> _Answer:
        """The KEM's shared secret."""
        return ((yield from self._secret(record, call.ciphertext)),)

    def open_hpke(self, record: KeyRecord, call: OpenHpke) -> _Answer:
        """The message; the secret stays here."""
        secret = yield from self._secret(record, call.encapsulated)
        row = algorithm(record.algorithm)
        return (kem.open_hpke(row, secret, call.info, call.associated, call.ciphertext),)

    def unwrap_content_key(self, record: KeyRecord, call: UnwrapContentKey) -> _Answer:
        """The content-encryption key; the secret stays here."""
        secret = yield from self._secret(record, call.ciphertext)
        return (kem.unwrap_content_key(secret, call.kdf_info, call.wrapped),)

    def _secret(self, record: KeyRecord, ciphertext: bytes) -> _Bytes:
        """Of a hybrid both components, in one round."""
        row = algorithm(record.algorithm)
        sent = kem.split(row, ciphertext)
        secrets = yield from self._parts(record, DecapsulateCall, sent)
        public_keys = [part.public_key for part in held(record)]
        return kem.shared_secret(row, secrets, sent, public_keys)

    def _parts(
        self,
        record: KeyRecord,
        kind: Callable[[KeyLabel, bytes], TokenCall],
        inputs: Sequence[bytes],
    ) -> Generator[tuple[Job, ...], tuple[bytes, ...], list[bytes]]:
        """What each part of the key makes of its input: on its token, or here where it is open."""
        work = list(zip(held(record), inputs, strict=True))
        jobs = tuple(
            Job(record.places, kind(part.label, given)) for part, given in work if not part.wrapped
        )
        answers = iter((yield jobs) if jobs else ())
        return [
            opened(self._keys, part).operate(given) if part.wrapped else next(answers)
            for part, given in work
        ]

    def _seal(self, record: KeyRecord, plaintext: bytes, associated: bytes) -> _Bytes:
        """Nonce, ciphertext and tag."""
        key = record.label
        while self._nonces.wants_prefix(key):
            self._nonces.start(key, (yield from _random(record, PREFIX_SIZE)))
        nonce = self._nonces.take(key)
        (sealed,) = yield _job(record, EncryptCall(key, nonce, plaintext, associated))
        return nonce + sealed

    def _open(self, record: KeyRecord, sealed: bytes, associated: bytes) -> _Bytes:
        if len(sealed) < NONCE_SIZE + _TAG_SIZE:
            raise BadCiphertextError(f"{len(sealed)} bytes are nothing that was encrypted here")
        call = DecryptCall(record.label, sealed[:NONCE_SIZE], sealed[NONCE_SIZE:], associated)
        (plaintext,) = yield _job(record, call)
        return plaintext


def _job(record: KeyRecord, call: TokenCall) -> tuple[Job, ...]:
    return (Job(record.places, call),)


def _random(record: KeyRecord, size: int) -> _Bytes:
    (made,) = yield _job(record, RandomCall(KeyLabel(""), size))
    return made


_STEPS: dict[type[ServiceCall], Callable[[Steps, KeyRecord, Any], _Answer]] = {
    SignMessage: Steps.sign,
    SignDigest: Steps.sign_digest,
    MakeMac: Steps.mac,
    VerifyMac: Steps.verify_mac,
    Encrypt: Steps.encrypt,
    Decrypt: Steps.decrypt,
    Rewrap: Steps.rewrap,
    NewDataKey: Steps.data_key,
    WrapKey: Steps.wrap,
    UnwrapKey: Steps.unwrap,
    Decapsulate: Steps.decapsulate,
    OpenHpke: Steps.open_hpke,
    UnwrapContentKey: Steps.unwrap_content_key,
}
