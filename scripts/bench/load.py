"""The load client: a process of its own that plays messaging servers and their devices.

Commands come as JSON lines on standard input, one answer line each on standard output:

    {"do": "make", "bundle": B, "devices": N}       make devices with fresh keys, orders encoded
    {"do": "batches", "seconds": S, "connections": C, "size": N}
    {"do": "singles", "seconds": S, "connections": C}
    {"do": "paced", "seconds": S, "connections": C, "rate": R}      singles, R devices a second
    {"do": "sample"}                                both answers for one device, as they came

Keys are made and orders encoded in `make`, outside of any measured time. What is measured includes
the client's own HTTP, its reading of answers and the devices' proofs over the transcripts.

`batches` and `singles` send again as soon as they are answered, and so find the highest rate.
`paced` sends when it is time, at random moments (a Poisson process), whether the service has kept
up or not; latencies count from the moment that a device was due, so that a service which stalls
cannot hide it by stalling its client, too ("coordinated omission").
"""

import asyncio
import json
import random
import secrets
import ssl
import sys
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import asdict, dataclass, field
from typing import Any

import msgspec
import uvloop
from wire_client import Connection, LoadError, Target

from kms import wire
from kms.device import SlotKey

SLOTS = {
    "device-identity": {"identity": "ECDSA-P256"},
    "device": {"identity": "ECDSA-P256", "kem": "MLKEM768-X25519"},
}
"""Algorithms of the measured devices, by bundle and slot."""


class Ordered(msgspec.Struct):
    """What a device needs of the answer to its order."""

    enrolment: str
    transcript: str
    challenges: dict[str, str]


class _OrderedItem(msgspec.Struct):
    status: int
    body: Ordered | None = None
    problem: msgspec.Raw = msgspec.Raw()


class _OrderedItems(msgspec.Struct):
    results: list[_OrderedItem]


class _CertifiedItem(msgspec.Struct):
    status: int


class _CertifiedItems(msgspec.Struct):
    results: list[_CertifiedItem]


class _Certified(msgspec.Struct):
    enrolment: str


ORDERED = msgspec.json.Decoder(Ordered)
ORDERED_ITEMS = msgspec.json.Decoder(_OrderedItems)
CERTIFIED = msgspec.json.Decoder(_Certified)
CERTIFIED_ITEMS = msgspec.json.Decoder(_CertifiedItems)


@dataclass(frozen=True, slots=True)
class Bot:
    """A device that proves whatever transcript it is sent: for load, never for people."""

    keys: dict[str, SlotKey]
    order: bytes

    def proofs(self, answer: Ordered) -> dict[str, str]:
        """A proof per slot."""
        transcript = wire.unb64(answer.transcript)
        return {
            name: wire.b64(
                key.prove(
                    name,
                    transcript,
                    wire.unb64(answer.challenges[name]) if key.takes_challenge else b"",
                )
            )
            for name, key in self.keys.items()
        }


def make_bot(bundle: str) -> Bot:
    """A device with fresh keys, of a user of its own."""
    name = secrets.token_hex(8)
    keys = {slot: SlotKey.generate(algorithm) for slot, algorithm in SLOTS[bundle].items()}
    order = {
        "user": f"user-{name}@bench.example",
        "device": f"device-{name}",
        "bundle": bundle,
        "slots": [
            {
                "name": slot,
                "algorithm": key.algorithm,
                "public_key": wire.b64(key.public_key),
            }
            for slot, key in keys.items()
        ],
    }
    return Bot(keys, msgspec.json.encode(order))


@dataclass(slots=True)
class Result:
    """What a run came to.

    Attributes:
        began: When it did, by the clock that all processes share (`time.monotonic`).
        latencies: Of every request, in seconds; with a pace, of every device from when it was due.
        marks: Seconds since `began` and certificates, of each batch or device.
    """

    began: float = 0.0
    seconds: float = 0.0
    client_cpu: float = 0.0
    requests: int = 0
    devices: int = 0
    certificates: int = 0
    latencies: list[float] = field(default_factory=list)
    marks: list[tuple[float, int]] = field(default_factory=list)

    def done(self, devices: int, certificates: int) -> None:
        """Count what was certified."""
        self.devices += devices
        self.certificates += certificates
        self.marks.append((time.monotonic() - self.began, certificates))


