"""Odd and malformed certification requests over HTTP: never a 5xx; refused ones change nothing."""

from pathlib import Path

import pytest

from kms.domain.records import Certificate
from kms.wire import b64
from tests.support.api import site
from tests.support.vectors import folder, load_json

FOLDER = folder("csr")
EXPECTED = load_json(FOLDER / "expected.json")

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_every_one_is_answered_and_refused_ones_leave_nothing(tmp_path: Path):
    async with site(tmp_path) as made:
        officer = made.caller("officer")
        for name, expected in EXPECTED.items():
            data = (FOLDER / name).read_bytes()
            csr = data.decode() if name.endswith(".pem") else b64(data)
            before = made.world.ledger.count(Certificate)
            answer = await officer.post("/v1/certificates", {"name": "officer", "csr": csr})
            issued = made.world.ledger.count(Certificate) - before
            if answer.status_code == 201:
                assert (issued, expected["expect"] != "refuse") == (1, True), name
                continue
            problem = answer.json()["type"].rpartition(":")[2]
            assert (answer.status_code, issued) == (422, 0), (name, answer.text)
            # RSA-2048 and the like are the policy's to refuse; the rest is the request's fault.
            good = {"accept-pop": {"algorithm-refused", "weak-key"}, "refuse": {"invalid-csr"}}
            assert problem in good.get(expected["expect"], {"invalid-csr", *good["accept-pop"]}), (
                name,
                answer.text,
            )
