"""Purely post-quantum authorities and the log's cosigner: use cases over the twin of a token."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtensionOID

from hsm_drivers.errors import HsmError, StatementRefusedError, TokenFailureError
from hsm_drivers.ports import Purpose, Statement
from kms.device import Certified, Device, Expectations, UntrustedAnswerError
from kms.domain.authorisation import Caller
from kms.domain.records import (
    SYSTEM_TENANT,
    Authority,
    Certificate,
    Crl,
    DeviceId,
    Epoch,
    Event,
    Reason,
    Role,
)
from kms.services.ceremony import Ceremony
from kms.services.ceremony_plan import CosignerPlan, Plan, load_further
from kms.services.cosigner import find_cosigner
from kms.services.epochs import continue_log, find_loss, open_next_epoch
from kms.services.errors import (
    AlgorithmRefusedError,
    KmsError,
    ProofFailedError,
    SignerUnavailableError,
    StateError,
    UnknownBundleError,
)
from kms.services.founded import read_founded
from kms.services.keys.specs import make_cosigner
from kms.storage.memory import MemoryLedger
from kms.tlog.checkpoint import Checkpoint
from kms.tlog.notes import VerifierKey, parse_note, verify_note
from pki import der
from pki.structure import read_certificate, split
from policies.algorithms import algorithm
from policies.policy import shipped
from tests.support.faulty_signer import Fault, FaultySigner, Signer
from tests.support.flow import order_of, proofs_of
from tests.support.services import TENANT, World, build_core, decoded, world

pytestmark = pytest.mark.anyio

AUTHORITIES = b"[authorities.people-pq-3]\n[authorities.people-pq-5]\n"
PLAN = b"[cosigner]\n" + AUTHORITIES
POLICY = shipped("post-quantum-2026")
BUNDLES = {
    "device": {"identity": "ECDSA-P256", "kem": "MLKEM768-X25519"},
    "device-pq-3": {"identity-pq-3": "ML-DSA-65", "kem-pq-3": "ML-KEM-768"},
    "device-pq-5": {"identity-pq-5": "ML-DSA-87", "kem-pq-5": "ML-KEM-1024"},
}
CALLER = Caller(TENANT, "messenger", Role.MESSAGING_SERVER, tuple(BUNDLES))


def expectations(made: World, bundle: str, cosigner: str | None = None) -> Expectations:
    certificate = made.report.certificates[bundle.replace("device", "people")]
    return Expectations(
        tenant=TENANT,
        origin=made.report.origin,
        authority=hashlib.sha256(certificate).hexdigest(),
        log_vkey=made.report.vkey,
        root=made.report.certificates["root"],
        cosigner_vkey=cosigner,
    )


async def order(made: World, device: Device, bundle: str) -> dict[str, Any]:
    body = device.request(bundle)
    request = made.call("orders", body, who=CALLER)
    return decoded(await made.services.orders.create(request, order_of(body)))


async def prove(made: World, device: Device, answer: dict[str, Any]) -> dict[str, Any]:
    proofs = proofs_of(answer["enrolment"], device.prove(answer))
    request = made.call("proofs", answer["enrolment"], who=CALLER)
    return decoded(await made.services.proofs.complete(request, proofs))


async def enrol(made: World, bundle: str, **changes: Any) -> Certified:
    cosigner = made.report.cosigner_vkey
    device = Device(
        "ada", f"of-{bundle}", BUNDLES[bundle], expectations(made, bundle, cosigner), **changes
    )
    return device.accept(await prove(made, device, await order(made, device, bundle)))


# --- what is certified ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bundle", "ca"), [("device-pq-3", "ML-DSA-65"), ("device-pq-5", "ML-DSA-87")]
)
async def test_a_bundle_is_certified_by_its_own_authority(tmp_path: Path, bundle: str, ca: str):
    """As RFC 9881 and RFC 9935 have it: no parameters, and the only key usages there are."""
    name, identifier = bundle.replace("device", "people"), algorithm(ca).oid
    async with world(tmp_path, policy=POLICY, plan=PLAN) as made:
        certified = await enrol(made, bundle)
        identity, kem = certified.certificates
        assert certified.chain[0] == made.report.certificates[name]
        for item, usage in ((identity, "digital_signature"), (kem, "key_encipherment")):
            signed = split(item.certificate)
            assert signed.algorithm == der.sequence(der.oid(identifier))
            assert len(signed.signature) == algorithm(ca).signature_size
            parsed = x509.load_der_x509_certificate(item.certificate)
            assert usages(parsed) == {usage}
            assert places(parsed) == [f"/pki/{name}.crl", f"/pki/{name}.cer"]
            found = made.ledger.find(Certificate, authority=name, serial=item.serial)
            assert [record.slot for record in found] == [item.slot]
            tbs, _ = read_certificate(item.certificate)
            key = algorithm(BUNDLES[bundle][item.slot])
            assert tbs.spki[4:].startswith(der.sequence(der.oid(key.oid)))


def usages(certificate: x509.Certificate) -> set[str]:
    found = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment")
    names += ("key_agreement", "key_cert_sign", "crl_sign")
    return {name for name in names if getattr(found, name)}


def places(certificate: x509.Certificate) -> list[str]:
    extensions = certificate.extensions
    points = extensions.get_extension_for_oid(ExtensionOID.CRL_DISTRIBUTION_POINTS).value
    access = extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    (issuer,) = access
    assert issuer.access_method == AuthorityInformationAccessOID.CA_ISSUERS
    urls = [points[0].full_name[0].value, issuer.access_location.value]
    return [str(url).removeprefix("http://pki.authority.example") for url in urls]


async def test_a_device_moves_to_a_post_quantum_bundle_by_renewal(tmp_path: Path):
    """And is revoked on the lists of every authority that certified it."""
    async with world(tmp_path, policy=POLICY, plan=PLAN) as made:
        first = await enrol(made, "device")
        follows = hashlib.sha256(first.certificates[0].certificate).hexdigest()
        device = Device(
            "ada",
            "of-device",
            BUNDLES["device-pq-3"],
            expectations(made, "device-pq-3"),
            renews=follows,
        )
        made.clock.advance(seconds=1)
        moved = device.accept(await prove(made, device, await order(made, device, "device-pq-3")))
        newest = hashlib.sha256(moved.certificates[0].certificate).hexdigest()
        again = Device(
            "ada", "of-device", BUNDLES["device"], expectations(made, "device"), renews=newest
        )
        await order(made, again, "device")
        again.prove(await order(made, again, "device"))
        request = made.call("revoke", "of-device", who=CALLER)
        revoke = made.services.revocation.device
        await revoke(request, TENANT, DeviceId("of-device"), Reason.KEY_COMPROMISE)
        wanted = [made.services.crls_wanted.get_nowait() for _ in range(2)]
        assert sorted(wanted) == ["people", "people-pq-3"]
        for name in wanted:
            await made.services.crls.publish(name)
        for name, entries in (("people", 2), ("people-pq-3", 2), ("people-pq-5", 0)):
            published = made.services.crls.published(name)
            assert published is not None
            assert published.entries == entries
            crl = x509.load_der_x509_crl(published.der)
            ca = x509.load_der_x509_certificate(made.report.certificates[name])
            assert crl.is_signature_valid(ca.public_key())  # type: ignore[arg-type]  # ML-DSA, too


# --- what is refused ------------------------------------------------------------------------------

REFUSED = [
    ("device-pq-3", "identity-pq-3", "ECDSA-P256"),
    ("device-pq-3", "kem-pq-3", "MLKEM768-X25519"),
    ("device-pq-3", "kem-pq-3", "X25519"),
    ("device-pq-5", "identity-pq-5", "ML-DSA-65"),
    ("device-pq-5", "kem-pq-5", "ML-KEM-768"),
    ("device", "kem", "ML-KEM-768"),
]


async def test_keys_of_another_kind_or_category_are_refused(tmp_path: Path):
    async with world(tmp_path, policy=POLICY, plan=PLAN) as made:
        for bundle, slot, name in REFUSED:
            slots = {**BUNDLES[bundle], slot: name}
            device = Device("eve", "phone", slots, expectations(made, bundle))
            with pytest.raises(AlgorithmRefusedError, match="no rule allows"):
                await order(made, device, bundle)


async def test_the_default_policy_refuses_pure_bundles(tmp_path: Path):
    """Its authorities may be post-quantum; what is sealed to devices stays hybrid."""
    async with world(tmp_path, plan=AUTHORITIES) as made:
        device = Device("eve", "phone", BUNDLES["device-pq-3"], expectations(made, "device-pq-3"))
        with pytest.raises(AlgorithmRefusedError):
            await order(made, device, "device-pq-3")


async def test_a_bundle_without_its_authority_is_unknown(tmp_path: Path):
    async with world(tmp_path, policy=POLICY) as made:
        device = Device("eve", "phone", BUNDLES["device-pq-3"], expectations(made, "device"))
        with pytest.raises(UnknownBundleError, match="people-pq-3") as caught:
            await order(made, device, "device-pq-3")
        assert caught.value.field == "bundle"


@pytest.mark.parametrize("slot", ["identity-pq-3", "kem-pq-3"])
async def test_every_key_of_a_bundle_is_proven(tmp_path: Path, slot: str):
    async with world(tmp_path, policy=POLICY, plan=PLAN) as made:
        bundle = "device-pq-3"
        device = Device("eve", "phone", BUNDLES[bundle], expectations(made, bundle))
        answer = await order(made, device, bundle)
        good = proofs_of(answer["enrolment"], device.prove(answer))
        wrong = bytes([good.proofs[slot][0] ^ 1]) + good.proofs[slot][1:]
        bad = replace(good, proofs={**good.proofs, slot: wrong})
        before = made.ledger.head()
        with pytest.raises(ProofFailedError) as caught:
            await made.services.proofs.complete(made.call("p", 1, who=CALLER), bad)
        assert caught.value.field == f"proofs.{slot}"
        assert made.ledger.head() == before


async def test_wrapped_keys_need_a_policy_that_permits_them(tmp_path: Path):
    plans = [
        b'[cosigner]\nprotection = "wrapped"\n',
        b'[authorities.people-pq-3]\nprotection = "wrapped"\n',
    ]
    for at, plan in enumerate(plans):
        with pytest.raises(AlgorithmRefusedError, match="protection wrapped"):
            async with world(tmp_path / str(at), plan=plan):
                pass


async def test_wrapped_authorities_sign_like_others(tmp_path: Path):
    plan = PLAN.replace(b"]\n", b']\nprotection = "wrapped"\n')
    async with world(tmp_path, policy=POLICY, plan=plan) as made:
        held = {str(key.label): key.protection.value for key in made.report.keys}
        assert held["people-pq-3-1"] == held["log-cosigner-1"] == "wrapped"
        assert held["people-1"] == held["log-1"] == "token"
        await enrol(made, "device-pq-3")


# --- the cosigner ---------------------------------------------------------------------------------


async def test_every_head_since_its_birth_is_cosigned(tmp_path: Path):
    async with world(tmp_path, policy=POLICY, plan=PLAN) as made:
        certified = await enrol(made, "device")
        vkey = VerifierKey.parse(made.report.cosigner_vkey or "")
        assert vkey.name == made.report.origin
        for note in (made.report.checkpoint, made.services.lookup.checkpoint()):
            parsed = parse_note(note)
            assert len(parsed.signatures) == 2
            assert verify_note(parsed, [vkey]) == [vkey.name]
            assert verify_note(parsed, made.keys) == [vkey.name]
        stripped = "".join(certified.receipt.splitlines(keepends=True)[:-1])
        assert vkey.key_id not in stripped.encode()


async def test_a_device_that_knows_the_cosigner_demands_it(tmp_path: Path):
    async with world(tmp_path, policy=POLICY) as made:
        stranger = VerifierKey.parse(made.report.vkey)
        async with world(tmp_path / "other", policy=POLICY, plan=PLAN) as other:
            vkey = other.report.cosigner_vkey
        assert stranger.name == VerifierKey.parse(vkey or "").name
        device = Device("ada", "phone", BUNDLES["device"], expectations(made, "device", vkey))
        answer = await prove(made, device, await order(made, device, "device"))
        with pytest.raises(UntrustedAnswerError, match="does not verify"):
            device.accept(answer)


class FailingCosigner:
    """A signer whose cosigner's token fails while `failing`."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer
        self.failing = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._signer, name)

    async def sign(self, statements: Sequence[Statement]) -> list[bytes | HsmError]:
        answers = await self._signer.sign(statements)
        return [
            TokenFailureError("the token is broken")
            if self.failing and statement.purpose is Purpose.COSIGNATURE
            else answer
            for statement, answer in zip(statements, answers, strict=True)
        ]


