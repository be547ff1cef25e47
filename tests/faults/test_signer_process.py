"""The signer process under kill -9, hostile clients, a token taken away and its own restarts."""

import asyncio
import base64
import contextlib
import hashlib
import os
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from hsm_drivers import frames
from hsm_drivers.client import SignerClient
from hsm_drivers.errors import (
    HsmError,
    StatementRefusedError,
    TokenUnavailableError,
    UnsupportedError,
)
from hsm_drivers.journal import Journal
from hsm_drivers.ports import KeySpec, Purpose, Statement
from hsm_drivers.state import SignerState
from tests.support import signer as support
from tests.support.signer import (
    CA_SPEC,
    LOG_SPEC,
    ROOT,
    SignerProcess,
    certificate,
    checkpoint,
    wait_until,
)
from tests.support.softhsm import SoftHsm

Start = Callable[..., SignerProcess]


@pytest.fixture
def start(softhsm: SoftHsm, tmp_path: Path) -> Iterator[Start]:
    """Starts signers on one directory; none outlives the test."""
    started: list[SignerProcess] = []

    def start(**options: object) -> SignerProcess:
        process = support.start(tmp_path / "signer", softhsm, **options)  # type: ignore[arg-type]
        started.append(process)
        return process

    yield start
    for process in started:
        if process.process.poll() is None:
            process.kill()


@contextlib.asynccontextmanager
async def client(process: SignerProcess) -> AsyncIterator[SignerClient]:
    connected = SignerClient(process.socket, timeout=20)
    try:
        yield connected
    finally:
        await connected.aclose()


async def ceremony(process: SignerProcess, *specs: KeySpec) -> None:
    async with client(process) as signer:
        for spec in specs:
            await signer.generate(spec)


def batch(number: int, size: int = 100) -> list[Statement]:
    return [certificate(b"%d/%d" % (number, index)) for index in range(size)]


async def sign_until_it_breaks(process: SignerProcess) -> list[Statement]:
    """What was answered before the signer died."""
    answered: list[Statement] = []
    async with client(process) as signer:
        with contextlib.suppress(TokenUnavailableError):
            for number in range(10_000):
                statements = batch(number)
                outcomes = await signer.sign(statements)
                assert all(isinstance(outcome, bytes) for outcome in outcomes)
                answered += statements
    return answered


@pytest.mark.parametrize("delay", [0.05, 0.11, 0.17])
def test_kill_9_amid_batches_loses_no_journal_entry(start: Start, delay: float) -> None:
    process = start()
    asyncio.run(ceremony(process, CA_SPEC))
    timer = threading.Timer(delay, process.kill)
    timer.start()
    answered = asyncio.run(sign_until_it_breaks(process))
    timer.join()

    async def after() -> None:
        async with client(start()) as signer:
            entries = await signer.journal(0, 1_000_000)
            assert [entry.counter for entry in entries] == list(range(1, len(entries) + 1))
            digests = [entry.digest for entry in entries]
            wanted = [hashlib.sha256(statement.message).digest() for statement in answered]
            assert digests[: len(wanted)] == wanted
            assert len(entries) - len(wanted) in (0, 100)  # at most the batch that got no answer
            (outcome,) = await signer.sign([certificate(b"again")])
            assert isinstance(outcome, bytes)

    asyncio.run(after())


def test_a_torn_journal_is_cut_and_told(start: Start) -> None:
    process = start()
    asyncio.run(ceremony(process, CA_SPEC))

    async def first() -> None:
        async with client(process) as signer:
            await signer.sign(batch(0, 5))

    asyncio.run(first())
    process.kill()
    path = process.state / "journal"
    with path.open("ab") as journal:
        journal.write(path.read_bytes()[:100])

    async def second() -> None:
        async with client(start()) as signer:
            health = await signer.health()
            assert health.ready
            assert "100 bytes" in health.detail
            await signer.sign(batch(1, 1))
            assert [entry.counter for entry in await signer.journal(0, 10)] == [1, 2, 3, 4, 5, 6]

    asyncio.run(second())
    assert "were cut off" in process.log


def test_heads_outlive_the_process(start: Start) -> None:
    process = start()
    asyncio.run(ceremony(process, LOG_SPEC))

    async def sign(process: SignerProcess, statement: Statement) -> bytes | HsmError:
        async with client(process) as signer:
            return (await signer.sign([statement]))[0]

    assert isinstance(asyncio.run(sign(process, checkpoint(7))), bytes)
    process.kill()
    process = start()
    for statement in (checkpoint(6), checkpoint(7, b"other")):
        assert isinstance(asyncio.run(sign(process, statement)), StatementRefusedError)
    assert isinstance(asyncio.run(sign(process, checkpoint(7))), bytes)
    assert isinstance(asyncio.run(sign(process, checkpoint(8))), bytes)


