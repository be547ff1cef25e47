"""The signer and its clients: malformed, half, greedy, many, all at once."""

import asyncio
import contextlib
import hashlib
import os
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
import uvloop

from hsm_drivers import frames
from hsm_drivers.client import SignerClient
from hsm_drivers.errors import StatementRefusedError, TokenUnavailableError
from hsm_drivers.ports import Purpose
from tests.support.running import reachable_directory
from tests.support.signer import (
    CA,
    CA_SPEC,
    SignerProcess,
    Start,
    answers,
    ceremony,
    certificate,
    client,
    signs,
    wait_until,
)


def raw(process: SignerProcess) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(5)
    connection.connect(str(process.socket))
    return connection


def ended(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


MALFORMED = [
    struct.pack(">I", frames.MAX_FRAME + 1),
    struct.pack(">I", 2**32 - 1) + b"x" * 100,
    struct.pack(">I", 0),
    struct.pack(">I", 4) + b"\xff\xff\xff\xff",
    struct.pack(">I", 1) + b"\x80",
    b"GET / HTTP/1.1\r\nHost: signer\r\n\r\n",
]


def test_malformed_frames_end_their_own_connection_only(start_signer: Start) -> None:
    process = start_signer()
    asyncio.run(ceremony(process, CA_SPEC))

    async def scenario() -> None:
        async with client(process) as signer:
            await signer.health()
            for data in MALFORMED:
                with raw(process) as connection:
                    connection.sendall(data)
                    assert await asyncio.to_thread(ended, connection), data
                (outcome,) = await signer.sign([certificate(data)])
                assert isinstance(outcome, bytes)

    asyncio.run(scenario())


def test_half_frames_and_sudden_ends_disturb_no_one(start_signer: Start) -> None:
    process = start_signer()
    asyncio.run(ceremony(process, CA_SPEC))
    frame = frames.encode(
        frames.Sign(1, [frames.StatementFrame(CA, Purpose.CERTIFICATE, b"half", b"")])
    )
    for cut in (0, 1, 3, 4, 5, len(frame) - 1):
        with raw(process) as connection:
            connection.sendall(frame[:cut])
    with raw(process) as gone:
        gone.sendall(frame)
    lingering = raw(process)
    lingering.sendall(frame[:10])
    asyncio.run(signs(process))
    lingering.sendall(frame[10:])
    header = lingering.recv(4, socket.MSG_WAITALL)
    body = lingering.recv(struct.unpack(">I", header)[0], socket.MSG_WAITALL)
    assert isinstance(frames.decode_answer(body), frames.Signed)
    lingering.close()


def test_a_client_that_takes_no_answers_stops_no_one(start_signer: Start) -> None:
    process = start_signer()
    asyncio.run(ceremony(process, CA_SPEC))
    greedy = raw(process)
    greedy.setblocking(False)
    request = frames.encode(frames.ReadKeys(1))
    with contextlib.suppress(BlockingIOError):
        for _ in range(1_000_000):
            greedy.sendall(request * 100)
    asyncio.run(signs(process))
    assert process.stop() == 0
    greedy.close()


SLOW = 0.02
LARGE = [certificate(b"large %d" % number) for number in range(150)]


def test_a_large_batch_on_a_slow_token_keeps_no_one_waiting_for_a_word(start_signer: Start) -> None:
    """The supervisor's probe asks for the keys: unanswered for long enough, it kills the signer."""
    process = start_signer(slow=SLOW)
    asyncio.run(ceremony(process, CA_SPEC))
    waits: list[float] = []

    async def scenario() -> None:
        async with client(process) as signer, client(process) as probe, client(process) as other:
            large = asyncio.create_task(signer.sign(LARGE))
            journal = process.state / "journal"
            await asyncio.to_thread(wait_until, lambda: journal.stat().st_size > 0)
            behind = asyncio.create_task(other.sign([certificate(b"behind")]))
            while not large.done():
                asked = time.monotonic()
                assert await probe.keys()
                assert (await probe.health()).ready
                assert large.done() or not behind.done()
                waits.append(time.monotonic() - asked)
            outcomes = [*await large, *await behind]
            assert all(isinstance(outcome, bytes) for outcome in outcomes)
            digests = [entry.digest for entry in await probe.journal(0, 1000)]
            statements = [*LARGE, certificate(b"behind")]
            assert digests == [hashlib.sha256(item.message).digest() for item in statements]

    asyncio.run(scenario())
    assert len(waits) > 3
    assert max(waits) < len(LARGE) * SLOW / 2


def test_connections_are_bounded(start_signer: Start) -> None:
    process = start_signer()
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(raw(process)) for _ in range(80)]
        assert any(ended(connection) for connection in connections[-16:])
    wait_until(lambda: asyncio.run(answers(process)))


