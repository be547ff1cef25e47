"""Service keys as a worker uses them, through a signer's socket; and what they are held against."""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import mlkem
from measures import raw_rate
from places import BenchError

from hsm_drivers.client import SignerClient
from hsm_drivers.errors import HsmError
from hsm_drivers.operations import Decapsulate, Encrypt, MakeMac, ServiceCall
from hsm_drivers.ports import Component, KeyLabel, KeyRecord, KeySpec, Operation
from kms.device.encapsulation import parse_slot_key
from policies.decisions import Protection

MESSAGE_SIZE = 1024
"""Bytes that are authenticated or encrypted in one call."""
_AT_ONCE = 2
_ASSOCIATED = bytes(16)

Rate = Callable[[float], float]
"""So many a second, measured for so many seconds."""


def batches(socket: Path, size: int) -> tuple[Rate, Rate, Rate]:
    """MACs, encryptions and hybrid decapsulations of new keys, `size` in a batch."""
    mac, cipher, slot = asyncio.run(_keys(socket))
    message = os.urandom(MESSAGE_SIZE)
    ciphertext = _encapsulated(slot)
    calls: tuple[ServiceCall, ...] = (
        MakeMac(mac.label, message),
        Encrypt(cipher.label, message, _ASSOCIATED),
        Decapsulate(slot.label, ciphertext),
    )
    one, two, three = (partial(_rate, socket, [call] * size) for call in calls)
    return one, two, three


def components(program: Path, token: Path, label: str) -> Rate:
    """What a hybrid's parts cost one after the other: X25519 in the token, ML-KEM-768 in software.

    No token at hand has both; the software is OpenSSL's, as in the signer.
    """

    def rate(seconds: float) -> float:
        derived = raw_rate(program, token, label, seconds / 2, "x25519")
        return 1 / (1 / derived + 1 / _ml_kem_rate(seconds / 2))

    return rate


def _ml_kem_rate(seconds: float) -> float:
    private = mlkem.MLKEM768PrivateKey.generate()
    _, ciphertext = private.public_key().encapsulate()
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        private.decapsulate(ciphertext)
        done += 1
    return done / (time.perf_counter() - started)


async def _keys(socket: Path) -> list[KeyRecord]:
    client = SignerClient(socket)
    try:
        return [await client.generate(spec) for spec in _specs()]
    finally:
        await client.aclose()


def _specs() -> tuple[KeySpec, ...]:
    module = Component("ML-KEM-768", Protection.WRAPPED)
    curve = Component("X25519", Protection.TOKEN)
    return (
        _spec(1, "HMAC-SHA-256", Operation.MAC),
        _spec(2, "AES-256-GCM", Operation.ENCRYPT),
        _spec(3, "MLKEM768-X25519", Operation.DECAPSULATE, module, curve),
    )


def _spec(number: int, algorithm: str, does: Operation, *parts: Component) -> KeySpec:
    label = KeyLabel(f"s-{number:032x}-1")
    return KeySpec(label, algorithm, (), {}, operations=(does,), components=parts)


def _encapsulated(slot: KeyRecord) -> bytes:
    kem, public_key = parse_slot_key(slot.public_key)
    return kem.encapsulate(public_key).ciphertext


def _rate(socket: Path, calls: Sequence[ServiceCall], seconds: float) -> float:
    return asyncio.run(_calls_a_second(socket, calls, seconds))


async def _calls_a_second(socket: Path, calls: Sequence[ServiceCall], seconds: float) -> float:
    """So many batches at a time as keep the signer from waiting for its callers."""
    client = SignerClient(socket)
    done = 0

    async def keep_going() -> None:
        nonlocal done
        while time.perf_counter() - started < seconds:
            for outcome in await client.use(calls):
                if isinstance(outcome, HsmError):
                    raise BenchError(f"the signer refused a call: {outcome}")
            done += len(calls)

    try:
        await client.use(calls[:1])  # connected
        started = time.perf_counter()
        await asyncio.gather(*(keep_going() for _ in range(_AT_ONCE)))
        return done / (time.perf_counter() - started)
    finally:
        await client.aclose()