async def test_nothing_is_released_without_the_cosignature(tmp_path: Path):
    signers: list[FailingCosigner] = []

    def wrapped(signer: Signer) -> Any:
        signers.append(FailingCosigner(signer))
        return signers[-1]

    async with world(tmp_path, None, wrapped, policy=POLICY, plan=PLAN) as made:
        device = Device("ada", "phone", BUNDLES["device"], expectations(made, "device"))
        answer = await order(made, device, "device")
        signers[0].failing = True
        before = made.services.core.sequencer.signed_size
        with pytest.raises(SignerUnavailableError, match="was not signed"):
            await prove(made, device, answer)
        assert made.services.core.sequencer.signed_size == before
        signers[0].failing = False
        await made.services.upkeep.recover()
        assert made.services.core.sequencer.signed_size == before + 1
        assert len(parse_note(made.services.lookup.checkpoint()).signatures) == 2


# --- later ceremonies -----------------------------------------------------------------------------


async def extend(
    made: World,
    executor: ThreadPoolExecutor,
    source: bytes,
    cosigner_plan: CosignerPlan | None = None,
) -> None:
    """What `kms authority add` and `kms log add-cosigner` do, on the running world's parts."""
    (epoch,) = made.ledger.find(Epoch)
    founded = read_founded(made.ledger)
    plan = Plan(
        "log.test.example",
        founded.log_label,
        founded.organization,
        founded.identity_domain,
        load_further(source, founded.organization),
        cosigner_plan,
    )
    cosigner = await make_cosigner(made.signer, plan, epoch, POLICY, made.clock.now)
    core = build_core(
        made.ledger, made.signer, made.clock, epoch.origin, epoch.vkey, executor, cosigner, POLICY
    )
    made.report = await Ceremony(core, plan, ["carol", "dave"], lambda _: None).extend(epoch)


