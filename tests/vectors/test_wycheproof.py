"""The library's algorithms against Wycheproof.

What the service relies on is checked case by case; what the library's interface cannot express
stands in `NOT_EXPRESSIBLE`, file by file, with the number of cases and the reason.
"""

from collections.abc import Callable
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature, InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, keywrap
from cryptography.hazmat.primitives.asymmetric import (
    ec,
    ed25519,
    mldsa,
    mlkem,
    padding,
    rsa,
    x25519,
)
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import load_der_public_key

from tests.support import vectors

WYCHEPROOF = vectors.folder("crypto/wycheproof")

Case = dict[str, Any]
Check = Callable[[Case, Case], None]
"""(group, case): returns when the library accepts and agrees, raises when it refuses."""


class NotExpressibleError(Exception):
    """The library's interface has no way to put this case; the reason is its only argument."""


def unhex(text: str) -> bytes:
    return bytes.fromhex(text)


def public(group: Case, kind: type) -> Any:
    key: PublicKeyTypes = load_der_public_key(unhex(group["publicKeyDer"]))
    assert isinstance(key, kind)
    return key


def ecdsa(digest: hashes.HashAlgorithm) -> Check:
    def check(group: Case, case: Case) -> None:
        key = public(group, ec.EllipticCurvePublicKey)
        key.verify(unhex(case["sig"]), unhex(case["msg"]), ec.ECDSA(digest))

    return check


def eddsa(group: Case, case: Case) -> None:
    public(group, ed25519.Ed25519PublicKey).verify(unhex(case["sig"]), unhex(case["msg"]))


def rsa_pkcs1(group: Case, case: Case) -> None:
    public(group, rsa.RSAPublicKey).verify(
        unhex(case["sig"]), unhex(case["msg"]), padding.PKCS1v15(), hashes.SHA256()
    )


def rsa_pss(group: Case, case: Case) -> None:
    digest = hashes.SHA512()
    pss = padding.PSS(padding.MGF1(digest), group["sLen"])
    public(group, rsa.RSAPublicKey).verify(unhex(case["sig"]), unhex(case["msg"]), pss, digest)


def ml_dsa(kind: Any) -> Check:
    def check(group: Case, case: Case) -> None:
        key = kind.from_public_bytes(unhex(group["publicKey"]))
        context = unhex(case["ctx"]) if "ctx" in case else None
        key.verify(unhex(case["sig"]), unhex(case["msg"]), context)

    return check


def ml_dsa_sign(group: Case, case: Case) -> None:
    """The library signs hedged; whether its signature is sound is all that can be compared."""
    key = mldsa.MLDSA65PrivateKey.from_seed_bytes(unhex(group["privateSeed"]))
    assert key.public_key().public_bytes_raw() == unhex(group["publicKey"])
    if "msg" not in case:
        raise NotExpressibleError("external mu")
    context = unhex(case["ctx"]) if "ctx" in case else None
    key.public_key().verify(key.sign(unhex(case["msg"]), context), unhex(case["msg"]), context)
    key.public_key().verify(unhex(case["sig"]), unhex(case["msg"]), context)


def ml_kem_key(seed: str) -> mlkem.MLKEM768PrivateKey:
    return mlkem.MLKEM768PrivateKey.from_seed_bytes(unhex(seed))


def ml_kem(group: Case, case: Case) -> None:
    key = ml_kem_key(case["seed"])
    assert key.public_key().public_bytes_raw() == unhex(case["ek"])
    assert key.decapsulate(unhex(case["c"])) == unhex(case["K"])


def ml_kem_keygen(group: Case, case: Case) -> None:
    assert ml_kem_key(case["seed"]).public_key().public_bytes_raw() == unhex(case["ek"])


def ml_kem_encaps(group: Case, case: Case) -> None:
    """Encapsulation draws its own randomness; what is checked is which keys it refuses."""
    key = mlkem.MLKEM768PublicKey.from_public_bytes(unhex(case["ek"]))
    secret, ciphertext = key.encapsulate()
    assert (len(secret), len(ciphertext)) == (32, 1088)


def ecdh(group: Case, case: Case) -> None:
    peer = load_der_public_key(unhex(case["public"]))
    if not isinstance(peer, ec.EllipticCurvePublicKey):
        raise ValueError("not an EC key")  # noqa: TRY004 - one of the refusals that are counted
    key = ec.derive_private_key(int(case["private"], 16), ec.SECP256R1())
    assert key.exchange(ec.ECDH(), peer) == unhex(case["shared"])


def xdh(group: Case, case: Case) -> None:
    key = x25519.X25519PrivateKey.from_private_bytes(unhex(case["private"]))
    peer = x25519.X25519PublicKey.from_public_bytes(unhex(case["public"]))
    assert key.exchange(peer) == unhex(case["shared"])


def aes_gcm(group: Case, case: Case) -> None:
    key, iv = AESGCM(unhex(case["key"])), unhex(case["iv"])
    sealed = unhex(case["ct"]) + unhex(case["tag"])
    if iv and not 8 <= len(iv) <= 128:
        raise NotExpressibleError("nonce of a size the interface refuses")
    assert key.decrypt(iv, sealed, unhex(case["aad"])) == unhex(case["msg"])
    assert key.encrypt(iv, unhex(case["msg"]), unhex(case["aad"])) == sealed


