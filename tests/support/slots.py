"""KEM slots for tests: made, served, believed, sealed to and opened, over a service in memory."""

from dataclasses import dataclass
from typing import Any

from hsm_drivers.software.driver import SoftwareDriver
from kms.device.enrolment import Expectations
from kms.device.sealing import Recipient, seal_envelope, seal_message
from kms.device.slots import SlotVersion, verify_slot
from kms.domain.authorisation import Caller
from kms.domain.key_records import LogUses
from kms.domain.records import Epoch, Event, LogId
from kms.services.core import ROOT
from kms.services.errors import KmsError
from kms.services.keys.orders import KeyOrder, KeySettings
from kms.services.keys.verbs import Item
from kms.services.slots.verbs import OPEN
from kms.wire import unb64
from policies.key_life import KeyPurpose
from tests.support.services import DOMAIN, SERVER, TENANT, World, decoded

NAME = "archive-2026"
CONTEXT = b"room 7"
OBJECT = b"an object of the archive"


class ClassicalToken(SoftwareDriver):
    """A token like most: without anything post-quantum."""

    @property
    def algorithms(self) -> tuple[str, ...]:
        return tuple(name for name in super().algorithms if not name.startswith("ML-"))


@dataclass(frozen=True, slots=True)
class Slots:
    """What tests do with slots of a service."""

    made: World

    async def create(
        self, name: str = NAME, *, algorithm: str | None = None, who: Caller = SERVER, **days: int
    ) -> dict[str, Any]:
        settings = KeySettings(log_uses=LogUses.EVERY, **days)
        order = KeyOrder(name, KeyPurpose.KEM, "archive", algorithm, settings=settings)
        request = self.made.call("POST /v1/kem-slots", [name, algorithm], who=who)
        return decoded(await self.made.services.slots.orders.create(request, TENANT, order))

    async def rotate(self, name: str = NAME) -> dict[str, Any]:
        request = self.made.call(f"POST /v1/kem-slots/{name}/rotate", {})
        return decoded(await self.made.services.slots.orders.rotate(request, TENANT, name, None))

    async def document(self, name: str = NAME, who: Caller = SERVER) -> dict[str, Any]:
        return await self.made.services.slots.documents.public(who, TENANT, name)

    async def versions(self, name: str = NAME) -> tuple[SlotVersion, ...]:
        """As a device believes them."""
        document = await self.document(name)
        return verify_slot(document, name, self.expectations(), self.made.clock.now())

    async def recipient(self, name: str = NAME) -> Recipient:
        return (await self.versions(name))[0].recipient

    async def envelope(self, name: str = NAME) -> bytes:
        return seal_envelope([await self.recipient(name)], OBJECT, CONTEXT)

    async def message(self, name: str = NAME) -> bytes:
        return seal_message(await self.recipient(name), OBJECT, CONTEXT)

    async def open(
        self, *sealed: bytes, context: bytes = CONTEXT, name: str = NAME, who: Caller = SERVER
    ) -> list[dict[str, Any] | KmsError]:
        items = [Item(ciphertext=data, associated=context) for data in sealed]
        return await self.made.services.slots.use.run(who, TENANT, name, OPEN, items)

    async def opened(self, sealed: bytes, **options: Any) -> bytes:
        """The one plaintext; a refusal is raised."""
        (told,) = await self.open(sealed, **options)
        if isinstance(told, KmsError):
            raise told
        return unb64(told["plaintext"])

    async def upkeep(self, **forward: float) -> None:
        """Time passes, and what is due then is done."""
        self.made.clock.advance(**forward)
        await self.made.services.keys.upkeep.carry_out_due()

    def events(self, kind: str) -> list[bytes]:
        """Leaves of that type, oldest first."""
        found = self.made.ledger.find(Event, log=LogId(1), order=("log", "index"))
        return [item.leaf for item in found if item.type == kind]

    def expectations(self) -> Expectations:
        epoch = self.made.ledger.get(Epoch, LogId(1))
        assert epoch is not None
        root = self.made.services.core.authorities[ROOT].record.certificate
        return Expectations(TENANT, epoch.origin, "", epoch.vkey, root, DOMAIN)