async def test_a_later_ceremony_adds_to_what_there_is(tmp_path: Path):
    async with world(tmp_path, policy=POLICY) as made:
        before = made.report
        with ThreadPoolExecutor(1) as executor:
            await extend(made, executor, AUTHORITIES, CosignerPlan())
        assert made.report.cosigner_vkey is not None
        assert len(parse_note(before.checkpoint).signatures) == 1
        assert len(parse_note(made.report.checkpoint).signatures) == 2
        added = made.report.certificates.keys() - before.certificates.keys()
        assert added == {"people-pq-3", "people-pq-5"}
        assert before.certificates.items() < made.report.certificates.items()
        founded = read_founded(made.ledger)
        assert founded.cosigned
        assert added < founded.authorities


@pytest.mark.parametrize("fault", Fault)
@pytest.mark.parametrize("call", ["generate", "certificate", "crl", "checkpoint"])
async def test_an_interrupted_one_is_continued_by_holding_it_again(
    tmp_path: Path, call: str, fault: Fault
):
    """Whatever call fails, before or after its work, nothing is made twice."""
    async with world(tmp_path, None, FaultySigner, policy=POLICY) as made:
        assert isinstance(made.signer, FaultySigner)
        failures, most = 0, 6
        with ThreadPoolExecutor(1) as executor:
            for after in range(most):
                made.signer.fail_next(call, fault, after=after % 3)
                try:
                    await extend(made, executor, AUTHORITIES, CosignerPlan())
                except (KmsError, HsmError):
                    failures += 1
                made.signer.mend()
            await extend(made, executor, AUTHORITIES, CosignerPlan())
        assert failures
        keys = [key.label for key in await made.signer.keys()]
        assert len(keys) == len(set(keys)) == 7
        names = [item.name for item in made.ledger.find(Authority)]
        assert sorted(names) == sorted(made.report.certificates)
        born = [event for event in made.ledger.find(Event) if event.type == "key.generated"]
        assert len(born) == 6  # the log's own key was born with the log
        crls = made.ledger.find(Crl, tenant=SYSTEM_TENANT)
        assert {item.authority for item in crls if item.der} == set(names)