def wrap(encrypt: Any, decrypt: Any) -> Check:
    def check(group: Case, case: Case) -> None:
        key = unhex(case["key"])
        assert decrypt(key, unhex(case["ct"])) == unhex(case["msg"])
        assert encrypt(key, unhex(case["msg"])) == unhex(case["ct"])

    return check


def hkdf(group: Case, case: Case) -> None:
    kdf = HKDF(hashes.SHA256(), case["size"], unhex(case["salt"]), unhex(case["info"]))
    assert kdf.derive(unhex(case["ikm"])) == unhex(case["okm"])


CHECKS: dict[str, Check] = {
    "aes_gcm_test": aes_gcm,
    "aes_kwp_test": wrap(keywrap.aes_key_wrap_with_padding, keywrap.aes_key_unwrap_with_padding),
    "aes_wrap_test": wrap(keywrap.aes_key_wrap, keywrap.aes_key_unwrap),
    "ecdh_secp256r1_test": ecdh,
    "ecdsa_secp256r1_sha256_test": ecdsa(hashes.SHA256()),
    "ecdsa_secp384r1_sha384_test": ecdsa(hashes.SHA384()),
    "ed25519_test": eddsa,
    "hkdf_sha256_test": hkdf,
    "mldsa_44_verify_test": ml_dsa(mldsa.MLDSA44PublicKey),
    "mldsa_65_sign_seed_test": ml_dsa_sign,
    "mldsa_65_verify_test": ml_dsa(mldsa.MLDSA65PublicKey),
    "mlkem_768_encaps_test": ml_kem_encaps,
    "mlkem_768_keygen_seed_test": ml_kem_keygen,
    "mlkem_768_test": ml_kem,
    "rsa_pss_4096_sha512_mgf1_64_test": rsa_pss,
    "rsa_signature_4096_sha256_test": rsa_pkcs1,
    "x25519_test": xdh,
}
NOT_EXPRESSIBLE = {
    "aes_gcm_test": (27, "the interface takes nonces of 8 to 128 bytes only"),
    "mldsa_65_sign_seed_test": (17, "external mu comes from a hasher, not as bytes"),
}
FILES_NOT_USED = {
    "json_web_key_test": (26, "the library reads no JWK; the service refuses private ones unread"),
    "json_web_signature_test": (401, "the library has no JWS, and the service uses none"),
    "rsa_pkcs1_2048_test": (67, "bad padding decrypts to random bytes by design; nothing uses it"),
}
COUNTS = {
    "aes_gcm_test": 316,
    "aes_kwp_test": 254,
    "aes_wrap_test": 165,
    "ecdh_secp256r1_test": 612,
    "ecdsa_secp256r1_sha256_test": 484,
    "ecdsa_secp384r1_sha384_test": 504,
    "ed25519_test": 151,
    "hkdf_sha256_test": 86,
    "mldsa_44_verify_test": 180,
    "mldsa_65_sign_seed_test": 105,
    "mldsa_65_verify_test": 210,
    "mlkem_768_encaps_test": 265,
    "mlkem_768_keygen_seed_test": 100,
    "mlkem_768_test": 193,
    "rsa_pss_4096_sha512_mgf1_64_test": 179,
    "rsa_signature_4096_sha256_test": 258,
    "x25519_test": 518,
}
MUST_REFUSE = {"ZeroSharedSecret"}
"""Flags of merely acceptable cases that have to be refused all the same."""

ACCEPTED, REFUSED, DISAGREED, UNSAID = "accepted", "refused", "disagreed", "not expressible"
ALLOWED = {
    "valid": {ACCEPTED, UNSAID},
    "invalid": {REFUSED},
    "acceptable": {ACCEPTED, REFUSED},
}
REFUSALS = (
    InvalidSignature,
    InvalidTag,
    UnsupportedAlgorithm,
    keywrap.InvalidUnwrap,
    ValueError,
)


def outcome(check: Check, group: Case, case: Case) -> str:
    try:
        check(group, case)
    except NotExpressibleError:
        return UNSAID
    except REFUSALS:
        return REFUSED
    except AssertionError:
        return DISAGREED
    return ACCEPTED


def test_every_wycheproof_file_is_accounted_for():
    files = {path.name.removesuffix(".json.gz") for path in WYCHEPROOF.iterdir()}
    assert files == CHECKS.keys() | FILES_NOT_USED.keys()
    assert CHECKS.keys() == COUNTS.keys()
    assert not CHECKS.keys() & FILES_NOT_USED.keys()
    for name, (count, _reason) in FILES_NOT_USED.items():
        groups = vectors.load_json(WYCHEPROOF / f"{name}.json.gz")["testGroups"]
        assert sum(len(group["tests"]) for group in groups) == count


@pytest.mark.parametrize("name", sorted(CHECKS))
def test_wycheproof(name: str):
    document = vectors.load_json(WYCHEPROOF / f"{name}.json.gz")
    found = [
        (case, outcome(CHECKS[name], group, case))
        for group in document["testGroups"]
        for case in group["tests"]
    ]
    assert len(found) == COUNTS[name] == document["numberOfTests"]
    for case, result in found:
        shown = name, case["tcId"], case.get("comment"), result
        assert result in ALLOWED[case["result"]], shown
        assert result == REFUSED or not MUST_REFUSE & set(case.get("flags", [])), shown
    unsaid = sum(result == UNSAID for _, result in found)
    assert unsaid == NOT_EXPRESSIBLE.get(name, (0, ""))[0]
