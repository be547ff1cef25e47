"""Bodies of key uses: each takes one item, or `items` of which each is judged by itself."""

from typing import Any, NamedTuple

from pydantic import BaseModel, Field, create_model

from kms.api.key_schemas import (
    MAX_DATA,
    Associated,
    Data,
    Digest,
    Message,
    Proof,
    Sealed,
    Version,
)
from kms.api.schemas import MAX_BATCH, described
from kms.api.validation import TenantText
from kms.services.keys.verbs import Item

_MADE_BY = "Of the version that made it; the current one if left out."


class SignItem(BaseModel):
    """A message to sign, or its digest."""

    model_config = described({"message": "aGVsbG8="})

    message: Message | None = None
    digest: Digest | None = Field(
        default=None, description="Instead of a message too large to send; ECDSA keys only."
    )


class VerifyItem(SignItem):
    """A signature to verify."""

    model_config = described({"message": "aGVsbG8=", "signature": "MEUCIQDx"})

    signature: Proof
    version: Version | None = Field(default=None, description=_MADE_BY)


class MacItem(BaseModel):
    """A message to authenticate."""

    model_config = described({"message": "aGVsbG8="})

    message: Message


class VerifyMacItem(MacItem):
    """A MAC to verify."""

    model_config = described({"message": "aGVsbG8=", "mac": "q83v"})

    mac: Proof
    version: Version | None = Field(default=None, description=_MADE_BY)


class EncryptItem(BaseModel):
    """A plaintext to encrypt."""

    model_config = described({"plaintext": "aGVsbG8=", "associated": "cm9vbQ=="})

    plaintext: Data = Field(description=f"At most {MAX_DATA} bytes; larger things take a data key.")
    associated: Associated = Field(
        default=b"", description="Not secret, and needed again, unchanged, to decrypt."
    )


class DecryptItem(BaseModel):
    """A ciphertext to decrypt or to rewrap."""

    model_config = described({"ciphertext": "AQAB", "associated": "cm9vbQ=="})

    ciphertext: Sealed
    associated: Associated = b""


class DataKeyItem(BaseModel):
    """A data key to make."""

    model_config = described({"size": 32, "plain": True})

    size: int = Field(default=32, ge=16, le=64, description="In bytes.")
    plain: bool = Field(default=False, description="Answer it in plain, too.")
    associated: Associated = b""


class WrapItem(BaseModel):
    """A secret key to wrap (RFC 5649). Private keys are refused, as everywhere."""

    model_config = described({"plaintext": "aGVsbG8="})

    plaintext: Data


class UnwrapItem(BaseModel):
    """What `wrap` answered."""

    model_config = described({"ciphertext": "AgAB"})

    ciphertext: Sealed


class UseBodies(NamedTuple):
    """The two bodies that a use takes: one item, or many."""

    item: type[BaseModel]
    one: type[BaseModel]
    many: type[BaseModel]


def bodies_of(item: type[BaseModel]) -> UseBodies:
    """The bodies of a use whose items are these."""
    name = item.__name__.removesuffix("Item")
    tenant: Any = (TenantText | None, None)
    items: Any = (list[item], Field(min_length=1, max_length=MAX_BATCH))  # type: ignore[valid-type]  # made at run time
    one = create_model(f"{name}Body", __base__=item, __doc__=item.__doc__, tenant=tenant)
    many = create_model(
        f"{name}Batch",
        __config__=described(),
        __doc__=f"Many: {item.__doc__}",
        tenant=tenant,
        items=items,
    )
    return UseBodies(item, one, many)


SIGN, VERIFY = bodies_of(SignItem), bodies_of(VerifyItem)
MAC, VERIFY_MAC = bodies_of(MacItem), bodies_of(VerifyMacItem)
ENCRYPT, DECRYPT = bodies_of(EncryptItem), bodies_of(DecryptItem)
DATA_KEY = bodies_of(DataKeyItem)
WRAP, UNWRAP = bodies_of(WrapItem), bodies_of(UnwrapItem)
BODIES = {
    "sign": SIGN,
    "verify": VERIFY,
    "mac": MAC,
    "verify-mac": VERIFY_MAC,
    "encrypt": ENCRYPT,
    "decrypt": DECRYPT,
    "data-key": DATA_KEY,
    "wrap": WRAP,
    "unwrap": UNWRAP,
    "rewrap": DECRYPT,
}
"""By verb."""
MODELS = [model for bodies in BODIES.values() for model in bodies]


def item_of(body: BaseModel) -> Item:
    """What a verb works on; the context of what was sealed to a slot is its associated data."""
    names = {"context": "associated"}
    return Item(**{names.get(name, name): value for name, value in body if name != "tenant"})
