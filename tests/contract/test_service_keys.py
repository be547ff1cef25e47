"""One suite for every `ServiceKeys`: the process behind its socket, and the keyring in process."""

import asyncio
import hashlib
import os
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hsm_drivers import frames
from hsm_drivers.client import SignerClient
from hsm_drivers.errors import (
    BadCiphertextError,
    HsmError,
    KeyNotFoundError,
    StatementRefusedError,
    UnsupportedError,
)
from hsm_drivers.inprocess import InProcessSigner
from hsm_drivers.operations import (
    Decapsulate,
    Decrypt,
    Encrypt,
    MakeMac,
    NewDataKey,
    Rewrap,
    SignDigest,
    SignMessage,
    UnwrapKey,
    VerifyMac,
    WrapKey,
)
from hsm_drivers.ports import Operation, ServiceKeys
from hsm_drivers.service.keyring import ServiceLimits
from hsm_drivers.software import SoftwareDriver
from hsm_drivers.state import SignerState
from policies.decisions import Protection
from tests.support.service_keys import (
    answers,
    diffie_hellman,
    encapsulated,
    label,
    spec,
)
from tests.support.signer import CA, CA_SPEC, CHECKERS, start
from tests.support.softhsm import SoftHsm

Scenario = Callable[[ServiceKeys], Awaitable[None]]
Play = Callable[[Scenario], None]
TOKEN, WRAPPED = Protection.TOKEN, Protection.WRAPPED


@pytest.fixture(params=["in process", "process"])
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Play]:
    """Runs a scenario against a signer in service, which destroys keys without delay."""
    if request.param == "in process":
        limits = ServiceLimits(timedelta(0))
        with SignerState(tmp_path / "state") as state:
            signer = InProcessSigner(
                SoftwareDriver(), CHECKERS, state, ceremony=False, limits=limits
            )

            async def direct(scenario: Scenario) -> None:
                await scenario(signer)

            yield lambda scenario: asyncio.run(direct(scenario))
        return
    token: SoftHsm = request.getfixturevalue("softhsm")
    process = start(tmp_path / "signer", token, ceremony=False, destruction_days=0)

    async def connected(scenario: Scenario) -> None:
        client = SignerClient(process.socket)
        try:
            await scenario(client)
        finally:
            await client.aclose()

    yield lambda scenario: asyncio.run(connected(scenario))
    assert process.stop() == 0


def test_encryption_macs_and_wrapping(play: Play) -> None:
    async def scenario(signer: ServiceKeys) -> None:
        gcm = (await signer.generate(spec(1, "AES-256-GCM"))).label
        new = (await signer.generate(spec(2, "AES-256-GCM"))).label
        mac = (await signer.generate(spec(3, "HMAC-SHA-256"))).label
        kwp = (await signer.generate(spec(4, "AES-256-KWP"))).label
        (sealed,), (made,), (wrapped,), (kept, plain) = answers(
            await signer.use(
                [
                    Encrypt(gcm, b"text", b"data"),
                    MakeMac(mac, b"message"),
                    WrapKey(kwp, b"a key of 21 bytes ..."),
                    NewDataKey(gcm, 32, b"data", True),
                ]
            )
        )
        (moved,) = answers(await signer.use([Rewrap(gcm, sealed, b"data", new, b"new")]))[0]
        good = await signer.use(
            [
                Decrypt(gcm, sealed, b"data"),
                Decrypt(new, moved, b"new"),
                Decrypt(gcm, kept, b"data"),
                VerifyMac(mac, b"message", made),
                UnwrapKey(kwp, wrapped),
            ]
        )
        assert good == [(b"text",), (b"text",), (plain,), (b"\x01",), (b"a key of 21 bytes ...",)]
        bad = await signer.use(
            [
                Decrypt(new, sealed, b"data"),
                Decrypt(gcm, sealed, b"else"),
                Decrypt(gcm, sealed[:-1] + bytes([sealed[-1] ^ 1]), b"data"),
                UnwrapKey(kwp, wrapped[:-1] + bytes([wrapped[-1] ^ 1])),
                UnwrapKey(kwp, wrapped + bytes(8)),
            ]
        )
        assert [type(outcome) for outcome in bad] == [BadCiphertextError] * 5
        assert await signer.use([VerifyMac(mac, b"massage", made)]) == [(b"",)]
        assert good == await signer.use(
            [
                Decrypt(gcm, sealed, b"data"),
                Decrypt(new, moved, b"new"),
                Decrypt(gcm, kept, b"data"),
                VerifyMac(mac, b"message", made),
                UnwrapKey(kwp, wrapped),
            ]
        ), "what was refused broke nothing"

    play(scenario)