def test_a_stop_finishes_the_batch_at_hand(start: Start) -> None:
    process = start()
    asyncio.run(ceremony(process, CA_SPEC))

    async def scenario() -> None:
        async with client(process) as signer:
            request = asyncio.create_task(signer.sign(batch(0, 2000)))
            await asyncio.to_thread(
                wait_until, lambda: (process.state / "journal").stat().st_size > 0
            )
            process.process.terminate()
            assert all(isinstance(outcome, bytes) for outcome in await request)
            assert await asyncio.to_thread(process.process.wait, 10) == 0
            with pytest.raises(TokenUnavailableError):
                await signer.sign(batch(1, 1))

    asyncio.run(scenario())


def test_the_client_finds_a_restarted_signer(start: Start) -> None:
    process = start()
    asyncio.run(ceremony(process, CA_SPEC))

    async def scenario() -> None:
        async with client(process) as signer:
            assert len(await signer.sign(batch(0, 3))) == 3
            process.kill()
            with pytest.raises(TokenUnavailableError, match=r"broke off|cannot be reached"):
                await signer.sign(batch(1, 3))
            await asyncio.to_thread(start)
            assert len(await signer.sign(batch(1, 3))) == 3
            assert signer.waiting == 0

    asyncio.run(scenario())


def test_keys_are_made_in_a_ceremony_only(start: Start) -> None:
    async def scenario(process: SignerProcess) -> None:
        async with client(process) as signer:
            with pytest.raises(UnsupportedError, match="ceremony"):
                await signer.generate(CA_SPEC)
            assert await signer.keys() == []

    asyncio.run(scenario(start(ceremony=False)))


def test_other_users_are_kept_out(start: Start) -> None:
    process = start(uids=(os.getuid() + 1,))

    async def scenario() -> None:
        async with client(process) as signer:
            with pytest.raises(TokenUnavailableError):
                await signer.health()

    asyncio.run(scenario())
    assert f"user {os.getuid()} tried to connect" in process.log


def test_a_wrong_pin_ends_the_process_after_one_attempt(start: Start, softhsm: SoftHsm) -> None:
    process = start(pin="wrong-pin")
    assert process.process.wait(10) == 3
    assert process.log.count("pin-refused") == 1
    assert "wrong-pin" not in process.log
    assert _answers(start())


def test_a_state_directory_has_one_owner(start: Start) -> None:
    process = start()
    with pytest.raises(TokenUnavailableError, match="another signer owns"):
        SignerState(process.state)
    second = start()
    assert second.process.wait(10) == 3
    assert "another signer owns" in second.log


def test_a_token_taken_away_and_brought_back(start: Start, softhsm: SoftHsm) -> None:
    process = start()
    asyncio.run(ceremony(process, CA_SPEC))
    tokens, away = softhsm.directory / "tokens", softhsm.directory / "away"

    async def scenario() -> None:
        async with client(process) as signer:
            assert (await signer.health()).ready
            tokens.rename(away)
            health = await signer.health()
            assert not health.ready
            assert health.detail
            outcomes = await signer.sign(batch(0, 50))
            assert {type(outcome) for outcome in outcomes} == {TokenUnavailableError}
            away.rename(tokens)
            assert (await signer.health()).ready
            assert all(isinstance(outcome, bytes) for outcome in await signer.sign(batch(0, 50)))

    asyncio.run(scenario())
    assert process.stop() == 0
    tokens.rename(away)
    assert start().process.wait(10) == 3
    away.rename(tokens)
    asyncio.run(_signs(start()))


async def _signs(process: SignerProcess) -> None:
    async with client(process) as signer:
        (outcome,) = await signer.sign([certificate()])
        assert isinstance(outcome, bytes)


def test_a_swapped_token_is_noticed(start: Start, softhsm: SoftHsm) -> None:
    process = start()
    asyncio.run(ceremony(process, CA_SPEC))
    path = process.state / "keys.json"
    process.stop()
    with SignerState(process.state) as state:
        (record,) = state.records()
    path.write_bytes(path.read_bytes().replace(record.key_id.encode(), b"0" * 32))
    other = record.public_key[:-1] + bytes([record.public_key[-1] ^ 1])
    path.write_bytes(
        path.read_bytes().replace(base64.b64encode(record.public_key), base64.b64encode(other))
    )

    async def scenario() -> None:
        async with client(start()) as signer:
            health = await signer.health()
            assert not health.ready
            assert "not the one that the ceremony made" in health.detail

    asyncio.run(scenario())


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


def test_malformed_frames_end_their_own_connection_only(start: Start) -> None:
    process = start()
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


