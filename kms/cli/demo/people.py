"""Users, their devices, and two requests that must be refused before everyone's eyes."""

from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from kms.cli.demo.errors import DemoError
from kms.device import Certified, Device, DeviceError, Expectations, MessagingServer, ProblemError

PROBLEM = "urn:sovereign-kms:problem:"
TENANT = "ministry"
REVOKED = "boris"
"""Who loses everything at once."""


@dataclass(frozen=True, slots=True)
class Owned:
    """A device that is to be certified; `kem` None makes it a bundle of identity alone."""

    user: str
    device: str
    identity: str
    kem: str | None = None

    @property
    def bundle(self) -> str:
        """The bundle profile that has these slots."""
        return "device-identity" if self.kem is None else "device"

    @property
    def slots(self) -> dict[str, str]:
        """Slot to algorithm."""
        return {"identity": self.identity} | ({} if self.kem is None else {"kem": self.kem})


SINGLE = (
    Owned("amina", "amina-phone", "ECDSA-P256", "MLKEM768-X25519"),
    Owned("boris", "boris-desktop", "ECDSA-P256"),
    Owned("chloe", "chloe-bot", "Ed25519"),
)
"""Certified one by one, two calls each."""

TOGETHER = (
    Owned("amina", "amina-laptop", "Ed25519", "MLKEM1024-P384"),
    Owned("boris", "boris-phone", "ML-DSA-65", "MLKEM768-X25519"),
    Owned("chloe", "chloe-phone", "ML-DSA-65", "MLKEM1024-P384"),
)
"""Certified together, two calls in all."""


@dataclass(frozen=True, slots=True)
class Enrolled:
    """A certified device and what it got."""

    owned: Owned
    certified: Certified


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that was refused, as it must be."""

    what: str
    type: str
    detail: str
    size_before: int
    size_after: int


def enrol_everyone(
    server: MessagingServer, expectations: Expectations, told: Callable[[str], None]
) -> list[Enrolled]:
    """Certify every device; each verifies what it gets before it counts.

    Raises:
        DemoError: A device was refused, or got what does not verify.
    """
    enrolled = []
    for owned in SINGLE:
        try:
            certified = server.enrol(_device(owned, expectations), owned.bundle)
        except DeviceError as error:
            raise DemoError(f"{owned.device} was not certified: {error}") from error
        enrolled.append(Enrolled(owned, certified))
        told(_line(owned, certified))
    devices = [_device(owned, expectations) for owned in TOGETHER]
    for owned, result in zip(TOGETHER, server.enrol_many(devices), strict=True):
        if isinstance(result, DeviceError):
            raise DemoError(f"{owned.device} was not certified: {result}") from result
        enrolled.append(Enrolled(owned, result))
        told(_line(owned, result))
    return enrolled


def refuse_classical_kem(
    server: MessagingServer, expectations: Expectations, log_size: Callable[[], int]
) -> Refusal:
    """A key that a quantum computer will break, alone where the policy wants a hybrid.

    Raises:
        DemoError: It was not refused as it must be.
    """
    weak = _device(Owned("amina", "amina-old-phone", "ECDSA-P256", "X25519"), expectations)
    return _refused(
        "X25519 alone in the kem slot",
        "algorithm-refused",
        lambda: server.post("/v1/enrolments", weak.request("device")),
        log_size,
    )


def refuse_private_key(
    server: MessagingServer, expectations: Expectations, log_size: Callable[[], int]
) -> Refusal:
    """A bundle that carries a private key (PKCS#8), which no service may ever see.

    Raises:
        DemoError: It was not refused as it must be.
    """
    device = _device(Owned("amina", "amina-careless", "ECDSA-P256"), expectations)
    body = device.request("device-identity")
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    body["slots"][0]["public_key"] = "".join(pem.splitlines()[1:-1])
    return _refused(
        "a private key (PKCS#8) in the identity slot",
        "private-key-material",
        lambda: server.post("/v1/enrolments", body),
        log_size,
    )


def _refused(
    what: str, expected: str, attempt: Callable[[], object], log_size: Callable[[], int]
) -> Refusal:
    before = log_size()
    try:
        attempt()
    except ProblemError as problem:
        refusal = Refusal(what, problem.type, problem.detail, before, log_size())
    else:
        raise DemoError(f"{what}: was accepted")
    if refusal.type != PROBLEM + expected:
        raise DemoError(f"{what}: refused as {refusal.type}, not as {PROBLEM}{expected}")
    if refusal.size_before != refusal.size_after:
        raise DemoError(f"{what}: the log grew from {before} to {refusal.size_after}")
    return refusal


def _device(owned: Owned, expectations: Expectations) -> Device:
    return Device(owned.user, owned.device, owned.slots, expectations)


def _line(owned: Owned, certified: Certified) -> str:
    slots = ", ".join(f"{slot}: {algorithm}" for slot, algorithm in owned.slots.items())
    return f"{owned.user:<6} {owned.device:<14} event {certified.index}   {slots}"
