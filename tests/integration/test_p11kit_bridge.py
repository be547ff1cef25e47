"""A token of another process or machine, reached through p11-kit's server and client module.

One test: the client module looks for its server once in a process's life.
"""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hsm_drivers.compat.judge import verifies
from hsm_drivers.errors import KeyNotFoundError, PinRefusedError
from hsm_drivers.pin import Pin
from hsm_drivers.pkcs11 import Pkcs11Driver
from hsm_drivers.ports import KeyLabel
from policies.algorithms import algorithm
from tests.support.softhsm import SoftHsm

CLIENT = f"/usr/lib/{os.uname().machine}-linux-gnu/pkcs11/p11-kit-client.so"
CA = KeyLabel("ca")


@pytest.fixture
def bridge(
    softhsm: SoftHsm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Pkcs11Driver]:
    sock = tmp_path / "sock"
    command = ["p11-kit", "server", "-f", "--provider", softhsm.module, "-n", str(sock)]
    command.append(f"pkcs11:token={softhsm.label}")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline().startswith("P11_KIT_SERVER_ADDRESS=")
        monkeypatch.setenv("P11_KIT_SERVER_ADDRESS", f"unix:path={sock}")
        try:
            yield Pkcs11Driver(CLIENT, softhsm.label, softhsm.pin)
        finally:
            server.terminate()


def test_a_bridged_token_is_one_like_others(bridge: Pkcs11Driver, softhsm: SoftHsm) -> None:
    row = algorithm("ECDSA-P256")
    _, spki, attributes = bridge.generate(CA, row.name)
    assert attributes.held()
    assert verifies(row, spki, bridge.sign(CA, b"message"), b"message")
    bridge.close()
    again = Pkcs11Driver(CLIENT, softhsm.label, softhsm.pin)
    assert list(again.labels()) == [CA]
    assert verifies(row, spki, again.sign(CA, b"another"), b"another")
    again.destroy(CA)
    with pytest.raises(KeyNotFoundError):
        again.sign(CA, b"message")
    again.close()

    with pytest.raises(PinRefusedError):
        Pkcs11Driver(CLIENT, softhsm.label, Pin("wrong-pin"))