def test_signatures(play: Play) -> None:
    async def scenario(signer: ServiceKeys) -> None:
        record = await signer.generate(spec(1, "ECDSA-P256"))
        digest = hashlib.sha256(b"large").digest()
        (one,), (two,) = answers(
            await signer.use(
                [SignMessage(record.label, b"large"), SignDigest(record.label, digest)]
            )
        )
        public = load_der_public_key(record.public_key)
        for signature in (one, two):
            public.verify(signature, b"large", ec.ECDSA(hashes.SHA256()))

    play(scenario)


def test_wrapped_signing_keys(play: Play) -> None:
    async def scenario(signer: ServiceKeys) -> None:
        record = await signer.generate(spec(1, "ML-DSA-65", WRAPPED))
        assert record.protection is WRAPPED
        ((signature,),) = answers(await signer.use([SignMessage(record.label, b"m")]))
        load_der_public_key(record.public_key).verify(signature, b"m")
        assert isinstance((await signer.use([SignDigest(record.label, b"m" * 32)]))[0], HsmError)

    play(scenario)


@pytest.mark.parametrize("name", ["MLKEM768-X25519", "MLKEM768-P256", "MLKEM1024-P384"])
def test_hybrids_half_on_the_token(play: Play, name: str) -> None:
    async def scenario(signer: ServiceKeys) -> None:
        record = await signer.generate(spec(1, name, WRAPPED, TOKEN))
        made = [encapsulated(record) for _ in range(3)]
        batch = [Decapsulate(record.label, ciphertext) for ciphertext, _ in made]
        assert answers(await signer.use(batch)) == [(secret,) for _, secret in made]
        ciphertext, _ = made[0]
        wrong = [ciphertext[:-1], ciphertext + b"\0", ciphertext[:-32] + b"\xff" * 32, b""]
        outcomes = await signer.use([Decapsulate(record.label, item) for item in wrong])
        expected = [BadCiphertextError] * 4
        if name == "MLKEM768-X25519":
            expected[2] = tuple  # every 32 bytes are a point: the secret is another one
        assert [type(outcome) for outcome in outcomes] == expected
        assert answers(await signer.use(batch[:1])) == [(made[0][1],)]

    play(scenario)


@pytest.mark.parametrize("name", ["X25519", "ECDH-P256", "ECDH-P384"])
def test_diffie_hellman(play: Play, name: str) -> None:
    async def scenario(signer: ServiceKeys) -> None:
        record = await signer.generate(spec(1, name))
        sent = diffie_hellman(record)
        ((secret,),) = answers(await signer.use([Decapsulate(record.label, sent)]))
        assert len(secret) == {"X25519": 32, "ECDH-P256": 32, "ECDH-P384": 48}[name]
        off = bytes([4]) + b"\x01" * (len(sent) - 1) if name != "X25519" else bytes(32)
        (outcome,) = await signer.use([Decapsulate(record.label, off)])
        assert type(outcome) is BadCiphertextError

    play(scenario)


