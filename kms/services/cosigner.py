"""The log's own ML-DSA-44 cosigner (C2SP tlog-cosignature): who it is, and how it comes to be.

A quantum computer would forge the log's Ed25519 signatures, which witnesses demand; the cosignature
beside them it would not. The key is made in a ceremony, goes by the log's name, and signs the heads
that the log's key signs, no others.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hsm_drivers.ports import KeyLabel, Purpose, Statement
from kms.domain.key_records import Key, KeyVersion
from kms.domain.records import SYSTEM_TENANT, Epoch
from kms.services.errors import KmsError
from kms.services.ports import Ledger
from kms.tlog.checkpoint import Checkpoint
from kms.tlog.notes import KeyType, NoteSignature, VerifierKey, ml_dsa_cosigned

COSIGNER_PURPOSE = "log-cosigner"
"""What the ledger calls the key's purpose."""


@dataclass(frozen=True, slots=True)
class Cosigner:
    """The cosigner of one epoch.

    Attributes:
        key: Label of its key.
        vkey: Its verifier key, under the epoch's name.
        now: Clock of its signatures.
    """

    key: KeyLabel
    vkey: VerifierKey
    now: Callable[[], datetime] = field(repr=False, compare=False)

    def time(self) -> int:
        """The moment, Unix seconds."""
        return int(self.now().timestamp())

    def statement(self, checkpoint: Checkpoint, time: int) -> Statement:
        """What is to be signed at that time, Unix seconds."""
        message = ml_dsa_cosigned(checkpoint, time, self.vkey.name)
        return Statement(self.key, Purpose.COSIGNATURE, message)

    def line(self, signature: bytes, time: int) -> NoteSignature:
        """The note's line of a signature made of `statement`."""
        blob = time.to_bytes(8, "big") + signature
        return NoteSignature(self.vkey.name, self.vkey.key_id, blob)


def cosigner_vkey(origin: str, spki: bytes) -> VerifierKey:
    """The verifier key of a cosigner of that log.

    Raises:
        KmsError: It is no ML-DSA-44 key.
    """
    public = load_der_public_key(spki)
    if not isinstance(public, MLDSA44PublicKey):
        raise KmsError("the log's cosigner is an ML-DSA-44 key")
    return VerifierKey(origin, KeyType.ML_DSA_44_COSIGNATURE, public.public_bytes_raw())


def find_cosigner(ledger: Ledger, epoch: Epoch, now: Callable[[], datetime]) -> Cosigner | None:
    """The cosigner whose birth the ledger holds."""
    for key in ledger.find(Key, tenant=SYSTEM_TENANT, purpose=COSIGNER_PURPOSE):
        version = ledger.get(KeyVersion, SYSTEM_TENANT, key.key, 1)
        if version is not None:
            vkey = cosigner_vkey(epoch.origin, version.public_key)
            return Cosigner(KeyLabel(version.label), vkey, now)
    return None