class Load:
    """Devices that wait to be enrolled, and the ways to enrol them."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._waiting: deque[Bot] = deque()

    async def make(self, bundle: str, devices: int) -> dict[str, Any]:
        """Replace the waiting devices by that many new ones."""
        self._waiting = deque(make_bot(bundle) for _ in range(devices))
        return {"devices": devices}

    async def batches(self, seconds: float, connections: int, size: int) -> dict[str, Any]:
        """Enrol in batches until the time is over."""
        return await self._run(
            seconds, connections, lambda link, result: self._batch(link, result, size)
        )

    async def singles(self, seconds: float, connections: int) -> dict[str, Any]:
        """Enrol one by one until the time is over."""
        return await self._run(seconds, connections, self._single)

    async def _run(
        self,
        seconds: float,
        connections: int,
        step: Callable[["_Timed", Result], Coroutine[Any, Any, None]],
    ) -> dict[str, Any]:
        context = self._target.context()
        links = [await self._open(context) for _ in range(connections)]
        result = Result(began=time.monotonic())
        cpu = time.process_time()

        async def keep_going(link: Connection) -> None:
            timed = _Timed(link, result)
            while self._waiting and time.monotonic() - result.began < seconds:
                await step(timed, result)

        await asyncio.gather(*map(keep_going, links))
        result.seconds = time.monotonic() - result.began
        result.client_cpu = time.process_time() - cpu
        for link in links:
            await link.close()
        return asdict(result)

    async def paced(self, seconds: float, connections: int, rate: float) -> dict[str, Any]:
        """Enrol one by one, each when it is due."""
        context = self._target.context()
        links = [await self._open(context) for _ in range(connections)]
        due = deque(_moments(seconds, rate))
        result = Result(began=time.monotonic())

        async def take_turns(link: Connection) -> None:
            timed = _Timed(link, Result())
            while due and self._waiting:
                moment = due.popleft()
                await asyncio.sleep(max(0.0, moment - (time.monotonic() - result.began)))
                await self._single(timed, result)
                result.latencies.append(time.monotonic() - result.began - moment)

        await asyncio.gather(*map(take_turns, links))
        result.seconds = time.monotonic() - result.began
        for link in links:
            await link.close()
        return asdict(result)

    async def sample(self) -> dict[str, Any]:
        """Enrol one device; the documents that it was answered with."""
        bot, anything = make_bot("device-identity"), msgspec.json.Decoder()
        link = await self._open(self._target.context())
        ordered = await link.post("/v1/enrolments", bot.order, anything)
        proofs = bot.proofs(msgspec.convert(ordered, Ordered))
        path = f"/v1/enrolments/{ordered['enrolment']}/proofs"
        certified = await link.post(path, msgspec.json.encode({"proofs": proofs}), anything)
        await link.close()
        return {"ordered": ordered, "certified": certified}

    async def _open(self, context: ssl.SSLContext) -> Connection:
        return await Connection.open(self._target, context)

    async def _batch(self, link: "_Timed", result: Result, size: int) -> None:
        bots = self._take(size)
        order = b'{"items":[' + b",".join(bot.order for bot in bots) + b"]}"
        ordered = (await link.post("/v1/enrolments:batch", order, ORDERED_ITEMS)).results
        items = [
            {"enrolment": _body(item).enrolment, "proofs": bot.proofs(_body(item))}
            for bot, item in zip(bots, ordered, strict=True)
        ]
        body = msgspec.json.encode({"items": items})
        certified = (await link.post("/v1/enrolments:batch-proofs", body, CERTIFIED_ITEMS)).results
        if any(item.status != 201 for item in certified) or len(certified) != len(bots):
            raise LoadError("a device of a batch was not certified")
        result.done(len(bots), sum(len(bot.keys) for bot in bots))

    async def _single(self, link: "_Timed", result: Result) -> None:
        (bot,) = self._take(1)
        ordered = await link.post("/v1/enrolments", bot.order, ORDERED)
        body = msgspec.json.encode({"proofs": bot.proofs(ordered)})
        await link.post(f"/v1/enrolments/{ordered.enrolment}/proofs", body, CERTIFIED)
        result.done(1, len(bot.keys))

    def _take(self, most: int) -> list[Bot]:
        return [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]


class _Timed:
    """A connection whose calls are counted and timed."""

    def __init__(self, link: Connection, result: Result) -> None:
        self._link = link
        self._result = result

    async def post(self, path: str, body: bytes, answer: msgspec.json.Decoder[Any]) -> Any:
        """As `Connection.post`."""
        started = time.perf_counter()
        value = await self._link.post(path, body, answer)
        self._result.latencies.append(time.perf_counter() - started)
        self._result.requests += 1
        return value


def _moments(seconds: float, rate: float) -> list[float]:
    """Seconds after the beginning at which devices are due; one at least."""
    now = random.expovariate(rate)
    moments = [now]
    while (now := now + random.expovariate(rate)) < seconds:
        moments.append(now)
    return moments


def _body(item: _OrderedItem) -> Ordered:
    if item.body is None:
        raise LoadError(f"a device was refused: {bytes(item.problem)!r}")
    return item.body


async def main() -> None:
    """Do what standard input says until it ends."""
    lines = iter(sys.stdin.readline, "")
    load = Load(Target(**json.loads(next(lines))))
    commands: dict[str, Callable[..., Coroutine[Any, Any, dict[str, Any]]]]
    commands = {
        "make": load.make,
        "batches": load.batches,
        "singles": load.singles,
        "paced": load.paced,
        "sample": load.sample,
    }
    for line in lines:
        wanted = json.loads(line)
        answer = await commands[wanted.pop("do")](**wanted)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
