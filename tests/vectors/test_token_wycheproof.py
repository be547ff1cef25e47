"""Operations of tokens against Wycheproof, with known keys as session objects.

What a token's operation, as this service makes it, cannot express is counted in `NOT_EXPRESSIBLE`:
nonces and tags of other sizes, encodings of points, seeds of a wrong size, contexts and external mu
of ML-DSA.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hsm_drivers import der
from hsm_drivers.errors import UnsupportedError
from hsm_drivers.pkcs11 import Pkcs11Driver
from hsm_drivers.pkcs11.cryptoki import mechanism
from hsm_drivers.pkcs11.returns import RefusedBytesError
from policies.algorithms import algorithm
from tests.support import vectors
from tests.support.importing import Imported, public_key
from tests.support.judging import verify

WYCHEPROOF = vectors.folder("crypto/wycheproof")

Case = dict[str, Any]
Check = Callable[[Pkcs11Driver, Case, Case], None]
"""(driver, group, case): returns when the token agrees, raises when it refuses."""


class NotExpressibleError(Exception):
    """This service's operation cannot put the case."""


def unhex(text: str) -> bytes:
    return bytes.fromhex(text)


def aes_gcm(driver: Pkcs11Driver, group: Case, case: Case) -> None:
    if (group["ivSize"], group["tagSize"]) != (96, 128):
        raise NotExpressibleError
    nonce, associated, text = (unhex(case[name]) for name in ("iv", "aad", "msg"))
    sealed = unhex(case["ct"] + case["tag"])
    with Imported(driver, "AES-256-GCM", unhex(case["key"])) as key:
        assert key.encrypt is not None
        assert key.decrypt is not None
        assert key.decrypt(nonce, sealed, associated) == text
        assert key.encrypt(nonce, text, associated) == sealed


def aes_kwp(driver: Pkcs11Driver, group: Case, case: Case) -> None:
    """What is no multiple of 8 bytes the service does not wrap; tokens unwrap it."""
    text = unhex(case["msg"])
    with Imported(driver, "AES-256-KWP", unhex(case["key"])) as key:
        assert key.wrap is not None
        assert key.unwrap is not None
        assert key.unwrap(unhex(case["ct"])) == text
        if len(text) % 8 == 0:
            assert key.wrap(text) == unhex(case["ct"])


def _agrees(driver: Pkcs11Driver, name: str, private: bytes, sent: bytes, secret: str) -> None:
    with Imported(driver, name, private) as key:
        assert key.decapsulate is not None
        assert key.decapsulate(sent) == unhex(secret)


def ecdh(driver: Pkcs11Driver, group: Case, case: Case) -> None:
    """The service takes bare points (RFC 9180), the vectors have them in SPKIs."""
    row = algorithm("ECDH-P256")
    sent, private = unhex(case["public"])[-65:], int(case["private"], 16)
    if unhex(case["public"]) != der.public_key(row, sent) or private >= 2**256:
        raise NotExpressibleError
    _agrees(driver, "ECDH-P256", private.to_bytes(32, "big"), sent, case["shared"])


def x25519(driver: Pkcs11Driver, group: Case, case: Case) -> None:
    sent, private = unhex(case["public"]), unhex(case["private"])
    _agrees(driver, "X25519", private, sent, case["shared"])


def ml_kem(driver: Pkcs11Driver, group: Case, case: Case) -> None:
    """A private key is none of the service's inputs: seeds of a wrong size are not put."""
    if len(unhex(case["seed"])) != 64:
        raise NotExpressibleError
    _agrees(driver, "ML-KEM-768", unhex(case["seed"]), unhex(case["c"]), case["K"])


def ml_dsa(name: str) -> Check:
    def check(driver: Pkcs11Driver, group: Case, case: Case) -> None:
        if "ctx" in case:
            raise NotExpressibleError
        token = driver._session.calls
        public = public_key(driver, name, unhex(group["publicKey"]))
        how = mechanism(0x1D)
        try:
            if not token.verifies(how, public, unhex(case["msg"]), unhex(case["sig"])):
                raise RefusedBytesError(0xC0)
        finally:
            token.destroy(public)

    return check