def test_half_frames_and_sudden_ends_disturb_no_one(start: Start) -> None:
    process = start()
    asyncio.run(ceremony(process, CA_SPEC))
    frame = frames.encode(
        frames.Sign(1, [frames.StatementFrame(support.CA, Purpose.CERTIFICATE, b"half", b"")])
    )
    for cut in (0, 1, 3, 4, 5, len(frame) - 1):
        with raw(process) as connection:
            connection.sendall(frame[:cut])
    with raw(process) as gone:
        gone.sendall(frame)
    lingering = raw(process)
    lingering.sendall(frame[:10])
    asyncio.run(_signs(process))
    lingering.sendall(frame[10:])
    header = lingering.recv(4, socket.MSG_WAITALL)
    body = lingering.recv(struct.unpack(">I", header)[0], socket.MSG_WAITALL)
    assert isinstance(frames.decode_answer(body), frames.Signed)
    lingering.close()


def test_a_client_that_takes_no_answers_stops_no_one(start: Start) -> None:
    process = start()
    asyncio.run(ceremony(process, CA_SPEC))
    greedy = raw(process)
    greedy.setblocking(False)
    request = frames.encode(frames.ReadKeys(1))
    with contextlib.suppress(BlockingIOError):
        for _ in range(1_000_000):
            greedy.sendall(request * 100)
    asyncio.run(_signs(process))
    assert process.stop() == 0
    greedy.close()


def test_connections_are_bounded(start: Start) -> None:
    process = start()
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(raw(process)) for _ in range(80)]
        assert any(ended(connection) for connection in connections[-16:])
    wait_until(lambda: _answers(process))


def _answers(process: SignerProcess) -> bool:
    async def ask() -> bool:
        async with client(process) as signer:
            with contextlib.suppress(TokenUnavailableError):
                return (await signer.health()).ready
            return False

    return asyncio.run(ask())


def test_many_clients_at_once_each_get_their_own(start: Start) -> None:
    process = start()
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


def test_a_wedged_signer_times_out(start: Start) -> None:
    process = start()
    observed: list[tuple[str, str]] = []

    async def scenario() -> None:
        signer = SignerClient(
            process.socket,
            timeout=0.2,
            observer=lambda operation, _, code: observed.append((operation, code)),
        )
        await signer.health()
        process.process.send_signal(signal.SIGSTOP)
        with pytest.raises(TokenUnavailableError, match=r"did not answer within 0\.2 s"):
            await signer.health()
        process.process.send_signal(signal.SIGCONT)
        assert (await signer.health()).ready
        await signer.aclose()
        with pytest.raises(TokenUnavailableError, match="closed on this side"):
            await signer.keys()

    asyncio.run(scenario())
    assert observed == [
        ("health", "ok"),
        ("health", "token-unavailable"),
        ("health", "ok"),
        ("keys", "token-unavailable"),
    ]


def test_everything_on_disk_is_private(start: Start) -> None:
    process = start()
    asyncio.run(ceremony(process, CA_SPEC, LOG_SPEC))
    modes = {
        path.name: stat.S_IMODE(path.stat().st_mode)
        for path in [process.state, *process.state.iterdir()]
    }
    assert modes == {
        "state": 0o700,
        "lock": 0o600,
        "keys.json": 0o600,
        "heads.json": 0o600,
        "journal": 0o600,
    }


def limit_files(process: SignerProcess, size: str) -> None:
    subprocess.run(
        ["prlimit", "--pid", str(process.process.pid), f"--fsize={size}:unlimited"], check=True
    )


def test_a_full_disk_signs_nothing(start: Start, tmp_path: Path) -> None:
    """RLIMIT_FSIZE stands for the full disk: the journal takes no further entry."""
    process = start()
    asyncio.run(ceremony(process, CA_SPEC))

    async def scenario() -> None:
        async with client(process) as signer:
            await signer.sign(batch(0, 10))
            limit = (process.state / "journal").stat().st_size + 100
            limit_files(process, str(limit))
            outcomes = await signer.sign(batch(1, 10))
            assert {type(outcome) for outcome in outcomes} == {TokenUnavailableError}
            assert "cannot be written" in str(outcomes[0])
            limit_files(process, "unlimited")
            outcomes = await signer.sign(batch(2, 10))
            assert all(isinstance(outcome, bytes) for outcome in outcomes)

    asyncio.run(scenario())
    process.stop()
    journal = Journal(process.state / "journal")
    digests = [entry.digest for entry in journal.entries(0, 100)]
    journal.close()
    wanted = batch(0, 10) + batch(2, 10)
    assert digests == [hashlib.sha256(statement.message).digest() for statement in wanted]


def test_the_client_loads_no_pkcs11() -> None:
    """P6: what the worker imports brings no PKCS#11 binding along."""
    code = (
        "import sys, hsm_drivers.client, hsm_drivers.inprocess;"
        "sys.exit('pkcs11' in sys.modules or 'hsm_drivers.pkcs11' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
