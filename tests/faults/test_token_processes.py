"""Token processes that are killed, lose their token, hang, crash, and are given the wrong PIN."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hsm_drivers.errors import TokenUnavailableError
from hsm_drivers.pool.tokens import PoolOfTokens
from hsm_drivers.ports import KeyLabel
from tests.support import estate
from tests.support.estate import Estate, call, clone, eventually, signing
from tests.support.faulty_token import FaultyModule, build
from tests.support.softhsm import SoftHsm, make_token

CA = KeyLabel("ca")
pytestmark = pytest.mark.timeout(120)


def founded(directory: Path) -> tuple[SoftHsm, bytes]:
    """A token with a key; its public half as DER."""
    token = make_token(directory / "token", "first")
    with estate.running(directory / "founding", {"": token}, python=sys.executable) as it:
        pool = it.pool()
        _, spki, _ = pool.driver("").generate(CA, "Ed25519")
        pool.close()
    return token, spki


@contextlib.contextmanager
def two_tokens(directory: Path, **own: object) -> Iterator[tuple[Estate, PoolOfTokens, bytes]]:
    """A key on a token and on its clone, both behind processes that are well."""
    token, spki = founded(directory)
    tokens = {"": token, "b": clone(token, directory / "clone")}
    with estate.running(directory / "home", tokens, **own) as it:
        pool = it.pool()
        try:
            eventually(pool, lambda: all(status.healthy for status in pool.statuses()))
            yield it, pool, spki
        finally:
            pool.close()


def check(spki: bytes, outcomes: list[object]) -> None:
    """Each is the signature of its message."""
    key = load_der_public_key(spki)
    assert isinstance(key, Ed25519PublicKey)
    for at, outcome in enumerate(outcomes):
        assert isinstance(outcome, bytes), outcome
        key.verify(outcome, b"message %d" % at)


def kill_under_load(directory: Path, kills: int) -> None:
    """Each process in turn, the moment it is there, while calls are made without a pause."""
    with two_tokens(directory) as (it, pool, spki):
        done = threading.Event()
        killed: list[int] = []
        last: dict[str, int] = {}

        def killer() -> None:
            for at in range(kills):
                name = ("main-1", "b-1")[at % 2]
                link = pool.links("" if name == "main-1" else "b")[0]
                life, until = link.life, time.monotonic() + 60
                while (pid := it.pid(name)) in {None, last.get(name)}:
                    if time.monotonic() > until:
                        return
                    time.sleep(0.002)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                killed.append(pid)
                last[name] = pid
                # The other one dies only once this one is well: a key that is nowhere is no fault.
                while not (link.well and link.life > life) and time.monotonic() < until:
                    time.sleep(0.002)
            done.set()

        thread = threading.Thread(target=killer)
        thread.start()
        batches = 0
        try:
            while thread.is_alive():
                check(spki, call(pool, signing(CA, "", "b", count=100)))
                batches += 1
        finally:
            thread.join()
        assert done.is_set()
        assert len(killed) == kills
        assert batches > kills / 10


def test_killed_amid_calls_they_lose_none(tmp_path: Path) -> None:
    kill_under_load(tmp_path, 20)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_thousand_kills_lose_no_call(tmp_path: Path) -> None:
    kill_under_load(tmp_path, 1000)


def test_a_token_taken_away_and_brought_back(tmp_path: Path) -> None:
    with two_tokens(tmp_path) as (it, pool, spki):
        tokens = tmp_path / "clone" / "tokens"
        hidden = tokens.rename(tmp_path / "hidden")
        pid = it.pid("b-1")
        assert pid is not None
        os.kill(pid, signal.SIGKILL)  # what it had read of the files it would go on with
        check(spki, call(pool, signing(CA, "", "b", count=50)))
        eventually(pool, lambda: not pool.statuses()[1].healthy)
        check(spki, call(pool, signing(CA, "", "b", count=50)))
        hidden.rename(tokens)
        eventually(pool, lambda: pool.statuses()[1].healthy, seconds=60)
        check(spki, call(pool, signing(CA, "b", count=5)))


def shimmed(token: SoftHsm, directory: Path) -> tuple[SoftHsm, FaultyModule]:
    """The token behind the faulty module."""
    module = FaultyModule(build(directory), directory / "orders")
    return replace(token, module=str(module.path)), module


PROFILE = """
name = "many"
title = "SoftHSM2, said to bear many processes"
tested = false

