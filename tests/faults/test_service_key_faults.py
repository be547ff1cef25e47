"""Service keys when disks fill, tokens go away and processes are killed: nothing is lost."""

import asyncio
import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from hsm_drivers import durable, making
from hsm_drivers.client import SignerClient
from hsm_drivers.errors import TokenUnavailableError
from hsm_drivers.operations import Decapsulate, Encrypt, MakeMac
from hsm_drivers.ports import Driver, KeyLabel, Operation
from hsm_drivers.software import SoftwareDriver
from policies.decisions import Protection
from tests.support.service_keys import (
    DELAY,
    START,
    Clock,
    a_core,
    answers,
    encapsulated,
    label,
    spec,
    use,
)
from tests.support.signer import Start, client

HYBRID = spec(1, "MLKEM768-X25519", Protection.WRAPPED, Protection.TOKEN)


class KilledError(BaseException):
    """Stands for SIGKILL: no handler of the signer's runs to its end after it."""


def killed_at(
    monkeypatch: pytest.MonkeyPatch, owner: object, name: str, nth: int, *, before: bool
) -> None:
    """Let the nth call of a function be the process's last; what comes after it fails, too."""
    real: Callable[..., object] = getattr(owner, name)
    calls = {"made": 0}

    def call(*args: object, **kwargs: object) -> object:
        calls["made"] += 1
        if calls["made"] > nth or (before and calls["made"] == nth):
            raise KilledError
        made = real(*args, **kwargs)
        if calls["made"] == nth:
            raise KilledError
        return made

    monkeypatch.setattr(owner, name, call)


class Mortal(SoftwareDriver):
    """A token whose user is killed at its nth change; the token itself lives on."""

    def __init__(self) -> None:
        super().__init__()
        self.left = 10**9
        self.after = False

    def _change(self, change: Callable[[], object]) -> object:
        self.left -= 1
        if self.left < 0 or (self.left == 0 and not self.after):
            raise KilledError
        made = change()
        if self.left == 0:
            raise KilledError
        return made

    def generate(self, *args: object, **kwargs: object) -> object:
        return self._change(lambda: super(Mortal, self).generate(*args, **kwargs))

    def destroy(self, label: KeyLabel) -> object:
        return self._change(lambda: super(Mortal, self).destroy(label))


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("nth", [1, 2])
def test_killed_while_the_token_makes_a_key(tmp_path: Path, nth: int, *, after: bool) -> None:
    driver = Mortal()
    driver.left, driver.after = nth, after
    with a_core(tmp_path / "state", driver) as core, pytest.raises(KilledError):
        core.generate(HYBRID)
    driver.left = 10**9
    with a_core(tmp_path / "state", driver) as core:
        assert core.service.status().unfinished == ()
        assert not driver.labels(), "what was half-made is gone"
        made = core.generate(HYBRID)
        ciphertext, secret = encapsulated(made)
        assert answers(use(core, Decapsulate(made.label, ciphertext))) == [(secret,)]


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("nth", [1, 2])
def test_killed_while_a_record_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nth: int, *, before: bool
) -> None:
    """The first write says that a key is being made, the second that it is there."""
    driver = Mortal()
    with a_core(tmp_path / "state", driver) as core, monkeypatch.context() as patch:
        killed_at(patch, durable, "replace", nth, before=before)
        patch.setattr(making, "destroy", _dead)
        with pytest.raises(KilledError):
            core.generate(HYBRID)
    whole = nth == 2 and not before
    with a_core(tmp_path / "state", driver) as core:
        records = core.keys()
        assert [record.label for record in records] == [HYBRID.label] * whole
        assert len(driver.labels()) == 2 * whole
        made = core.generate(HYBRID)
        ciphertext, secret = encapsulated(made)
        assert answers(use(core, Decapsulate(made.label, ciphertext))) == [(secret,)]


def _dead(_driver: Driver, _labels: object) -> None:
    raise KilledError


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("nth", [1, 2])
def test_killed_while_a_key_is_destroyed(tmp_path: Path, nth: int, *, after: bool) -> None:
    driver, clock = Mortal(), Clock()
    with a_core(tmp_path / "state", driver, now=clock) as core:
        core.generate(HYBRID)
        core.service.schedule_destruction(HYBRID.label, START + DELAY)
        clock.now = START + DELAY
        driver.left, driver.after = nth, after
        with pytest.raises(KilledError):
            core.service.destroy(HYBRID.label)
    driver.left = 10**9
    with a_core(tmp_path / "state", driver, now=clock) as core:
        assert core.keys() == [], "it serves no more"
        assert core.service.destroy(HYBRID.label) == ("",)
        assert not driver.labels()


