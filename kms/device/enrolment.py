"""A device's side of an enrolment: ask, prove, and believe nothing that does not verify.

The device knows who it is, which keys it made and, through `Expectations`, whom it trusts. It
rebuilds the transcript from that and signs only its own copy (DESIGN section 5). No I/O here.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from kms import wire
from kms.device import answers, verification
from kms.device.errors import (
    ChallengeError,
    MalformedAnswerError,
    TranscriptMismatchError,
    UsageError,
)
from kms.device.keys import SlotKey
from kms.device.verification import Certified
from kms.tlog.notes import VerifierKey

_ENROLMENT = r"[A-Za-z0-9_-]{1,64}"
_POLICY = r"[0-9a-f]{64}"
_NONCE_SIZE = 32
_MAX_TRANSCRIPT = 65_536


@dataclass(frozen=True, slots=True)
class Expectations:
    """What a device was given out of band and measures every answer by.

    Attributes:
        tenant: Id of its ministry or agency.
        origin: Origin of the log, `<name>/<epoch>`.
        authority: SHA-256 (lower-case hex) of the certificate of the CA that certifies its bundle.
        log_vkey: Verifier key of the log (C2SP signed-note).
        cosigner_vkey: Verifier key of the log's cosigner: receipts must carry its signature. None
            where there is none, or it is not known; then its signature is passed over.
        root: The trusted root certificate, DER.
        domain: Identity domain that its certificates must name, `id.interior.example`; None takes
            any, if all certificates of an answer name the same.
    """

    tenant: str
    origin: str
    authority: str
    log_vkey: str
    root: bytes
    domain: str | None = None
    cosigner_vkey: str | None = None

    @classmethod
    def load(
        cls,
        tenant: str,
        root_pem: bytes,
        people_pem: bytes,
        log_vkey: str,
        domain: str | None = None,
        cosigner_vkey: str | None = None,
    ) -> "Expectations":
        """From the files an operator hands out: `ca/root.pem`, `ca/people.pem`, `log.vkey`.

        `people_pem` is the certificate of the authority that certifies the device's bundle; of a
        log with a cosigner there is `log-cosigner.vkey`, too.

        Raises:
            ValueError: A file is not what it should be.
            TlogError: The verifier key does not parse.
        """
        people = x509.load_pem_x509_certificate(people_pem).public_bytes(Encoding.DER)
        root = x509.load_pem_x509_certificate(root_pem).public_bytes(Encoding.DER)
        vkey = log_vkey.strip()
        origin = VerifierKey.parse(vkey).name
        authority = hashlib.sha256(people).hexdigest()
        if cosigner_vkey is not None:
            cosigner_vkey = VerifierKey.parse(cosigner_vkey.strip()).text()
        return cls(tenant, origin, authority, vkey, root, domain, cosigner_vkey)


class Device:
    """One device of one user, holding one key per slot.

    Call `request`, `prove` and `accept` in this order with the server's answers in between;
    `MessagingServer.enrol` does all of it. `request` may be called again to start over.
    """

    def __init__(
        self,
        user: str,
        device: str,
        slots: Mapping[str, str],
        expectations: Expectations,
        *,
        renews: str | None = None,
    ) -> None:
        """Generate the keys.

        Args:
            user: User id.
            device: Device id.
            slots: Slot name to algorithm name, in the order they are sent.
            expectations: Whom to believe.
            renews: SHA-256 (hex) of the identity certificate that this enrolment follows; None
                for a device that is not known yet. Keys are new either way.

        Raises:
            UsageError: An id has not the documented form, or an algorithm is unknown.
        """
        if not wire.is_user(user) or not wire.is_device(device):
            raise UsageError(f"not a user and device id: {user!r}, {device!r}")
        self.user = user
        self.device = device
        self.expectations = expectations
        self.renews = renews
        self.keys = {name: SlotKey.generate(algorithm) for name, algorithm in slots.items()}
        self._bundle: str | None = None
        self._transcript: wire.Transcript | None = None

    def __repr__(self) -> str:
        slots = ", ".join(f"{name}: {key.algorithm}" for name, key in self.keys.items())
        return f"<Device {self.device} of {self.user}, {slots}>"

    @property
    def _purpose(self) -> wire.EnrolmentPurpose:
        enrolling = self.renews is None
        return wire.EnrolmentPurpose.ENROL if enrolling else wire.EnrolmentPurpose.RENEW

    def request(self, bundle: str) -> dict[str, Any]:
        """Body of `POST /v1/enrolments`.

        Args:
            bundle: Bundle profile, `device` for example.
        """
        self._bundle, self._transcript = bundle, None
        return {
            "user": self.user,
            "device": self.device,
            "bundle": bundle,
            "purpose": self._purpose.value,
            "slots": [
                {
                    "name": name,
                    "algorithm": key.algorithm,
                    "public_key": wire.b64(key.public_key),
                }
                for name, key in self.keys.items()
            ],
        }

    def prove(self, answer: object) -> dict[str, Any]:
        """Body of `POST /v1/enrolments/{id}/proofs`.

        Args:
            answer: The parsed answer to `request`.

        Raises:
            MalformedAnswerError: It is not of the documented shape.
            TranscriptMismatchError: It is about something else than was asked for.
            ChallengeError: A challenge is missing, superfluous or does not open.
            UsageError: `request` was not called.
        """
        sent = answers.binary(answer, "transcript")
        transcript = self._rebuild(answer, sent)
        if transcript.encode() != sent:
            raise TranscriptMismatchError(_differences(transcript.encode(), sent))
        challenges = answers.mapping(answer, "challenges")
        expected = {name for name, key in self.keys.items() if key.takes_challenge}
        if set(challenges) != expected:
            raise ChallengeError(
                f"challenges for {sorted(challenges)}, but the KEM slots are {sorted(expected)}"
            )
        proofs = {
            name: wire.b64(
                key.prove(
                    name,
                    transcript.encode(),
                    answers.binary(challenges, name) if key.takes_challenge else b"",
                )
            )
            for name, key in self.keys.items()
        }
        self._transcript = transcript
        return {"proofs": proofs}

    def accept(self, answer: object) -> Certified:
        """Verify what was issued and logged; only what this returns may be used.

        Args:
            answer: The parsed answer to the proofs.

        Raises:
            MalformedAnswerError: It is not of the documented shape.
            UntrustedAnswerError: Certificates, leaf, receipt or openings do not verify.
            UsageError: `prove` was not called.
        """
        if self._transcript is None:
            raise UsageError("nothing was proven yet: call prove first")
        expected = self.expectations
        return verification.verify(
            answer,
            self._transcript,
            expected.log_vkey,
            expected.root,
            expected.domain,
            expected.cosigner_vkey,
        )

    def _rebuild(self, answer: object, sent: bytes) -> wire.Transcript:
        """The transcript as it must be.

        The server's own: nonce, expiry, policy, id, and the order of the slots, which is the
        bundle profile's.
        """
        if self._bundle is None:
            raise UsageError("nothing was asked for yet: call request first")
        document = _parse(sent)
        nonce = answers.binary(document, "nonce")
        if len(nonce) != _NONCE_SIZE:
            raise MalformedAnswerError(f"the nonce has {len(nonce)} bytes, not {_NONCE_SIZE}")
        try:
            expires = wire.parse_timestamp(answers.text(answer, "expires"))
        except wire.WireError as error:
            raise MalformedAnswerError(f"'expires' of the answer: {error}") from error
        return wire.Transcript(
            origin=self.expectations.origin,
            authority=self.expectations.authority,
            tenant=self.expectations.tenant,
            enrolment=answers.text(answer, "enrolment", _ENROLMENT),
            purpose=self._purpose,
            user=self.user,
            device=self.device,
            bundle=self._bundle,
            policy=answers.text(answers.mapping(answer, "policy"), "hash", _POLICY),
            nonce=nonce,
            expires=expires,
            slots=tuple(
                wire.TranscriptSlot(name, self.keys[name].algorithm, self.keys[name].public_key)
                for name in self._order(document)
            ),
            previous=self.renews,
        )

    def _order(self, document: object) -> list[str]:
        """Names of all slots, each once, as the server's transcript orders them."""
        slots = answers.listing(document, "slots", at_most=len(self.keys))
        names = [answers.text(slot, "name") for slot in slots]
        if sorted(names) != sorted(self.keys):
            raise TranscriptMismatchError(("slots",))
        return names


def _parse(transcript: bytes) -> object:
    """The transcript as JSON, to read the nonce and to name differences; never to be signed."""
    if len(transcript) > _MAX_TRANSCRIPT:
        raise MalformedAnswerError(f"a transcript of {len(transcript)} bytes is too long")
    try:
        return json.loads(transcript)
    except (ValueError, RecursionError) as error:
        raise MalformedAnswerError("the transcript is not JSON") from error


def _differences(ours: bytes, theirs: bytes) -> tuple[str, ...]:
    """Members that differ."""
    mine, other = _parse(ours), _parse(theirs)
    if not isinstance(mine, dict) or not isinstance(other, dict):
        return ()
    return tuple(
        sorted(
            name
            for name in mine.keys() | other.keys()
            if name not in mine or name not in other or mine[name] != other[name]
        )
    )
