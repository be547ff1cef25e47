"""Verifying the signatures of proofs: the largest single cost of an enrolment, so behind a port."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from kms.services.batching import breathe
from pki.errors import PkiError
from pki.keys import parse_public_key
from pki.possession import verify_signature
from policies.algorithms import algorithm


@dataclass(frozen=True, slots=True)
class SignatureCheck:
    """A signature that a device made.

    Attributes:
        algorithm: Registry name.
        spki: SubjectPublicKeyInfo DER of a key that was accepted before.
        message: What is signed.
        signature: As it came.
    """

    algorithm: str
    spki: bytes
    message: bytes
    signature: bytes


class SignatureVerifier(Protocol):
    """Verifies signatures, many at once."""

    async def verify(self, checks: Sequence[SignatureCheck]) -> list[str | None]:
        """Why each signature is refused, in order; None for one that is right.

        Raises:
            OverloadedError: Too many are waiting.
        """
        ...


def refusal(check: SignatureCheck) -> str | None:
    """Why the signature is refused; None if it is right. Pure."""
    try:
        key = parse_public_key(check.spki, algorithm(check.algorithm))
        verify_signature(key, check.message, check.signature)
    except PkiError as error:
        return str(error)
    return None


class InlineVerifier:
    """Verifies where it is called."""

    async def verify(self, checks: Sequence[SignatureCheck]) -> list[str | None]:
        """See `SignatureVerifier.verify`."""
        answers = []
        for at, check in enumerate(checks):
            answers.append(refusal(check))
            await breathe(at)
        return answers
