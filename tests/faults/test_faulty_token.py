"""The signer over a PKCS#11 library that lies, breaks, stalls or loses its token."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hsm_drivers.client import SignerClient
from hsm_drivers.errors import HsmError, TokenFailureError, TokenUnavailableError
from hsm_drivers.ports import Statement
from tests.support.faulty_token import (
    DEVICE_ERROR,
    GENERAL_ERROR,
    SESSION_HANDLE_INVALID,
    TOKEN_NOT_PRESENT,
    FaultyModule,
    build,
)
from tests.support.signer import (
    CA_SPEC,
    LOG_SPEC,
    SignerProcess,
    ceremony,
    certificate,
    checkpoint,
    client,
    crl,
    start,
)
from tests.support.softhsm import SoftHsm

FUNCTIONS = (
    "C_SignInit",
    "C_Sign",
    "C_GenerateRandom",
    "C_FindObjectsInit",
    "C_GetAttributeValue",
)
CODES: dict[int, type[HsmError]] = {
    DEVICE_ERROR: TokenUnavailableError,
    TOKEN_NOT_PRESENT: TokenUnavailableError,
    SESSION_HANDLE_INVALID: TokenUnavailableError,
    GENERAL_ERROR: TokenFailureError,
}
OPENING = ("C_Initialize", "C_GetSlotList", "C_OpenSession", "C_Login")


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("module"))


@pytest.fixture
def module(
    compiled: Path, tmp_path: Path, softhsm: SoftHsm, monkeypatch: pytest.MonkeyPatch
) -> FaultyModule:
    made = FaultyModule(compiled, tmp_path / "orders")
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    return made


@pytest.fixture
def signer(module: FaultyModule, softhsm: SoftHsm, tmp_path: Path) -> Iterator[SignerProcess]:
    """A signer with two keys, whose module obeys `module`."""
    process = start(tmp_path / "signer", replace(softhsm, module=str(module.path)))
    asyncio.run(ceremony(process, CA_SPEC, LOG_SPEC))
    yield process
    process.kill()


BATCH = [certificate(b"%d" % number) for number in range(40)]


def sign(process: SignerProcess, *statements: Statement) -> list[bytes | HsmError]:
    async def ask() -> list[bytes | HsmError]:
        async with client(process) as connected:
            return await connected.sign(statements)

    return asyncio.run(ask())


def check_well(process: SignerProcess) -> None:
    """It signs, all of it, and says so: nobody had to do anything."""

    async def ask() -> None:
        async with client(process) as connected:
            assert (await connected.health()).ready
            assert {type(outcome) for outcome in await connected.sign(BATCH)} == {bytes}

    asyncio.run(ask())
    assert process.process.poll() is None


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_function_that_fails(signer: SignerProcess, module: FaultyModule, function: str) -> None:
    """Once: the session is opened afresh and nobody notices. On and on: told, and survived."""
    for code, error in CODES.items():
        module.order(f"{function} fail {code:x} 1")
        check_well(signer)
        with module.failing(f"{function} fail {code:x}"):
            for outcome in sign(signer, *BATCH, checkpoint(1)):
                assert isinstance(outcome, bytes | error)
        check_well(signer)


@pytest.mark.parametrize("code", CODES)
def test_a_token_of_which_nothing_works(
    signer: SignerProcess, module: FaultyModule, code: int
) -> None:
    with module.failing(f"* fail {code:x}"):
        outcomes = sign(signer, *BATCH, checkpoint(1))
        assert {type(outcome) for outcome in outcomes} == {TokenUnavailableError}
        assert "does not start" in str(outcomes[0])
    check_well(signer)


@pytest.mark.parametrize("function", OPENING)
def test_a_session_that_cannot_be_opened_again(
    signer: SignerProcess, module: FaultyModule, function: str
) -> None:
    """The link breaks while it signs, and the way back fails too, until it does not."""
    module.order(f"C_Sign fail {DEVICE_ERROR:x}")
    assert {type(outcome) for outcome in sign(signer, *BATCH)} == {TokenUnavailableError}
    for code in (DEVICE_ERROR, GENERAL_ERROR, TOKEN_NOT_PRESENT):
        module.order(f"C_Sign fail {DEVICE_ERROR:x} 1")
        sign(signer, certificate())
        with module.failing(f"{function} fail {code:x}"):
            sign(signer, certificate())
    check_well(signer)


@pytest.mark.parametrize("code", [GENERAL_ERROR, DEVICE_ERROR])
def test_a_library_that_must_be_loaded_afresh(
    signer: SignerProcess, module: FaultyModule, code: int
) -> None:
    """What fails for good until C_Finalize is mended without a person."""
    module.order(f"* broken {code:x}")
    check_well(signer)


@pytest.mark.parametrize("statement", [checkpoint(1), crl(b"1"), certificate()])
def test_a_wrong_signature(
    signer: SignerProcess, module: FaultyModule, statement: Statement
) -> None:
    with module.failing("C_Sign corrupt 1"):
        (outcome,) = sign(signer, statement)
        assert isinstance(outcome, TokenFailureError)
        assert "wrong signature" in str(outcome)
    (outcome,) = sign(signer, statement)
    assert isinstance(outcome, bytes), "the same statement may be signed once the token is well"
    assert signer.log.count("wrong signature") == 1


def test_a_slow_token_answers_all_and_is_asked_meanwhile(
    signer: SignerProcess, module: FaultyModule
) -> None:
    async def ask() -> None:
        async with client(signer) as busy, client(signer) as other:
            began = time.monotonic()
            batch = asyncio.create_task(busy.sign(BATCH))
            longest = 0.0
            while not batch.done():
                started = time.monotonic()
                await other.keys()
                longest = max(longest, time.monotonic() - started)
            assert {type(outcome) for outcome in await batch} == {bytes}
            took = time.monotonic() - began
            assert longest < took / 2, "a question waits for a slice, not for the batch"

    with module.failing("C_Sign delay 25"):
        asyncio.run(ask())


def test_a_hung_library_is_told_in_time(signer: SignerProcess, module: FaultyModule) -> None:
    """The caller is told; the process is the supervisor's to end (SIGTERM does not reach it)."""

    async def ask() -> None:
        impatient = SignerClient(signer.socket, timeout=2)
        await impatient.keys()
        module.order("C_Sign hang")
        with pytest.raises(TokenUnavailableError, match="did not answer within 2 s"):
            await impatient.sign([certificate()])
        await impatient.aclose()

    asyncio.run(ask())
    signer.process.terminate()
    time.sleep(0.2)
    assert signer.process.poll() is None, "hung inside the library"
