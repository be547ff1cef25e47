"""`/readyz` is not content with what can be read: it tries whether anything can be written."""

from pathlib import Path

import pytest

from kms.storage.faulty import Fault, FaultyLedger
from kms.storage.memory import MemoryLedger
from tests.support.services import world

pytestmark = pytest.mark.anyio


async def test_a_ledger_that_takes_nothing_is_not_ready(tmp_path: Path):
    ledger = FaultyLedger(MemoryLedger())
    async with world(tmp_path, ledger) as made:
        assert all(check.ok for check in await made.services.readiness.checks())
        ledger.fail_next("reserve", Fault.REFUSED)
        failed = [check for check in await made.services.readiness.checks() if not check.ok]
        assert [check.name for check in failed] == ["ledger"]
        assert "on command" in failed[0].detail
        assert all(check.ok for check in await made.services.readiness.checks())
