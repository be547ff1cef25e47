"""No key sees a nonce twice: whatever is restarted, restored, exhausted or asked for at once."""

import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hsm_drivers.operations import Encrypt, NewDataKey, Rewrap
from hsm_drivers.ports import KeyLabel
from hsm_drivers.service.nonces import NONCE_SIZE, PREFIX_SIZE, Nonces
from hsm_drivers.software import SoftwareDriver
from tests.support.service_keys import a_core, answers, label, spec, use

KEY = KeyLabel("s-key")
GCM = spec(1, "AES-256-GCM")


def test_a_nonce_is_prefix_and_count() -> None:
    nonces = Nonces()
    assert nonces.wants_prefix(KEY)
    nonces.start(KEY, b"prefix..")
    nonces.start(KEY, b"another.")
    assert not nonces.wants_prefix(KEY)
    assert [nonces.take(KEY) for _ in range(3)] == [
        b"prefix.." + bytes([0, 0, 0, at]) for at in range(3)
    ]
    assert nonces.wants_prefix(KeyLabel("s-other"))


@pytest.mark.parametrize("size", [0, PREFIX_SIZE - 1, PREFIX_SIZE + 1])
def test_a_prefix_of_another_size_is_none(size: int) -> None:
    nonces = Nonces()
    with pytest.raises(ValueError, match="8 bytes"):
        nonces.start(KEY, bytes(size))
    assert nonces.wants_prefix(KEY)


def test_the_last_count_is_used_once_and_then_the_prefix_is_gone() -> None:
    nonces = Nonces()
    nonces.start(KEY, bytes(8))
    nonces._next[KEY] = (bytes(8), 2**32 - 2)
    assert nonces.take(KEY)[-4:] == b"\xff\xff\xff\xfe"
    assert nonces.take(KEY)[-4:] == b"\xff\xff\xff\xff"
    assert nonces.wants_prefix(KEY)
    nonces.start(KEY, b"12345678")
    assert nonces.take(KEY) == b"12345678" + bytes(4)


def test_a_forgotten_key_begins_anew() -> None:
    nonces = Nonces()
    nonces.start(KEY, bytes(8))
    nonces.forget(KEY)
    nonces.forget(KEY)
    assert nonces.wants_prefix(KEY)


class Scripted(SoftwareDriver):
    """Says which nonces it was given, and fails where it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[KeyLabel, bytes]] = []

    def encrypt(self, label: KeyLabel, nonce: bytes, plaintext: bytes, associated: bytes) -> bytes:
        self.seen.append((label, nonce))
        return super().encrypt(label, nonce, plaintext, associated)


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(1, 40), st.booleans(), st.booleans()), max_size=8))
def test_no_nonce_twice_over_restarts_and_restores(
    tmp_path_factory: pytest.TempPathFactory, runs: list[tuple[int, bool, bool]]
) -> None:
    """Each run: how many are encrypted, whether the state is put back after, whether others mix."""
    base = tmp_path_factory.mktemp("signer")
    state, old = base / "state", base / "old"
    driver = Scripted()
    with a_core(state, driver) as core:
        core.generate(GCM)
        core.generate(spec(2, "AES-256-GCM"))
    shutil.copytree(state, old)
    for count, restore, mixed in runs:
        with a_core(state, driver) as core:
            calls = [Encrypt(GCM.label, b"x", b"")] * count
            if mixed:
                calls += [NewDataKey(label(2), 32, b"", False), Encrypt(label(2), b"x", b"")]
            made = answers(use(core, *calls))
            answers(use(core, Rewrap(GCM.label, made[0][0], b"", label(2), b"")))
        if restore:
            shutil.rmtree(state)
            shutil.copytree(old, state)
    assert len(set(driver.seen)) == len(driver.seen)
    assert all(len(nonce) == NONCE_SIZE for _, nonce in driver.seen)


def test_exhausted_in_the_middle_of_a_batch(tmp_path: Path) -> None:
    driver = Scripted()
    with a_core(tmp_path / "state", driver) as core:
        core.generate(GCM)
        answers(use(core, Encrypt(GCM.label, b"", b"")))
        nonces = core.service._use._nonces
        prefix, _ = nonces._next[GCM.label]
        nonces._next[GCM.label] = (prefix, 2**32 - 3)
        answers(use(core, *[Encrypt(GCM.label, b"", b"")] * 10))
    assert len(set(driver.seen)) == 11
    assert [nonce[:8] for _, nonce in driver.seen].count(prefix) == 4
