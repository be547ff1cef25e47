"""The service of `tests.support.api` behind its real listeners, on loopback, in a thread."""

import asyncio
import concurrent.futures
import secrets
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar
from unittest.mock import patch

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from kms.api.server import Listener, run, serve
from kms.api.tls import ServerTls
from kms.domain.records import DeviceId, EnrolmentId, UserId
from kms.services.crls import SERVICE
from kms.services.enrolment_orders import EnrolmentOrder, SlotOrder
from kms.services.enrolment_proofs import ProofOrder
from kms.services.idempotency import call
from kms.wire import EnrolmentPurpose, sign_message, unb64
from pki.keys import infer_algorithm, parse_public_key
from policies.algorithms import Kind
from tests.support import services as support
from tests.support.api import Client, Site, site
from tests.support.services import SteppingClock, decoded

T = TypeVar("T")


def pem(der: bytes) -> bytes:
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@dataclass
class Running:
    """Listeners at work.

    Attributes:
        folder: `<client>.pem` with its chain, `<client>.key`, `trust.pem`.
        ports: By name of the listener.
    """

    folder: Path
    site: Site
    tls: ServerTls
    ports: dict[str, int]
    loop: asyncio.AbstractEventLoop
    stop: asyncio.Event
    thread: threading.Thread = field(default_factory=threading.Thread)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.ports['api']}"

    def do(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run something in the service's own loop."""

        async def now() -> T:
            return await work()

        return asyncio.run_coroutine_threadsafe(now(), self.loop).result(30)

    def certify(self, tenant: str, name: str, file: str | None = None) -> Client:
        """A fresh certificate for a registered principal, written to the folder."""
        client = self.do(lambda: self.site.certify(tenant, name))
        self.write(file or name, client.der, client.key)
        return client

    def write(self, name: str, der: bytes, key: ec.EllipticCurvePrivateKey) -> None:
        chains = self.site.services.core.authorities
        issuer = x509.load_der_x509_certificate(der).issuer
        chain = [
            item.record.certificate
            for item in chains.all()
            if x509.load_der_x509_certificate(item.record.certificate).subject == issuer
        ]
        (self.folder / f"{name}.pem").write_bytes(b"".join(map(pem, [der, *chain])))
        (self.folder / f"{name}.key").write_bytes(key_pem(key))

    def renew_server(self) -> bytes:
        """Another server certificate from now on; answers its DER."""
        der = self.do(lambda: server_certificate(self.site, self.folder))
        self.tls.replace(self.folder / "server.pem", self.folder / "server.key")
        return der


async def server_certificate(made: Site, folder: Path) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    public = parse_public_key(spki, infer_algorithm(spki, Kind.SIGNATURE))
    answer = await made.services.infrastructure.issue_for_server(
        call(SERVICE, "tls", secrets.token_hex(8), spki),
        public,
        ["localhost"],
        ["127.0.0.1"],
        timedelta(hours=72),
    )
    document = decoded(answer)
    chain = [unb64(document["certificate"]), unb64(document["chain"][0])]
    (folder / "server.pem").write_bytes(b"".join(map(pem, chain)))
    (folder / "server.key").write_bytes(key_pem(key))
    return chain[0]


async def device_certificate(made: Site) -> tuple[bytes, ec.EllipticCurvePrivateKey]:
    """A device whose key the test holds itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    order = EnrolmentOrder(
        UserId("ada"),
        DeviceId("phone"),
        "device-identity",
        EnrolmentPurpose.ENROL,
        (SlotOrder("identity", "ECDSA-P256", spki),),
    )
    answer = decoded(await made.services.orders.create(made.world.call("o", "d"), order))
    signature = key.sign(sign_message(unb64(answer["transcript"])), ec.ECDSA(hashes.SHA256()))
    proofs = ProofOrder(EnrolmentId(answer["enrolment"]), {"identity": signature})
    certified = decoded(await made.services.proofs.complete(made.world.call("p", "d"), proofs))
    return unb64(certified["certificates"][0]["certificate"]), key


@contextmanager
def running(
    folder: Path, *, drain_seconds: int = 10, age: timedelta = timedelta()
) -> Iterator[Running]:
    """Serve until the block ends; the world's clock shows the real time, or that of `age` ago."""
    born: concurrent.futures.Future[Running] = concurrent.futures.Future()
    thread = threading.Thread(target=lambda: run(_serve(folder, drain_seconds, age, born)))
    thread.start()
    try:
        made = born.result(30)
        made.thread = thread
        yield made
        made.loop.call_soon_threadsafe(made.stop.set)
    finally:
        thread.join(30)


async def _serve(
    folder: Path,
    drain_seconds: int,
    age: timedelta,
    born: "concurrent.futures.Future[Running]",
) -> None:
    try:
        async with real_site(folder, age) as made:
            await _listen(made, folder, drain_seconds, born)
    except BaseException as error:
        if not born.done():
            born.set_exception(error)
        raise


@asynccontextmanager
async def real_site(folder: Path, age: timedelta = timedelta()) -> AsyncIterator[Site]:
    """A site whose world began `age` ago, for TLS libraries look at the real clock."""
    clock = SteppingClock(datetime.now(UTC).replace(microsecond=0) - age)
    async with AsyncExitStack() as stack:
        with patch.object(support, "SteppingClock", lambda _start: clock):
            made = await stack.enter_async_context(site(folder / "site"))
        yield made


async def _listen(
    made: Site, folder: Path, drain_seconds: int, born: "concurrent.futures.Future[Running]"
) -> None:
    await server_certificate(made, folder)
    authorities = made.services.core.authorities
    (folder / "trust.pem").write_bytes(pem(authorities["root"].record.certificate))
    anchor = authorities["infrastructure"].record.certificate
    tls = ServerTls(folder / "server.pem", folder / "server.key", anchor)
    stop = asyncio.Event()
    ready = Running(folder, made, tls, {}, asyncio.get_running_loop(), stop)
    for client in list(made.clients.values()):
        ready.write(client.name, client.der, client.key)

    def is_ready(ports: dict[str, int]) -> None:
        ready.ports = ports
        born.set_result(ready)

    listeners = [
        Listener("api", made.api, "127.0.0.1", 0, tls=tls.context),
        Listener("public", made.public, "127.0.0.1", 0),
        Listener("operator", made.operator, "127.0.0.1", 0, last=True),
    ]
    await serve(listeners, stop, ready=is_ready, drain_seconds=drain_seconds)
