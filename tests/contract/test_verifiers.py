"""Whoever verifies signatures gives the same verdicts, a process of its own included."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace

import msgspec
import pytest

from kms.device.keys import SlotKey
from kms.processes import verifier as module
from kms.processes.verifier import FEW, MAX_CHECKS, VerifierProcess, verifier_process
from kms.services.verifying import InlineVerifier, SignatureCheck, SignatureVerifier
from kms.wire import sign_message
from tests.support.patience import until

pytestmark = pytest.mark.anyio
TRANSCRIPT = b"what is signed"
MESSAGE = sign_message(TRANSCRIPT)
Opening = Callable[[], AbstractAsyncContextManager[SignatureVerifier]]


@asynccontextmanager
async def inline() -> AsyncIterator[SignatureVerifier]:
    yield InlineVerifier()


@asynccontextmanager
async def never_started() -> AsyncIterator[SignatureVerifier]:
    """Its process could not be started: the worker goes on by itself."""
    yield VerifierProcess()


@pytest.fixture(params=[inline, verifier_process, never_started])
def opening(request: pytest.FixtureRequest) -> Opening:
    made: Opening = request.param
    return made


def check(algorithm: str = "ECDSA-P256") -> SignatureCheck:
    key = SlotKey.generate(algorithm)
    return SignatureCheck(
        algorithm, key.public_key, MESSAGE, key.prove("identity", TRANSCRIPT, b"")
    )


GOOD = {name: check(name) for name in ("ECDSA-P256", "ECDSA-P384", "Ed25519", "ML-DSA-65")}
P256 = GOOD["ECDSA-P256"]
BAD = [
    replace(P256, message=b"another"),
    replace(P256, signature=check().signature),
    replace(P256, spki=check().spki),
    replace(P256, signature=b""),
    replace(P256, signature=P256.signature + b"\0"),
    replace(P256, spki=b"no key"),
    replace(P256, algorithm="Ed25519"),
]


async def test_each_gets_its_own_verdict(opening: Opening) -> None:
    mixed = [*GOOD.values(), *BAD, P256]
    async with opening() as verifier:
        answers = await verifier.verify(mixed)
        assert [answer is None for answer in answers] == [True] * 4 + [False] * 7 + [True]
        assert all(answer is None or answer.strip() for answer in answers)
        for item, answer in zip(mixed, answers, strict=True):
            assert await verifier.verify([item]) == [answer]
        assert await verifier.verify([]) == []


async def test_callers_at_once_and_more_than_fits_a_frame(opening: Opening) -> None:
    many = [P256, BAD[0]] * (MAX_CHECKS // 2 + 5)
    async with opening() as verifier:
        long, *short = await asyncio.gather(
            verifier.verify(many), *(verifier.verify([BAD[1], P256]) for _ in range(20))
        )
    assert [answer is None for answer in long] == [True, False] * (MAX_CHECKS // 2 + 5)
    assert [[answer is None for answer in item] for item in short] == [[False, True]] * 20


async def test_a_killed_process_is_missed_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RESTART_SECONDS", 0.01)
    checks = [P256] * FEW + [BAD[0]]
    async with verifier_process() as verifier:
        first = verifier.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        answers = await verifier.verify(checks)
        assert [answer is None for answer in answers] == [True] * FEW + [False]
        await until(lambda: verifier.pid not in {None, first})
        again = await verifier.verify(checks)
        assert again == answers


@pytest.mark.parametrize("number", [0, 1])
async def test_verdicts_of_other_signatures_are_never_taken(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """An answer that is out of step, or too short for what was asked."""
    asked: list[bytes] = []

    async def out_of_step(_process: object, body: bytes) -> bytes:
        asked.append(body)
        return msgspec.msgpack.encode((number, [None] * (FEW + 1 - number)))

    monkeypatch.setattr(module, "_exchange", out_of_step)
    async with verifier_process() as verifier:
        answers = await verifier.verify([BAD[0]] * (FEW + 1))
        assert len(asked) == 1
        assert None not in answers
        assert verifier.pid is None
        monkeypatch.undo()
        await until(lambda: verifier.pid is not None)


async def test_it_ends_with_its_input_and_not_with_a_signal() -> None:
    async with verifier_process() as verifier:
        pid = verifier.pid
        assert pid is not None
        await verifier.verify([P256] * FEW)  # it is up
        os.kill(pid, signal.SIGTERM)
        assert await verifier.verify([P256] * FEW) == [None] * FEW
        assert verifier.pid == pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_frame_beyond_its_bound_ends_the_process() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-m", module.__name__],
        input=b"\xff" * 64,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b"")