[concurrency]
source = "this test"
os_locking = false
processes = 0
sessions = 0
"""


def test_a_wrong_pin_is_tried_once_by_all_processes_together(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    token = make_token(tmp_path / "token", "first")
    profile = tmp_path / "many.toml"
    profile.write_text(PROFILE)
    faulty, module = shimmed(token, tmp_path)
    module.order("C_Login fail a0")
    own = {"signers": 4, "profile": str(profile), "environment": environment(faulty, module)}
    with estate.running(tmp_path / "home", {"": faulty}, **own) as it:
        wait(lambda: it.keeper.states()["main"]["state"] == "pin-refused" and not alive(it))
        pool = it.pool()
        with pytest.raises(TokenUnavailableError, match="no process serves it"):
            pool.driver("").random(1)
        pool.close()
    said = re.findall(r'"token\.pin-refused".*', capfd.readouterr().err)
    assert len(said) == 4
    assert sum("it was tried once" in line for line in said) == 1, "one attempt at the token"
    assert sum("refused this PIN already" in line for line in said) == 3


def environment(token: SoftHsm, module: FaultyModule) -> dict[str, str]:
    return {"SOFTHSM2_CONF": str(token.conf), **module.environment}


def alive(it: Estate) -> bool:
    return any((it.settings.tokens_dir).glob("*.pid"))


def wait(reached: object, seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while not reached():  # type: ignore[operator]
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.01)


@pytest.mark.parametrize(
    "order",
    [
        "C_Sign crash 0 1",
        "C_Sign fail 80000042",  # vendor defined, in no table
        "C_Sign fail 1ff 3",  # no code of the standard
        "C_SignInit fail 30",  # CKR_DEVICE_ERROR
        "C_Sign broken e0",  # CKR_TOKEN_NOT_PRESENT until the module is loaded afresh
    ],
)
def test_a_module_that_fails_harms_no_call(tmp_path: Path, order: str) -> None:
    token, spki = founded(tmp_path)
    faulty, module = shimmed(clone(token, tmp_path / "clone"), tmp_path)
    tokens = {"": token, "b": faulty}
    with estate.running(tmp_path / "home", tokens, shim=module) as it:
        pool = it.pool()
        eventually(pool, lambda: all(status.healthy for status in pool.statuses()))
        with module.failing(order):
            for _ in range(3):
                check(spki, call(pool, signing(CA, "", "b", count=40)))
        eventually(pool, lambda: all(status.healthy for status in pool.statuses()), seconds=40)
        check(spki, call(pool, signing(CA, "b", count=3)))
        pool.close()


def test_a_module_that_hangs_is_killed_and_started_again(tmp_path: Path) -> None:
    token, spki = founded(tmp_path)
    faulty, module = shimmed(clone(token, tmp_path / "clone"), tmp_path)
    with estate.running(
        tmp_path / "home", {"": token, "b": faulty}, shim=module, wedge_seconds=2
    ) as it:
        pool = it.pool()
        eventually(pool, lambda: all(status.healthy for status in pool.statuses()))
        before = it.pid("b-1")
        with module.failing("C_Sign hang"):
            check(spki, call(pool, signing(CA, "", "b", count=40)))
            eventually(pool, lambda: it.pid("b-1") not in {None, before}, seconds=40)
        eventually(pool, lambda: all(status.healthy for status in pool.statuses()), seconds=40)
        check(spki, call(pool, signing(CA, "b", count=3)))
        pool.close()


def test_a_token_process_needs_few_packages() -> None:
    """It runs in a chroot: with msgspec and python-pkcs11, and nothing of the service."""
    code = (
        "import sys; import hsm_drivers.token_process, hsm_drivers.pkcs11.driver;"
        "print(' '.join(sorted({name.split('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=estate.ROOT
    )
    used = set(done.stdout.split())
    assert {"msgspec", "pkcs11"} <= used
    assert not used & {"kms", "pki", "cryptography", "pydantic", "structlog", "sqlalchemy"}
