"""One suite for every `StatementSigner`: the process behind its socket, and the core in process."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hsm_drivers.client import SignerClient
from hsm_drivers.errors import (
    HsmError,
    KeyNotFoundError,
    StatementRefusedError,
    UnsupportedError,
)
from hsm_drivers.inprocess import InProcessSigner
from hsm_drivers.memory import MAX_CRL_STEP
from hsm_drivers.ports import (
    Component,
    KeyLabel,
    KeySpec,
    Purpose,
    Statement,
    StatementSigner,
)
from hsm_drivers.software import SoftwareDriver
from hsm_drivers.state import SignerState
from policies.decisions import Protection
from tests.support.signer import (
    CA,
    CA_SPEC,
    CHECKERS,
    LOG,
    LOG_SPEC,
    certificate,
    checkpoint,
    crl,
    start,
)
from tests.support.softhsm import SoftHsm

Scenario = Callable[[StatementSigner], Awaitable[None]]
Play = Callable[[Scenario], None]


@pytest.fixture(params=["in process", "process"])
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Play]:
    """Runs a scenario against a signer in ceremony mode."""
    if request.param == "in process":
        with SignerState(tmp_path / "state") as state:
            signer = InProcessSigner(SoftwareDriver(), CHECKERS, state)

            async def direct(scenario: Scenario) -> None:
                await scenario(signer)

            yield lambda scenario: asyncio.run(direct(scenario))
        return
    token: SoftHsm = request.getfixturevalue("softhsm")
    process = start(tmp_path / "signer", token)

    async def connected(scenario: Scenario) -> None:
        client = SignerClient(process.socket)
        try:
            await scenario(client)
        finally:
            await client.aclose()

    yield lambda scenario: asyncio.run(connected(scenario))
    assert process.stop() == 0


def refused(outcome: bytes | HsmError, kind: type[HsmError], says: str) -> None:
    assert isinstance(outcome, kind)
    assert says in str(outcome)


def test_a_record_is_what_the_ceremony_fixed(play: Play) -> None:
    async def scenario(signer: StatementSigner) -> None:
        spec = replace(LOG_SPEC, ceremony_only=(Purpose.CHECKPOINT,))
        made = await signer.generate(spec)
        assert made.label == LOG
        assert made.purposes == spec.purposes
        assert made.constraints == spec.constraints
        assert made.ceremony_only == spec.ceremony_only
        assert made.protection is Protection.TOKEN
        assert made.attributes.held()
        assert await signer.keys() == [made]
        assert await signer.attributes(LOG) == made.attributes

    play(scenario)


def test_a_batch_is_judged_statement_by_statement(play: Play) -> None:
    async def scenario(signer: StatementSigner) -> None:
        record = await signer.generate(CA_SPEC)
        await signer.generate(LOG_SPEC)
        batch = [
            certificate(b"good"),
            certificate(b"bad"),
            Statement(LOG, Purpose.CERTIFICATE, b"good"),
            Statement(KeyLabel("nobody"), Purpose.CERTIFICATE, b"good"),
            certificate(b"bug"),
            crl(b"1 good too"),
        ]
        first, bad, purpose, unknown, bug, last = await signer.sign(batch)
        refused(bad, StatementRefusedError, "bad")
        refused(purpose, StatementRefusedError, "'log' signs no certificate")
        refused(unknown, KeyNotFoundError, "'nobody'")
        refused(bug, StatementRefusedError, "could not be checked")
        key = load_der_public_key(record.public_key)
        assert isinstance(key, ec.EllipticCurvePublicKey)
        for signature, message in ((first, b"good"), (last, b"1 good too")):
            assert isinstance(signature, bytes)
            key.verify(signature, message, ec.ECDSA(hashes.SHA256()))

    play(scenario)


def test_only_what_was_accepted_is_journalled(play: Play) -> None:
    async def scenario(signer: StatementSigner) -> None:
        await signer.generate(CA_SPEC)
        await signer.sign([certificate(b"a"), certificate(b"bad"), certificate(b"b")])
        entries = await signer.journal(0, 100)
        assert [entry.counter for entry in entries] == [1, 2]
        assert {entry.key for entry in entries} == {CA}
        assert {entry.purpose for entry in entries} == {Purpose.CERTIFICATE}
        assert await signer.journal(1, 100) == entries[1:]
        assert await signer.journal(0, 1) == entries[:1]
        assert await signer.journal(2, 100) == []
        assert (await signer.health()).counter == 2

    play(scenario)


def test_an_empty_batch_is_nothing(play: Play) -> None:
    async def scenario(signer: StatementSigner) -> None:
        assert await signer.sign([]) == []
        assert await signer.journal(0, 10) == []

    play(scenario)


def test_a_log_never_shrinks_and_never_changes(play: Play) -> None:
    async def scenario(signer: StatementSigner) -> None:
        await signer.generate(LOG_SPEC)
        grown = await signer.sign([checkpoint(1), checkpoint(5), checkpoint(5)])
        assert all(isinstance(outcome, bytes) for outcome in grown)
        smaller, other, same, larger, smaller_again = await signer.sign(
            [checkpoint(4), checkpoint(5, b"x"), checkpoint(5), checkpoint(6), checkpoint(5)]
        )
        refused(smaller, StatementRefusedError, "never shrinks")
        refused(other, StatementRefusedError, "another root")
        assert isinstance(same, bytes)
        assert isinstance(larger, bytes)
        refused(smaller_again, StatementRefusedError, "never shrinks to 5")
        (head,) = (await signer.health()).heads
        assert (head.origin, head.size) == ("example.org/log/1", 6)

    play(scenario)


def test_epochs_are_remembered_apart(play: Play) -> None:
    async def scenario(signer: StatementSigner) -> None:
        await signer.generate(LOG_SPEC)
        second = "example.org/log/2"
        signed = await signer.sign([checkpoint(9), checkpoint(1, origin=second)])
        assert all(isinstance(outcome, bytes) for outcome in signed)
        assert {head.origin for head in (await signer.health()).heads} == {
            "example.org/log/1",
            second,
        }

    play(scenario)


def test_crl_numbers_only_go_up(play: Play) -> None:
    async def scenario(signer: StatementSigner) -> None:
        await signer.generate(CA_SPEC)
        other = (await signer.generate(replace(CA_SPEC, label=KeyLabel("other")))).label
        assert (await signer.health()).crl_numbers == ()
        first, third, replayed, changed, again = await signer.sign(
            [crl(b"1"), crl(b"3"), crl(b"1"), crl(b"3 but empty"), crl(b"3")]
        )
        assert isinstance(first, bytes)
        assert isinstance(third, bytes)
        refused(replayed, StatementRefusedError, "above it")
        refused(changed, StatementRefusedError, "above it")
        assert isinstance(again, bytes)
        far, next_one, elsewhere = await signer.sign(
            [crl(b"%d" % (3 + MAX_CRL_STEP + 1)), crl(b"%d" % (3 + MAX_CRL_STEP)), crl(b"1", other)]
        )
        refused(far, StatementRefusedError, "by at most")
        assert isinstance(next_one, bytes)
        assert isinstance(elsewhere, bytes)
        (octets,) = await signer.sign([crl(b"%d" % (1 << 158))])
        refused(octets, StatementRefusedError, "no CRL number")
        numbers = dict((await signer.health()).crl_numbers)
        assert numbers == {CA: 3 + MAX_CRL_STEP, other: 1}

    play(scenario)


def test_an_epoch_ends_when_the_next_begins(play: Play) -> None:
    async def scenario(signer: StatementSigner) -> None:
        await signer.generate(LOG_SPEC)
        other = (await signer.generate(replace(LOG_SPEC, label=KeyLabel("other")))).label
        second, foreign = "example.org/log/2", "example.com/log/1"
        elsewhere = replace(checkpoint(1, origin=foreign), key=other)
        outcomes = await signer.sign(
            [checkpoint(9), elsewhere, checkpoint(10), checkpoint(1, origin=second), checkpoint(11)]
        )
        assert all(isinstance(outcome, bytes) for outcome in outcomes[:4])
        refused(outcomes[4], StatementRefusedError, "ended when 'example.org/log/2' began")
        grown, same, after, apart = await signer.sign(
            [checkpoint(11), checkpoint(10), checkpoint(2, origin=second), elsewhere]
        )
        refused(grown, StatementRefusedError, "ended")
        refused(same, StatementRefusedError, "ended")
        assert isinstance(after, bytes)
        assert isinstance(apart, bytes)
        sizes = {head.origin: head.size for head in (await signer.health()).heads}
        assert sizes == {"example.org/log/1": 10, second: 2, foreign: 1}

    play(scenario)


@pytest.mark.parametrize("label", ["", "A", "a b", "x" * 65, "ä", "a\n", "../a"])
def test_malformed_labels_are_refused(play: Play, label: str) -> None:
    async def scenario(signer: StatementSigner) -> None:
        spec = KeySpec(KeyLabel(label), "Ed25519", (), {})
        with pytest.raises(StatementRefusedError, match="label"):
            await signer.generate(spec)
        assert await signer.keys() == []

    play(scenario)


def test_a_label_is_used_once(play: Play) -> None:
    async def scenario(signer: StatementSigner) -> None:
        made = await signer.generate(CA_SPEC)
        with pytest.raises(StatementRefusedError, match="never used again"):
            await signer.generate(CA_SPEC)
        assert await signer.keys() == [made]

    play(scenario)


def test_what_a_token_lacks_leaves_no_record(play: Play) -> None:
    async def scenario(signer: StatementSigner) -> None:
        with pytest.raises(UnsupportedError):
            await signer.generate(KeySpec(CA, "RSA-3072", (Purpose.CERTIFICATE,), {}))
        assert await signer.keys() == []
        with pytest.raises(KeyNotFoundError):
            await signer.attributes(CA)

    play(scenario)


def test_large_batches_keep_their_order(play: Play) -> None:
    """More than one frame of bytes, and one statement that fits no frame."""

    async def scenario(signer: StatementSigner) -> None:
        await signer.generate(CA_SPEC)
        batch = [certificate(bytes([number]) * 1_000_000) for number in range(12)]
        batch[5] = certificate(b"bad")
        outcomes = await signer.sign(batch)
        assert [isinstance(outcome, bytes) for outcome in outcomes] == [
            number != 5 for number in range(12)
        ]
        assert [entry.counter for entry in await signer.journal(0, 100)] == list(range(1, 12))

    play(scenario)


def test_health_is_a_round_trip(play: Play) -> None:
    async def scenario(signer: StatementSigner) -> None:
        await signer.generate(CA_SPEC)
        health = await signer.health()
        assert health.ready
        assert health.detail
        assert health.counter == 0
        assert health.heads == ()

    play(scenario)


WRAPPED_CA = KeySpec(
    KeyLabel("pq-ca"),
    "ML-DSA-65",
    (Purpose.CERTIFICATE, Purpose.CRL),
    {Purpose.CERTIFICATE: {}},
    components=(Component("ML-DSA-65", Protection.WRAPPED),),
)


def test_wrapped_authorities_sign_where_the_token_cannot(play: Play) -> None:
    async def scenario(signer: StatementSigner) -> None:
        record = await signer.generate(WRAPPED_CA)
        assert (record.protection, record.components[0].wrapped) == (Protection.WRAPPED, b"")
        assert record in await signer.keys()
        await signer.generate(CA_SPEC)
        batch = [replace(certificate(b"%d" % at), key=record.label) for at in range(3)]
        signatures = await signer.sign([*batch, certificate(), crl(b"1", record.label)])
        public = load_der_public_key(record.public_key)
        for statement, signature in zip(batch, signatures, strict=False):
            public.verify(signature, statement.message)
        public.verify(signatures[4], b"1")
        assert isinstance(signatures[3], bytes)
        health = await signer.health()
        assert (health.ready, health.lacking) == (True, ())
        assert await signer.attributes(record.label) == record.attributes
        assert not record.attributes.held()

    play(scenario)