def test_many_clients_at_once_each_get_their_own(start_signer: Start) -> None:
    process = start_signer()
    asyncio.run(ceremony(process, CA_SPEC))

    async def one(number: int) -> None:
        async with client(process) as signer:
            results = await asyncio.gather(
                *(signer.sign([certificate(b"%d" % number), certificate(b"bad")]) for _ in range(5))
            )
            assert all(
                isinstance(good, bytes) and isinstance(bad, StatementRefusedError)
                for good, bad in results
            )

    async def scenario() -> None:
        await asyncio.gather(*(one(number) for number in range(10)))

    asyncio.run(scenario())


def test_requests_at_the_very_moment_of_its_death_are_told_so(start_signer: Start) -> None:
    """A transport is closed for a turn of the loop before the client's reader wakes and sees it."""
    process = start_signer()
    asyncio.run(ceremony(process, CA_SPEC))

    async def scenario() -> None:
        async with client(process) as signer:
            await signer.health()
            asked = []
            while not asked or not asked[0].done():
                asked.append(asyncio.create_task(signer.keys()))
                await asyncio.sleep(0)
            process.process.kill()
            last = asyncio.create_task(signer.keys())
            while not last.done():  # a new request in every turn, until this one has failed
                asked.append(asyncio.create_task(signer.keys()))
                await asyncio.sleep(0)
            outcomes = await asyncio.gather(last, *asked, return_exceptions=True)
            failures = [item for item in outcomes if isinstance(item, BaseException)]
            assert failures
            assert {type(item) for item in failures} == {TokenUnavailableError}

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # as the worker's
        runner.run(scenario())


SQUATTER = """
import os, socket, sys
uid = int(sys.argv[2])
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print("listening", flush=True)
while True:
    peer, _ = listener.accept()
    print("asked" if peer.recv(1) else "turned away", flush=True)
"""


def test_a_socket_of_another_user_is_asked_nothing() -> None:
    """Root becomes nobody, in a folder that everybody may write in; else it is our own socket."""
    stranger = 65534 if os.geteuid() == 0 else os.geteuid()
    with reachable_directory() as folder:
        place = folder / "shared"
        place.mkdir()
        place.chmod(0o777)
        path = place / "socket"
        squatter = subprocess.Popen(
            [sys.executable, "-I", "-c", SQUATTER, str(path), str(stranger)],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert squatter.stdout is not None
            assert squatter.stdout.readline() == "listening\n"
            asyncio.run(ask_the_squatter(path, stranger))
            heard = squatter.stdout.readline()
        finally:
            squatter.kill()
            squatter.communicate()
    assert heard == ("asked\n" if stranger == os.geteuid() else "turned away\n")


async def ask_the_squatter(path: Path, stranger: int) -> None:
    asked = SignerClient(path, greeting=0.5)
    message = f"is user {stranger}'s" if stranger != os.geteuid() else "no signer answers"
    with pytest.raises(TokenUnavailableError, match=message):
        await asked.keys()
    await asked.aclose()
