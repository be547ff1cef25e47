"""The signer process under kill -9, a token taken away, a full disk and its own restarts."""

import asyncio
import base64
import contextlib
import hashlib
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hsm_drivers.client import SignerClient
from hsm_drivers.errors import (
    HsmError,
    StatementRefusedError,
    TokenUnavailableError,
    UnsupportedError,
)
from hsm_drivers.journal import Journal
from hsm_drivers.ports import Statement
from hsm_drivers.state import SignerState
from tests.support.signer import (
    CA_SPEC,
    LOG_SPEC,
    ROOT,
    SERVICE_SPEC,
    SignerProcess,
    Start,
    answers,
    ceremony,
    certificate,
    checkpoint,
    client,
    signs,
    wait_until,
)
from tests.support.softhsm import SoftHsm


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
def test_kill_9_amid_batches_loses_no_journal_entry(start_signer: Start, delay: float) -> None:
    process = start_signer()
    asyncio.run(ceremony(process, CA_SPEC))
    timer = threading.Timer(delay, process.kill)
    timer.start()
    answered = asyncio.run(sign_until_it_breaks(process))
    timer.join()

    async def after() -> None:
        async with client(start_signer()) as signer:
            entries = await signer.journal(0, 1_000_000)
            assert [entry.counter for entry in entries] == list(range(1, len(entries) + 1))
            digests = [entry.digest for entry in entries]
            wanted = [hashlib.sha256(statement.message).digest() for statement in answered]
            assert digests[: len(wanted)] == wanted
            assert len(entries) - len(wanted) in (0, 100)  # at most the batch that got no answer
            (outcome,) = await signer.sign([certificate(b"again")])
            assert isinstance(outcome, bytes)

    asyncio.run(after())


def test_a_torn_journal_is_cut_and_told(start_signer: Start) -> None:
    process = start_signer()
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
        async with client(start_signer()) as signer:
            health = await signer.health()
            assert health.ready
            assert "100 bytes" in health.detail
            await signer.sign(batch(1, 1))
            assert [entry.counter for entry in await signer.journal(0, 10)] == [1, 2, 3, 4, 5, 6]

    asyncio.run(second())
    assert "were cut off" in process.log


def test_heads_outlive_the_process(start_signer: Start) -> None:
    process = start_signer()
    asyncio.run(ceremony(process, LOG_SPEC))

    async def sign(process: SignerProcess, statement: Statement) -> bytes | HsmError:
        async with client(process) as signer:
            return (await signer.sign([statement]))[0]

    assert isinstance(asyncio.run(sign(process, checkpoint(7))), bytes)
    process.kill()
    process = start_signer()
    for statement in (checkpoint(6), checkpoint(7, b"other")):
        assert isinstance(asyncio.run(sign(process, statement)), StatementRefusedError)
    assert isinstance(asyncio.run(sign(process, checkpoint(7))), bytes)
    assert isinstance(asyncio.run(sign(process, checkpoint(8))), bytes)


def test_a_stop_finishes_the_batch_at_hand(start_signer: Start) -> None:
    process = start_signer()
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


def test_the_client_finds_a_restarted_signer(start_signer: Start) -> None:
    process = start_signer()
    asyncio.run(ceremony(process, CA_SPEC))

    async def scenario() -> None:
        async with client(process) as signer:
            assert len(await signer.sign(batch(0, 3))) == 3
            process.kill()
            with pytest.raises(TokenUnavailableError, match=r"broke off|cannot be reached"):
                await signer.sign(batch(1, 3))
            await asyncio.to_thread(start_signer)
            assert len(await signer.sign(batch(1, 3))) == 3
            assert signer.waiting == 0

    asyncio.run(scenario())


def test_keys_are_made_in_a_ceremony_only(start_signer: Start) -> None:
    async def scenario(process: SignerProcess) -> None:
        async with client(process) as signer:
            with pytest.raises(UnsupportedError, match="ceremony"):
                await signer.generate(CA_SPEC)
            assert await signer.keys() == []

    asyncio.run(scenario(start_signer(ceremony=False)))


def test_other_users_are_kept_out(start_signer: Start) -> None:
    process = start_signer(uids=(os.getuid() + 1,))

    async def scenario() -> None:
        async with client(process) as signer:
            with pytest.raises(TokenUnavailableError):
                await signer.health()

    asyncio.run(scenario())
    assert f"user {os.getuid()} tried to connect" in process.log


def test_a_wrong_pin_ends_the_process_after_one_attempt(
    start_signer: Start, softhsm: SoftHsm
) -> None:
    process = start_signer(pin="wrong-pin")
    assert process.process.wait(10) == 3
    assert process.log.count("pin-refused") == 1
    assert "wrong-pin" not in process.log
    assert asyncio.run(answers(start_signer()))


def test_a_state_directory_has_one_owner(start_signer: Start) -> None:
    process = start_signer()
    with pytest.raises(TokenUnavailableError, match="another signer owns"):
        SignerState(process.state)
    second = start_signer()
    assert second.process.wait(10) == 3
    assert "another signer owns" in second.log


def test_a_token_taken_away_and_brought_back(start_signer: Start, softhsm: SoftHsm) -> None:
    process = start_signer()
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
    assert start_signer().process.wait(10) == 3
    away.rename(tokens)
    asyncio.run(signs(start_signer()))


def test_a_swapped_token_is_noticed(start_signer: Start, softhsm: SoftHsm) -> None:
    process = start_signer()
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
        async with client(start_signer()) as signer:
            health = await signer.health()
            assert not health.ready
            assert "not the one that the ceremony made" in health.detail

    asyncio.run(scenario())


def test_a_wedged_signer_times_out(start_signer: Start) -> None:
    process = start_signer()
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


def test_everything_on_disk_is_private(start_signer: Start) -> None:
    process = start_signer()
    asyncio.run(ceremony(process, CA_SPEC, LOG_SPEC, SERVICE_SPEC))
    modes = {
        str(path.relative_to(process.state)): stat.S_IMODE(path.stat().st_mode)
        for path in [process.state, *process.state.rglob("*")]
    }
    assert modes == {
        ".": 0o700,
        "lock": 0o600,
        "keys.json": 0o600,
        "heads.json": 0o600,
        "crls.json": 0o600,
        "journal": 0o600,
        "keys": 0o700,
        f"keys/{SERVICE_SPEC.label}.json": 0o600,
    }


def limit_files(process: SignerProcess, size: str) -> None:
    subprocess.run(
        ["prlimit", "--pid", str(process.process.pid), f"--fsize={size}:unlimited"], check=True
    )


def test_a_full_disk_signs_nothing(start_signer: Start, tmp_path: Path) -> None:
    """RLIMIT_FSIZE stands for the full disk: the journal takes no further entry."""
    process = start_signer()
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