async def test_another_plan_does_not_continue_it(tmp_path: Path):
    """A key that was made under one protection does not pass for one of another."""
    async with world(tmp_path, None, FaultySigner, policy=POLICY) as made:
        assert isinstance(made.signer, FaultySigner)
        wrapped = AUTHORITIES.replace(b"]\n", b']\nprotection = "wrapped"\n')
        with ThreadPoolExecutor(1) as executor:
            made.signer.fail_next("generate", Fault.DONE)
            with pytest.raises(HsmError):
                await extend(made, executor, wrapped)
            with pytest.raises(StateError, match="begun with"):
                await extend(made, executor, AUTHORITIES)
            await extend(made, executor, wrapped)


async def test_what_was_never_founded_is_not_extended(tmp_path: Path):
    ledger = MemoryLedger()
    with pytest.raises(StateError, match="no root yet"):
        read_founded(ledger)


async def test_the_cosigner_goes_with_the_log_into_a_new_epoch(tmp_path: Path):
    """Under the new epoch's name, as C2SP has it; the old one is not cosigned any more."""
    live = MemoryLedger()
    async with world(tmp_path, live, policy=POLICY, plan=PLAN) as made:
        old = MemoryLedger()
        old._tables, old._tiles = deepcopy(live._tables), dict(live._tiles)
        old._head = live._head
        await enrol(made, "device")
        with ThreadPoolExecutor(1) as executor:
            lost = await find_loss(old, made.signer)
            epoch = await open_next_epoch(old, made.signer, executor, lost)
            cosigner = find_cosigner(old, epoch, made.clock.now)
            assert cosigner is not None
            parts = old, made.signer, made.clock, epoch.origin, epoch.vkey, executor
            core = build_core(*parts, cosigner, POLICY)
            note = parse_note(await continue_log(core, lost, ["carol", "dave"], "a test"))
        assert verify_note(note, [cosigner.vkey]) == [epoch.origin] == ["log.test.example/2"]
        before = made.services.core.sequencer.cosigner
        assert before is not None
        head = Checkpoint(lost.signed.origin, lost.signed.size, lost.signed.root)
        (refused,) = await made.signer.sign([before.statement(head, before.time())])
        assert isinstance(refused, StatementRefusedError)