def ml_dsa_sign(driver: Pkcs11Driver, group: Case, case: Case) -> None:
    """Tokens sign hedged; whether the signature is sound is all that can be compared."""
    if "msg" not in case or "ctx" in case or group["publicKey"] is None:
        raise NotExpressibleError
    row = algorithm("ML-DSA-65")
    spki = der.public_key(row, unhex(group["publicKey"]))
    with Imported(driver, "ML-DSA-65", unhex(group["privateSeed"])) as key:
        assert key.sign is not None
        verify(spki, "ML-DSA-65", key.sign(unhex(case["msg"])), unhex(case["msg"]))


CHECKS: dict[str, tuple[str, Check]] = {
    "aes_gcm_test": ("AES-256-GCM", aes_gcm),
    "aes_kwp_test": ("AES-256-KWP", aes_kwp),
    "ecdh_secp256r1_test": ("ECDH-P256", ecdh),
    "x25519_test": ("X25519", x25519),
    "mlkem_768_test": ("ML-KEM-768", ml_kem),
    "mldsa_44_verify_test": ("ML-DSA-44", ml_dsa("ML-DSA-44")),
    "mldsa_65_verify_test": ("ML-DSA-65", ml_dsa("ML-DSA-65")),
    "mldsa_65_sign_seed_test": ("ML-DSA-65", ml_dsa_sign),
}
NOT_EXPRESSIBLE = {
    "aes_gcm_test": 119,
    "ecdh_secp256r1_test": 263,
    "mldsa_44_verify_test": 8,
    "mldsa_65_verify_test": 8,
    "mldsa_65_sign_seed_test": 25,
    "mlkem_768_test": 20,
}
MUST_REFUSE = {"ZeroSharedSecret"}
"""Flags of merely acceptable cases that have to be refused all the same."""

ACCEPTED, REFUSED, DISAGREED, UNSAID = "accepted", "refused", "disagreed", "not expressible"
ALLOWED = {
    "valid": {ACCEPTED, UNSAID},
    "invalid": {REFUSED, UNSAID},
    "acceptable": {ACCEPTED, REFUSED, UNSAID},
}


def outcome(check: Check, driver: Pkcs11Driver, group: Case, case: Case) -> str:
    try:
        check(driver, group, case)
    except NotExpressibleError:
        return UNSAID
    except (RefusedBytesError, UnsupportedError):
        return REFUSED
    except AssertionError:
        return DISAGREED
    return ACCEPTED


@pytest.fixture(params=["softhsm", "nss"])
def driver(request: pytest.FixtureRequest) -> Iterator[Pkcs11Driver]:
    token = request.getfixturevalue(request.param)
    opened = Pkcs11Driver(token.module, token.label, token.pin)
    yield opened
    opened.close()


@pytest.mark.parametrize("name", sorted(CHECKS))
def test_tokens_agree_with_wycheproof(driver: Pkcs11Driver, name: str) -> None:
    needs, check = CHECKS[name]
    if needs not in driver.algorithms:
        assert driver.lacking(needs)
        return
    document = vectors.load_json(WYCHEPROOF / f"{name}.json.gz")
    counts: Counter[str] = Counter()
    for group in document["testGroups"]:
        for case in group["tests"]:
            result = outcome(check, driver, group, case)
            shown = name, case["tcId"], case.get("comment"), result
            assert result in ALLOWED[case["result"]], shown
            assert result == REFUSED or not MUST_REFUSE & set(case.get("flags", [])), shown
            counts[result] += 1
    assert counts.total() == document["numberOfTests"]
    assert counts[UNSAID] == NOT_EXPRESSIBLE.get(name, 0), counts
