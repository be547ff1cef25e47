"""What keys do for clients. Uses change no state: none takes an Idempotency-Key."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Response

from kms.api import key_answers as answers
from kms.api import key_schemas as schemas
from kms.api.handling import Asked, Asking, answer
from kms.api.key_use_schemas import BODIES, UseBodies, item_of
from kms.api.keys import Named
from kms.api.openapi import refusals, takes, takes_either, without_key
from kms.api.schemas import TenantQuery
from kms.api.validation import validated
from kms.domain.authorisation import Action
from kms.services.errors import InputError, KmsError
from kms.services.keys.use import KeyUse
from kms.services.keys.verbs import VERBS, Item, Verb

router = APIRouter(tags=["key uses"])
Handler = Callable[[Asked, str], Awaitable[Response]]

_SENTENCES = {
    "sign": "Sign messages, or digests of messages too large to send (ECDSA).",
    "verify": "Verify signatures of a key, with its public half.",
    "mac": "Authenticate messages (HMAC).",
    "verify-mac": "Verify MACs of a key.",
    "encrypt": "Encrypt (AES-GCM) under the current version, which the ciphertext names.",
    "decrypt": "Decrypt with the version that the ciphertext names.",
    "data-key": "Make a data key: wrapped under the key, and plain where wanted.",
    "wrap": "Wrap a secret key under the current version (RFC 5649).",
    "unwrap": "Unwrap what was wrapped under the key.",
    "rewrap": "Move ciphertexts to the current version; their plaintext stays in the signer.",
}


def _handler(name: str, bodies: UseBodies) -> Handler:
    """The handler of a verb."""

    async def use(asked: Asked, key: str) -> Response:
        return await used(asked, asked.services.keys.use, key, VERBS[name], bodies)

    use.__name__ = f"key_{name.replace('-', '_')}"
    use.__doc__ = _SENTENCES[name]
    return use


HANDLERS = {name: _handler(name, bodies) for name, bodies in BODIES.items()}
"""By verb; `kms.api.hot` calls them without the framework."""


async def used(asked: Asked, uses: KeyUse, key: str, verb: Verb, bodies: UseBodies) -> Response:
    """Do what one item asks for, or each of many.

    Raises:
        KmsError: The one item is refused, or the call is.
    """
    asked.require(Action.USE_KEYS)
    value = asked.value
    if isinstance(value, dict) and "items" in value:
        return answer(await _many(asked, uses, key, verb, bodies, value))
    body = asked.read(bodies.one)
    tenant = asked.tenant(getattr(body, "tenant", None))
    (told,) = await uses.run(asked.caller, tenant, key, verb, [item_of(body)])
    if isinstance(told, KmsError):
        raise told
    return answer(told)


async def _many(
    asked: Asked, uses: KeyUse, key: str, verb: Verb, bodies: UseBodies, value: dict[str, Any]
) -> dict[str, Any]:
    """The answer to a batch, a result per item in order."""
    limit = asked.services.core.limits.batch
    items = value["items"]
    if not set(value) <= {"items", "tenant"} or not isinstance(items, list):
        raise InputError('a batch is {"items": [...]}, and "tenant" where needed', field="items")
    if not 1 <= len(items) <= limit:
        raise InputError(f"a batch has 1 to {limit} items", field="items")
    named = validated(TenantQuery, {"tenant": value.get("tenant")})
    wanted = [_try_item(bodies, item) for item in items]
    told = await uses.run(asked.caller, asked.tenant(named.tenant), key, verb, wanted)
    describe = asked.services.core.describe
    return {
        "results": [
            describe(item) if isinstance(item, KmsError) else {"status": 200, "body": item}
            for item in told
        ]
    }


def _try_item(bodies: UseBodies, item: Any) -> Item | KmsError:
    try:
        return item_of(validated(bodies.item, item))
    except InputError as error:
        return error


def _add(name: str, handler: Handler) -> None:
    async def route(asked: Asking, key: Named) -> Response:
        return await handler(asked, key)

    router.post(
        f"/v1/keys/{{key}}/{name}",
        name=handler.__name__,
        description=_SENTENCES[name],
        response_model=answers.KeyUsed | answers.KeyUsedBatch,
        responses=refusals(404, 409),
        openapi_extra=without_key(takes_either(BODIES[name].one, BODIES[name].many)),
    )(route)


for _name, _use in HANDLERS.items():
    _add(_name, _use)


@router.post(
    "/v1/keys:random",
    response_model=answers.RandomAnswer,
    responses=refusals(),
    openapi_extra=without_key(takes(schemas.RandomBody)),
)
async def make_random(asked: Asking) -> Response:
    """Random bytes made on the service's own token."""
    asked.require(Action.USE_KEYS)
    size = asked.read(schemas.RandomBody).size
    return answer(await asked.services.keys.use.random(size))
