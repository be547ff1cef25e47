"""Frames of MessagePack over a stream: a length in four bytes, big-endian, and that many bytes."""

import struct
from typing import Any, TypeVar

import msgspec

MAX_FRAME = 8 * 1024 * 1024
"""Bytes; a full CRL of a hundred thousand entries fits."""

HEADER = struct.Struct(">I")
_M = TypeVar("_M")
_encoder = msgspec.msgpack.Encoder()


class FrameError(Exception):
    """Bytes that are no frame, or a message too large for one."""


def encode(message: Any) -> bytes:
    """A message as a whole frame.

    Raises:
        FrameError: It would be larger than MAX_FRAME, or holds what MessagePack has no form for.
    """
    try:
        body = _encoder.encode(message)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise FrameError(f"the message has no form on the wire: {error}") from error
    return HEADER.pack(checked_size(len(body))) + body


def checked_size(size: int) -> int:
    """The size, if a frame may have it.

    Raises:
        FrameError: It may not.
    """
    if size > MAX_FRAME:
        raise FrameError(f"a frame has at most {MAX_FRAME} bytes, not {size}")
    return size


def decode(decoder: msgspec.msgpack.Decoder[_M], body: bytes) -> _M:
    """A frame's body as a message.

    Raises:
        FrameError: It is none.
    """
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FrameError(f"not a message of this protocol: {error}") from error


class FrameBuffer:
    """Bytes as they come in, frames as they are complete."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> None:
        """Add what was received."""
        self._bytes += data

    def next(self) -> bytes | None:
        """Body of the next whole frame, or None until there is one.

        Raises:
            FrameError: Its header claims more than a frame may have.
        """
        if len(self._bytes) < HEADER.size:
            return None
        end = HEADER.size + checked_size(HEADER.unpack_from(self._bytes)[0])
        if len(self._bytes) < end:
            return None
        body = bytes(memoryview(self._bytes)[HEADER.size : end])
        del self._bytes[:end]
        return body