def test_a_life(play: Play) -> None:
    async def scenario(signer: ServiceKeys) -> None:
        record = await signer.generate(spec(1, "MLKEM768-X25519", WRAPPED, TOKEN))
        assert await signer.generate(spec(1, "MLKEM768-X25519", WRAPPED, TOKEN)) == record
        ciphertext, _ = encapsulated(record)
        await signer.generate(spec(2, "HMAC-SHA-512"))
        assert [key.label for key in await signer.keys()] == [label(1), label(2)]
        await signer.narrow(label(2), (Operation.VERIFY_MAC,))
        (refused,) = await signer.use([MakeMac(label(2), b"")])
        assert isinstance(refused, StatementRefusedError)
        with pytest.raises(StatementRefusedError):
            await signer.destroy(label(1))
        now = datetime.now(UTC)
        await signer.schedule_destruction(label(1), now)
        await signer.cancel_destruction(label(1))
        await signer.schedule_destruction(label(1), now)
        assert await signer.destroy(label(1)) == ("",)
        assert await signer.destroy(label(1)) == ("",)
        (gone,) = await signer.use([Decapsulate(label(1), ciphertext)])
        assert isinstance(gone, KeyNotFoundError)
        assert [key.label for key in await signer.keys()] == [label(2)]
        with pytest.raises(KeyNotFoundError):
            await signer.destroy(label(9))
        with pytest.raises(UnsupportedError, match="ceremony"):
            await signer.generate(CA_SPEC)
        with pytest.raises(KeyNotFoundError):
            await signer.destroy(CA)

    play(scenario)


def test_the_tokens_say_what_they_can(play: Play) -> None:
    async def scenario(signer: ServiceKeys) -> None:
        (status,) = await signer.tokens()
        assert (status.name, status.healthy) == ("", True)
        assert {"ECDSA-P256", "AES-256-GCM", "X25519"} <= set(status.algorithms)

    play(scenario)


def test_batches_larger_than_a_frame(play: Play) -> None:
    """In order, and with answers that are larger than what was asked."""

    async def scenario(signer: ServiceKeys) -> None:
        gcm = (await signer.generate(spec(1, "AES-256-GCM"))).label
        mac = (await signer.generate(spec(2, "HMAC-SHA-256"))).label
        texts = [os.urandom(700_000) for _ in range(frames.MAX_FRAME // 700_000 + 2)]
        sealed = answers(await signer.use([Encrypt(gcm, text, b"") for text in texts]))
        opened = await signer.use([Decrypt(gcm, item, b"") for (item,) in sealed])
        assert opened == [(text,) for text in texts]
        many = [MakeMac(mac, b"%d" % at) for at in range(frames.MAX_CALLS + 3)]
        made = answers(await signer.use(many))
        assert len(set(made)) == len(many)
        assert made[-1:] == answers(await signer.use(many[-1:]))

    play(scenario)


def test_what_fits_no_frame_is_its_own_error(tmp_path: Path, softhsm: SoftHsm) -> None:
    process = start(tmp_path / "signer", softhsm, ceremony=False)

    async def scenario() -> None:
        client = SignerClient(process.socket)
        mac = (await client.generate(spec(2, "HMAC-SHA-256"))).label
        outcomes = await client.use(
            [MakeMac(mac, b"1"), MakeMac(mac, bytes(frames.MAX_FRAME)), MakeMac(mac, b"1")]
        )
        await client.aclose()
        assert isinstance(outcomes[1], StatementRefusedError)
        assert outcomes[0] == outcomes[2]
        assert isinstance(outcomes[0], tuple)

    asyncio.run(scenario())
    assert process.stop() == 0


def test_keys_outlive_the_process(tmp_path: Path, softhsm: SoftHsm) -> None:
    """Killed and started again: the same keys, wrapped ones too, and no nonce a second time."""
    nonces: set[bytes] = set()

    async def scenario(number: int) -> None:
        client = SignerClient(process.socket)
        gcm = (await client.generate(spec(1, "AES-256-GCM"))).label
        slot = await client.generate(spec(2, "MLKEM768-X25519", WRAPPED, TOKEN))
        sealed = answers(await client.use([Encrypt(gcm, b"", b"")] * 50))
        nonces.update(item[:12] for (item,) in sealed)
        assert len(nonces) == 50 * (number + 1)
        ciphertext, secret = encapsulated(slot)
        assert answers(await client.use([Decapsulate(slot.label, ciphertext)])) == [(secret,)]
        await client.aclose()

    for number in range(3):
        process = start(tmp_path / "signer", softhsm, ceremony=False)
        asyncio.run(scenario(number))
        process.kill()
