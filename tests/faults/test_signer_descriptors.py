"""The signer without a descriptor left: who is connected is served, nobody spins, it passes."""

import asyncio
import os
import socket
import time
from pathlib import Path

import pytest

from hsm_drivers.client import SignerClient
from hsm_drivers.errors import TokenUnavailableError
from tests.support.outages import no_descriptors_left
from tests.support.signer import (
    CA_SPEC,
    LOG_SPEC,
    SignerProcess,
    Start,
    ceremony,
    certificate,
    checkpoint,
    client,
    signs,
)


def used_seconds(process: SignerProcess) -> float:
    """Processor time of a process so far (proc(5), fields 14 and 15)."""
    fields = Path(f"/proc/{process.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_signer_without_descriptors(start_signer: Start) -> None:
    process = start_signer()
    asyncio.run(ceremony(process, CA_SPEC, LOG_SPEC))

    async def scenario() -> None:
        async with client(process) as connected:
            assert (await connected.health()).ready
            with no_descriptors_left(process.process.pid):
                stranger = SignerClient(process.socket, greeting=0.3)
                with pytest.raises(TokenUnavailableError, match="no signer answers"):
                    await stranger.keys()
                before, since = used_seconds(process), time.monotonic()
                while time.monotonic() < since + 1.0:
                    assert len(await connected.keys()) == 2
                    await asyncio.sleep(0.1)
                assert used_seconds(process) - before < 0.5, "it spins"
                for outcome in await connected.sign([checkpoint(1), certificate()]):
                    assert isinstance(outcome, TokenUnavailableError), "what needs a file says so"
            for outcome in await connected.sign([checkpoint(1), certificate()]):
                assert isinstance(outcome, bytes)
        await stranger.aclose()

    asyncio.run(scenario())
    asyncio.run(signs(process))
    assert "no new connections for now" in process.log


def test_who_waited_is_let_in(start_signer: Start) -> None:
    process = start_signer()
    asyncio.run(ceremony(process, CA_SPEC))
    with socket.socket(socket.AF_UNIX) as waiting:
        with no_descriptors_left(process.process.pid):
            waiting.connect(str(process.socket))
            time.sleep(0.1)
        asyncio.run(signs(process))
