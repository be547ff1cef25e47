"""Why a handshake fails, as OpenSSL gives the reason: both ends of TLS in memory, no network."""

import ssl
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from kms.api.tls import ServerTls
from tests.support.api import TENANT, Site
from tests.support.tls_site import device_certificate, key_pem, pem, real_site, server_certificate

pytestmark = pytest.mark.anyio


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Site]:
    async with real_site(tmp_path) as site:
        yield site


def shake(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """A whole handshake.

    Raises:
        ssl.SSLError: As the server sees it, which it says once the client has been told.
    """
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(to_client, to_server, server_hostname="127.0.0.1")
    answering = server.wrap_bio(to_server, to_client, server_side=True)
    told: ssl.SSLError | None = None
    for _ in range(4):
        for side in (asking, answering):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError as error:
                if side is answering:
                    raise
                told = error
    assert told is None, "the client gave up"
    return asking, answering


async def server_of(made: Site, folder: Path) -> ServerTls:
    await server_certificate(made, folder)
    anchor = made.services.core.authorities["infrastructure"].record.certificate
    return ServerTls(folder / "server.pem", folder / "server.key", anchor)


def client_with(
    made: Site, folder: Path, ders: list[bytes], key: ec.EllipticCurvePrivateKey | None
) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    root = made.services.core.authorities["root"].record.certificate
    context.load_verify_locations(cadata=pem(root).decode())
    if key is not None:
        (folder / "client.pem").write_bytes(b"".join(map(pem, ders)))
        (folder / "client.key").write_bytes(key_pem(key))
        context.load_cert_chain(folder / "client.pem", folder / "client.key")
    return context


async def verdict(made: Site, folder: Path, ders: list[bytes], key: object) -> str:
    assert key is None or isinstance(key, ec.EllipticCurvePrivateKey)
    tls = await server_of(made, folder)
    with pytest.raises(ssl.SSLError) as refused:
        shake(tls.context, client_with(made, folder, ders, key))
    return str(refused.value)


def authority(made: Site, name: str) -> bytes:
    return made.services.core.authorities[name].record.certificate


async def test_a_registered_client_passes_and_is_known_by_its_certificate(
    made: Site, tmp_path: Path
):
    tls = await server_of(made, tmp_path)
    client = made.clients["messenger"]
    asking, answering = shake(tls.context, client_with(made, tmp_path, [client.der], client.key))
    assert answering.getpeercert(binary_form=True) == client.der
    assert asking.version() == "TLSv1.3"


async def test_none(made: Site, tmp_path: Path):
    assert "peer did not return a certificate" in await verdict(made, tmp_path, [], None)


async def test_a_device_of_the_same_root(made: Site, tmp_path: Path):
    der, key = await device_certificate(made)
    chain = [der, authority(made, "people"), authority(made, "root")]
    for sent in (chain[:1], chain[:2], chain):
        assert "certificate verify failed" in await verdict(made, tmp_path, sent, key)


async def test_a_server_certificate_of_the_same_authority(made: Site, tmp_path: Path):
    der = await server_certificate(made, tmp_path)
    key = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    key.load_verify_locations(cadata=pem(authority(made, "root")).decode())
    key.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    tls = await server_of(made, tmp_path)
    with pytest.raises(ssl.SSLError, match="unsuitable certificate purpose"):
        shake(tls.context, key)
    assert x509.load_der_x509_certificate(der)


async def test_an_expired_one(tmp_path: Path):
    age = timedelta(days=400)
    async with real_site(tmp_path, age) as made:
        old = made.clients["messenger"]
        made.world.clock.moment += age
        assert "expired" in await verdict(made, tmp_path, [old.der], old.key)


async def test_one_that_is_not_yet_valid(made: Site, tmp_path: Path):
    clock = made.world.clock
    now = clock.moment
    clock.moment = now + timedelta(days=2)
    young = await made.certify(TENANT, "messenger")
    clock.moment = now
    assert "not yet valid" in await verdict(made, tmp_path, [young.der], young.key)


async def test_tls_1_2_at_most(made: Site, tmp_path: Path):
    tls = await server_of(made, tmp_path)
    client = made.clients["messenger"]
    context = client_with(made, tmp_path, [client.der], client.key)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match=r"(?i)unsupported.protocol"):
        shake(tls.context, context)
