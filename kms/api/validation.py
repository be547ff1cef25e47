"""Typed values out of parsed JSON, and one `InputError` out of what pydantic finds wrong.

Messages name the place and the rule, never what was sent.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    StringConstraints,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from kms.services.errors import InputError
from kms.wire import DEVICE_PATTERN, TENANT_PATTERN, USER_PATTERN, WireError, unb64

M = TypeVar("M", bound=BaseModel)

_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,32}")


def _text(pattern: str) -> Any:
    return StringConstraints(pattern=rf"^{pattern}$")


UserText = Annotated[str, _text(USER_PATTERN)]
DeviceText = Annotated[str, _text(DEVICE_PATTERN)]
TenantText = Annotated[str, _text(TENANT_PATTERN)]
PrincipalText = Annotated[str, _text(DEVICE_PATTERN)]
SlotText = Annotated[str, _text("[a-z0-9-]{1,32}")]
NameText = Annotated[str, _text("[A-Za-z0-9.-]{1,64}")]
EnrolmentText = Annotated[str, _text("[0-9a-f]{32}")]
SerialText = Annotated[str, _text("(?:[0-9a-f]{2}){1,20}")]
DomainText = Annotated[str, StringConstraints(min_length=1, max_length=253)]


def decoded(value: object) -> object:
    """Bytes from base64, for models."""
    if not isinstance(value, str):
        return value  # the field's own type says what is wrong
    try:
        return unb64(value)
    except (WireError, ValueError) as error:
        raise PydanticCustomError("base64", "Not standard base64 with padding") from error


def _described(size: int) -> WithJsonSchema:
    """The schema of at most `size` bytes in base64, for pydantic would call them binary."""
    return WithJsonSchema(
        {
            "type": "string",
            "contentEncoding": "base64",
            "minLength": 4,
            "maxLength": 4 * ((size + 2) // 3),
        }
    )


PublicKeyBytes = Annotated[
    bytes,
    BeforeValidator(decoded),
    Field(min_length=1, max_length=8 << 10),
    _described(8 << 10),
]
"""SubjectPublicKeyInfo in base64; ML-KEM-1024 with P-384, the largest, has 1.7 KB."""
ProofBytes = Annotated[
    bytes,
    BeforeValidator(decoded),
    Field(min_length=1, max_length=16 << 10),
    _described(16 << 10),
]
"""Signature or MAC in base64; that of ML-DSA-87, the largest, has 4.6 KB."""


def validated(model: type[M], value: Any) -> M:
    """A parsed JSON value as the model has it.

    Raises:
        InputError: It is not; `field` says where.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False, include_input=False)
        raise input_error(errors) from None  # the original quotes what was sent


def input_error(errors: Sequence[Mapping[str, Any]]) -> InputError:
    """The first of pydantic's errors as ours."""
    first = errors[0]
    return InputError(str(first["msg"]), field=_path(first["loc"]) or None)


def _path(location: Sequence[str | int]) -> str:
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            # A member's name may come from the caller: only a harmless one is repeated.
            name = part if _PLAIN.fullmatch(part) else "*"
            path += f".{name}" if path else name
    return path
