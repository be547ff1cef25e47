"""What passes between the signer and a token process: calls, and what concerns one token alone.

The frames are those of `framing`. An answer carries the number of its request; answers come in
the order of the requests.
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from hsm_drivers.calls import TokenCall
from hsm_drivers.errors import BY_CODE, HsmError
from hsm_drivers.framing import decode
from hsm_drivers.ports import Capability, KeyAttributes, KeyLabel
from hsm_drivers.vendor import Remedy

MAX_CALLS = 64
"""Most calls in a frame: while they are made the process is deaf."""
RANDOM_BYTES = 16
"""What a probe asks the token for."""


class _Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: Annotated[int, Meta(ge=0, le=2**63 - 1)]


class Fault(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An `HsmError` by its code, and what the token's profile says may mend it."""

    code: str
    message: str
    remedy: Remedy

    def raised(self) -> HsmError:
        """The error itself; of an unknown code the root class."""
        return BY_CODE.get(self.code, HsmError)(self.message)


class Make(_Message, frozen=True, tag="make"):
    """Make these calls, in order."""

    calls: Annotated[list[TokenCall], Meta(max_length=MAX_CALLS)]


class Prove(_Message, frozen=True, tag="prove"):
    """Show that the token is there: random bytes, and the public halves of these keys, read now."""

    labels: list[KeyLabel]


class Describe(_Message, frozen=True, tag="describe"):
    """What the token can do."""

    algorithms: list[str]
    """Registry names; the answer tells what each lacks."""


class Generate(_Message, frozen=True, tag="generate"):
    """As `ports.KeyStore.generate`."""

    label: KeyLabel
    algorithm: str
    transferable: bool


class Labels(_Message, frozen=True, tag="labels"):
    """As `ports.KeyStore.labels`."""

    only: KeyLabel | None = None


class Attributes(_Message, frozen=True, tag="attributes"):
    """As `ports.KeyStore.attributes`."""

    label: KeyLabel


class Destroy(_Message, frozen=True, tag="destroy"):
    """As `ports.KeyStore.destroy`."""

    label: KeyLabel


class Export(_Message, frozen=True, tag="export"):
    """As `ports.Transfer.export_key`."""

    label: KeyLabel
    trusted: KeyLabel


class Import(_Message, frozen=True, tag="import"):
    """As `ports.Transfer.import_key`."""

    label: KeyLabel
    algorithm: str
    trusted: KeyLabel
    wrapped: bytes
    public_key: bytes

    def __repr__(self) -> str:
        """Without the bytes."""
        return f"Import({self.label!r})"


class Made(_Message, frozen=True, tag="made"):
    """Outcome of each call, in order."""

    outcomes: list[bytes | Fault]


class Proved(_Message, frozen=True, tag="proved"):
    """SPKI of each key, empty for secret ones."""

    public_keys: list[bytes | Fault]


class Described(_Message, frozen=True, tag="described"):
    """Answer to `Describe`."""

    capabilities: list[Capability]
    algorithms: list[str]
    lacking: list[list[str]]


class Generated(_Message, frozen=True, tag="generated"):
    """Answer to `Generate` and `Import`, which gives no public key."""

    key_id: str
    public_key: bytes
    attributes: KeyAttributes


class Listed(_Message, frozen=True, tag="listed"):
    """Answer to `Labels`."""

    labels: list[KeyLabel]


class Read(_Message, frozen=True, tag="read"):
    """Answer to `Attributes`."""

    attributes: KeyAttributes


class Done(_Message, frozen=True, tag="done"):
    """Answer to `Destroy`, and to `Export` with the wrapped key."""

    value: bytes = b""


class Failed(_Message, frozen=True, tag="failed"):
    """The request came to an error."""

    fault: Fault


Request = Make | Prove | Describe | Generate | Labels | Attributes | Destroy | Export | Import
Answer = Made | Proved | Described | Generated | Listed | Read | Done | Failed

_requests: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(Request)
_answers: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(Answer)


def decode_request(body: bytes) -> Request:
    """A frame's body as a request.

    Raises:
        FrameError: It is none.
    """
    request: Request = decode(_requests, body)
    return request


def decode_answer(body: bytes) -> Answer:
    """A frame's body as an answer.

    Raises:
        FrameError: It is none.
    """
    answer: Answer = decode(_answers, body)
    return answer
