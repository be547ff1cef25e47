"""The login gate: one attempt with a PIN, however many processes there are."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hsm_drivers.errors import PinRefusedError
from hsm_drivers.login import GatedPin, LoginGate

ROOT = Path(__file__).parents[2]
HOLDER = """
import sys
from hsm_drivers.login import LoginGate
gate = LoginGate(int(sys.argv[1]))
gate.enter()
print("in", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def file() -> Iterator[int]:
    fd = os.memfd_create("gate")
    yield fd
    os.close(fd)


def test_after_a_refusal_nobody_gets_the_pin(file: int):
    first, second = LoginGate(file), LoginGate(file)
    pin = GatedPin("1234", first)
    assert pin.reveal() == "1234"
    first.refuse()
    first.leave()
    with pytest.raises(PinRefusedError, match="refused this PIN already"):
        GatedPin("1234", second).reveal()
    assert "1234" not in repr(pin)


def test_who_logs_in_is_waited_for_and_its_death_lets_others_in(file: int):
    os.set_inheritable(file, True)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=[file],
        cwd=ROOT,
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    with holder.stdin, holder.stdout:
        assert holder.stdout.readline() == b"in\n"
        gate, waited = LoginGate(file), []

        def wait() -> None:
            waited.append(1)
            if len(waited) == 3:
                holder.kill()

        gate.waiting = wait
        gate.enter()
        holder.wait(10)
    assert len(waited) >= 3
