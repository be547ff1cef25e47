"""KEM slots on real tokens, and with what other software sealed to them."""

import contextlib
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from hsm_drivers.pkcs11.driver import Pkcs11Driver
from kms.device.encapsulation import KEMS
from kms.services import errors
from policies.policy import shipped
from tests.support.foreign_envelopes import unpacked
from tests.support.nss import Nss
from tests.support.services import world
from tests.support.slots import OBJECT, Slots
from tests.support.softhsm import SoftHsm

pytestmark = pytest.mark.anyio

HYBRIDS = ["MLKEM768-X25519", "MLKEM1024-P384", "MLKEM768-P256"]


async def open_all(driver: Pkcs11Driver, folder: Path) -> dict[str, dict[str, str]]:
    """A slot of each hybrid on that token, sealed to and opened; how each part is held."""
    held = {}
    async with world(folder, driver=driver) as made:
        slots = Slots(made)
        for name in HYBRIDS:
            created = await slots.create(name, algorithm=name)
            (version,) = created["versions"]
            held[name] = {part["algorithm"]: part["protection"] for part in version["components"]}
            assert await slots.opened(await slots.envelope(name), name=name) == OBJECT
            assert await slots.opened(await slots.message(name), name=name) == OBJECT
            cut = (await slots.message(name))[:-1]
            with pytest.raises(errors.CiphertextRefusedError):
                await slots.opened(cut, name=name)
    return held


async def test_softhsm_holds_the_classical_part_and_wraps_the_other(
    softhsm: SoftHsm, tmp_path: Path
):
    with contextlib.closing(Pkcs11Driver(softhsm.module, softhsm.label, softhsm.pin)) as driver:
        held = await open_all(driver, tmp_path)
    assert held == {
        "MLKEM768-X25519": {"ML-KEM-768": "wrapped", "X25519": "token"},
        "MLKEM1024-P384": {"ML-KEM-1024": "wrapped", "ECDH-P384": "token"},
        "MLKEM768-P256": {"ML-KEM-768": "wrapped", "ECDH-P256": "token"},
    }


async def test_a_post_quantum_token_holds_both(nss: Nss, tmp_path: Path):
    with contextlib.closing(Pkcs11Driver(nss.module, nss.label, nss.pin)) as driver:
        held = await open_all(driver, tmp_path)
    protections = {protection for parts in held.values() for protection in parts.values()}
    assert {parts[name] for parts in held.values() for name in parts if "ML-KEM" in name} == {
        "token"
    }
    assert protections <= {"token", "wrapped"}


async def test_what_other_software_sealed_to_a_served_certificate_opens(tmp_path: Path):
    """BouncyCastle for every algorithm, OpenSSL for those that it knows; without a context."""
    foreign = unpacked()
    async with world(tmp_path, policy=shipped("post-quantum-2026")) as made:
        slots = Slots(made)
        plaintext = tmp_path / "plain"
        plaintext.write_bytes(OBJECT)
        jobs, sealed = [], {}
        for name in (kem.name for kem in KEMS):
            await slots.create(name, algorithm=name)
            (version,) = await slots.versions(name)
            der, pem = tmp_path / f"{name}.der", tmp_path / f"{name}.pem"
            der.write_bytes(version.certificate)
            pem.write_bytes(
                x509.load_der_x509_certificate(version.certificate).public_bytes(Encoding.PEM)
            )
            jobs.append(("seal", der, plaintext, tmp_path / f"{name}.bc"))
            sealed[jobs[-1][3]] = name
            if name.startswith("ML-KEM"):
                foreign.openssl_seals(pem, plaintext, tmp_path / f"{name}.openssl")
                sealed[tmp_path / f"{name}.openssl"] = name
        foreign.java(*jobs)
        for path, name in sealed.items():
            assert await slots.opened(path.read_bytes(), context=b"", name=name) == OBJECT
            with pytest.raises(errors.CiphertextRefusedError):
                await slots.opened(path.read_bytes(), name=name)
