"""What clients do with keys: of each verb what it asks the signer, and what it answers.

A verb's items each become one call to the signer; what is wrong with an item is an error of its
own. All of it is decided before the signer is asked: purpose, permission, state, usage period.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hsm_drivers.operations import (
    Decrypt,
    Encrypt,
    MakeMac,
    NewDataKey,
    Rewrap,
    ServiceCall,
    SignDigest,
    SignMessage,
    UnwrapKey,
    VerifyMac,
    WrapKey,
)
from hsm_drivers.ports import KeyLabel
from kms.domain.key_book import KeyBook
from kms.domain.key_records import KeyVersion
from kms.services.errors import InputError
from kms.services.keys.ciphertexts import (
    SEALED,
    WRAPPED,
    associated,
    header_of,
    take_apart,
)
from kms.services.keys.reach import version_of
from kms.wire import b64
from policies.algorithms import Scheme, algorithm
from policies.key_life import Operation

_DIGESTS = {"sha256": 32, "sha384": 48, "sha512": 64}


@dataclass(frozen=True, slots=True)
class Item:
    """One item of a use; a verb reads what it needs, the rest stays empty.

    Attributes:
        message: To sign or authenticate; of a verification, what was.
        digest: Instead of a message, where the key signs digests.
        signature: To be verified.
        mac: To be verified.
        plaintext: To encrypt or wrap.
        ciphertext: To decrypt, unwrap or rewrap.
        associated: The caller's associated data.
        size: Of a data key, in bytes.
        plain: Whether the data key is answered in plain, too.
        version: Of a verification; None for the current one.
    """

    message: bytes | None = field(default=None, repr=False)
    digest: bytes | None = field(default=None, repr=False)
    signature: bytes = field(default=b"", repr=False)
    mac: bytes = field(default=b"", repr=False)
    plaintext: bytes = field(default=b"", repr=False)
    ciphertext: bytes = field(default=b"", repr=False)
    associated: bytes = field(default=b"", repr=False)
    size: int = 32
    plain: bool = False
    version: int | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """A call to the signer, the version that it uses, and how its answer is told.

    Attributes:
        version: Of the key.
        call: For the signer; None where the public key alone answers.
        item: What it is about.
        tell: From the signer's answer to what the client is told, and what an event of this use
            has the digest of: always what was made public by it anyway, never a secret.
    """

    version: KeyVersion
    call: ServiceCall | None
    item: Item
    tell: Callable[[tuple[bytes, ...]], tuple[dict[str, Any], bytes]]


@dataclass(frozen=True, slots=True)
class Verb:
    """One way of using a key.

    Attributes:
        name: As routes have it.
        needs: The operations that it takes: of permission, of the key's purpose and of its state.
        ask: From key and item to the call.
    """

    name: str
    needs: tuple[Operation, ...]
    ask: Callable[[KeyBook, Item], Asked]


def _label(version: KeyVersion) -> KeyLabel:
    return KeyLabel(version.label)


def _sign(book: KeyBook, item: Item) -> Asked:
    version = book.current
    call: ServiceCall
    if item.digest is not None:
        call = SignDigest(_label(version), check_digest(version, item))
    elif item.message is not None:
        call = SignMessage(_label(version), item.message)
    else:
        raise InputError(
            "give a message or a digest; the empty message is to be said", field="message"
        )
    return Asked(version, call, item, _told(version, "signature"))


def check_digest(version: KeyVersion, item: Item) -> bytes:
    """The digest, if the version's algorithm signs digests of that size.

    Raises:
        InputError: It does not.
    """
    row = algorithm(version.algorithm)
    if row.scheme is not Scheme.ECDSA or item.message is not None or item.digest is None:
        raise InputError(
            "give a message; only ECDSA keys sign a digest, and never beside a message",
            field="digest",
        )
    if len(item.digest) != _DIGESTS[row.digest or ""]:
        raise InputError(f"{row.name} signs digests of {row.digest}", field="digest")
    return item.digest


def _verify(book: KeyBook, item: Item) -> Asked:
    version = version_of(book, item.version)
    if item.digest is not None:
        check_digest(version, item)
    return Asked(version, None, item, _validity(version, item.signature))


def _mac(book: KeyBook, item: Item) -> Asked:
    version = book.current
    call = MakeMac(_label(version), item.message or b"")
    return Asked(version, call, item, _told(version, "mac"))


def _verify_mac(book: KeyBook, item: Item) -> Asked:
    version = version_of(book, item.version)
    call = VerifyMac(_label(version), item.message or b"", item.mac)
    return Asked(version, call, item, _validity(version, item.mac))


def _encrypt(book: KeyBook, item: Item) -> Asked:
    version = book.current
    header = header_of(SEALED, version, book.key.key_id)
    bound = associated(header, book.key.tenant, item.associated)
    call = Encrypt(_label(version), item.plaintext, bound)
    return Asked(version, call, item, _told(version, "ciphertext", header))


def _decrypt(book: KeyBook, item: Item) -> Asked:
    found, version = take_apart(SEALED, item.ciphertext, book)
    bound = associated(found.header, book.key.tenant, item.associated)
    call = Decrypt(_label(version), found.sealed, bound)
    return Asked(version, call, item, _opened(version, "plaintext", item.ciphertext))


def _data_key(book: KeyBook, item: Item) -> Asked:
    version = book.current
    header = header_of(SEALED, version, book.key.key_id)
    bound = associated(header, book.key.tenant, item.associated)
    call = NewDataKey(_label(version), item.size, bound, item.plain)

    def tell(answer: tuple[bytes, ...]) -> tuple[dict[str, Any], bytes]:
        sealed = header + answer[0]
        told: dict[str, Any] = {"version": version.version, "wrapped": b64(sealed)}
        if item.plain:
            told["plain"] = b64(answer[1])
        return told, sealed

    return Asked(version, call, item, tell)


def _wrap(book: KeyBook, item: Item) -> Asked:
    version = book.current
    header = header_of(WRAPPED, version, book.key.key_id)
    call = WrapKey(_label(version), item.plaintext)
    return Asked(version, call, item, _told(version, "wrapped", header))


def _unwrap(book: KeyBook, item: Item) -> Asked:
    found, version = take_apart(WRAPPED, item.ciphertext, book)
    call = UnwrapKey(_label(version), found.sealed)
    return Asked(version, call, item, _opened(version, "plaintext", item.ciphertext))


def _rewrap(book: KeyBook, item: Item) -> Asked:
    found, version = take_apart(SEALED, item.ciphertext, book)
    into = book.current
    header = header_of(SEALED, into, book.key.key_id)
    call = Rewrap(
        _label(version),
        found.sealed,
        associated(found.header, book.key.tenant, item.associated),
        _label(into),
        associated(header, book.key.tenant, item.associated),
    )
    return Asked(version, call, item, _told(into, "ciphertext", header))


def _told(
    version: KeyVersion, name: str, header: bytes = b""
) -> Callable[[tuple[bytes, ...]], tuple[dict[str, Any], bytes]]:
    def tell(answer: tuple[bytes, ...]) -> tuple[dict[str, Any], bytes]:
        made = header + answer[0]
        return {"version": version.version, name: b64(made)}, made

    return tell


def _opened(
    version: KeyVersion, name: str, given: bytes
) -> Callable[[tuple[bytes, ...]], tuple[dict[str, Any], bytes]]:
    return lambda answer: ({"version": version.version, name: b64(answer[0])}, given)


def _validity(
    version: KeyVersion, given: bytes
) -> Callable[[tuple[bytes, ...]], tuple[dict[str, Any], bytes]]:
    return lambda answer: ({"version": version.version, "valid": bool(answer[0])}, given)


VERBS: Mapping[str, Verb] = {
    verb.name: verb
    for verb in (
        Verb("sign", (Operation.SIGN,), _sign),
        Verb("verify", (Operation.VERIFY,), _verify),
        Verb("mac", (Operation.MAC,), _mac),
        Verb("verify-mac", (Operation.VERIFY_MAC,), _verify_mac),
        Verb("encrypt", (Operation.ENCRYPT,), _encrypt),
        Verb("decrypt", (Operation.DECRYPT,), _decrypt),
        Verb("data-key", (Operation.DATA_KEY,), _data_key),
        Verb("wrap", (Operation.WRAP,), _wrap),
        Verb("unwrap", (Operation.UNWRAP,), _unwrap),
        Verb("rewrap", (Operation.DECRYPT, Operation.ENCRYPT), _rewrap),
    )
}
"""Every verb by its name."""