def test_a_token_that_goes_away_in_a_batch(tmp_path: Path) -> None:
    """What was done before is answered, the rest is told to come again."""

    class Leaving(SoftwareDriver):
        left = 10**9

        def mac(self, label: KeyLabel, message: bytes) -> bytes:
            self.left -= 1
            if self.left < 0:
                raise TokenUnavailableError("unplugged")
            return super().mac(label, message)

    driver = Leaving()
    with a_core(tmp_path / "state", driver) as core:
        core.generate(spec(1, "HMAC-SHA-256"))
        driver.left = 3
        outcomes = use(core, *[MakeMac(label(1), b"m")] * 10)
        assert [isinstance(outcome, tuple) for outcome in outcomes] == [True] * 3 + [False] * 7
        assert all(isinstance(outcome, TokenUnavailableError) for outcome in outcomes[3:])
        driver.left = 10**9
        answers(use(core, MakeMac(label(1), b"m")))


def test_a_full_disk_makes_and_changes_no_key(tmp_path: Path) -> None:
    """RLIMIT_FSIZE stands for it; keys that are there serve on."""
    driver, clock = SoftwareDriver(), Clock()
    with a_core(tmp_path / "state", driver, now=clock) as core:
        core.generate(spec(2, "AES-256-GCM"))
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))
        try:
            for change in (
                lambda: core.generate(HYBRID),
                lambda: core.service.narrow(label(2), (Operation.DECRYPT,)),
                lambda: core.service.schedule_destruction(label(2), START + DELAY),
            ):
                with pytest.raises(TokenUnavailableError, match="cannot be written"):
                    change()
            answers(use(core, Encrypt(label(2), b"", b"")))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert driver.labels() == [label(2)]
        core.generate(HYBRID)
    with a_core(tmp_path / "state", driver, now=clock) as core:
        assert len(core.keys()) == 2
        answers(use(core, Encrypt(label(2), b"", b"")))


def test_a_full_disk_after_the_token_made_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver, real = SoftwareDriver(), durable.replace
    written = []

    def full(path: Path, data: bytes) -> None:
        written.append(path)
        if len(written) == 2:
            raise OSError(28, os.strerror(28))
        real(path, data)

    with a_core(tmp_path / "state", driver) as core:
        monkeypatch.setattr(durable, "replace", full)
        with pytest.raises(TokenUnavailableError, match="No space left"):
            core.generate(HYBRID)
        assert not driver.labels()
        assert core.service.status().unfinished == ()
        core.generate(HYBRID)


def test_a_signer_killed_in_the_middle_of_making_keys(start_signer: Start) -> None:
    """SIGKILL, a real token: after each start, every key that was answered is there, no other."""
    answered: list[KeyLabel] = []

    async def make(connected: SignerClient, first: int, enough: asyncio.Event) -> None:
        for number in range(first, first + 1000):
            made = await connected.generate(
                spec(number, "MLKEM768-X25519", Protection.WRAPPED, Protection.TOKEN)
            )
            answered.append(made.label)
            if number == first + 2:
                enough.set()

    async def until_killed(first: int) -> None:
        process = start_signer(ceremony=False)
        async with client(process) as connected:
            held = {record.label for record in await connected.keys()}
            assert set(answered) <= held
            assert len(held - set(answered)) <= first // 1000
            assert not (await connected.health()).service.unfinished
            enough = asyncio.Event()
            making_keys = asyncio.create_task(make(connected, first, enough))
            await asyncio.wait_for(enough.wait(), 60)
            process.kill()
            with pytest.raises(TokenUnavailableError):
                await making_keys

    async def finally_all_serve() -> None:
        async with client(start_signer(ceremony=False)) as connected:
            records = {record.label: record for record in await connected.keys()}
            made = [encapsulated(records[key]) for key in answered]
            calls = [
                Decapsulate(key, ciphertext)
                for key, (ciphertext, _) in zip(answered, made, strict=True)
            ]
            assert answers(await connected.use(calls)) == [(secret,) for _, secret in made]

    for start in range(3):
        asyncio.run(until_killed(start * 1000))
    asyncio.run(finally_all_serve())
