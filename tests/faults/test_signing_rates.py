"""A key that has signed as much as it may: a refusal that says so, and nothing else suffers."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from hsm_drivers.errors import HsmError, RateExceededError
from hsm_drivers.ports import Purpose, Statement, StatementSigner
from kms.api.problems import problem
from kms.domain.records import Reason, UserId
from kms.services.errors import Retry, SigningRateError
from kms.services.observing import Silent
from kms.services.signing import SharedSigner
from tests.support.books import check_books
from tests.support.faulty_signer import FaultySigner
from tests.support.flow import IDENTITY, enrol, new_device, order, prove
from tests.support.services import TENANT, decoded, world

pytestmark = pytest.mark.anyio


class Exhausted(FaultySigner):
    """A signer whose keys have no certificates left, once a test says so."""

    def __init__(self, signer: StatementSigner) -> None:
        super().__init__(signer)
        self.exhausted = False

    async def sign(self, statements: Sequence[Statement]) -> list[bytes | HsmError]:
        return [await self._one(item) for item in statements]

    async def _one(self, statement: Statement) -> bytes | HsmError:
        if self.exhausted and statement.purpose is Purpose.CERTIFICATE:
            return RateExceededError("all of this hour are signed")
        return (await super().sign([statement]))[0]


async def test_certificates_are_refused_and_revocation_goes_on(tmp_path: Path) -> None:
    signers: list[Exhausted] = []

    def wrap(signer: StatementSigner) -> StatementSigner:
        signers.append(Exhausted(signer))
        return signers[-1]

    async with world(tmp_path, wrap_signer=wrap) as made:
        await enrol(made, new_device(made, "ada", "phone", IDENTITY))
        late = new_device(made, "bob", "phone-2", IDENTITY)
        answer = await order(made, late)
        signers[-1].exhausted = True
        with pytest.raises(SigningRateError, match="all of this hour") as refusal:
            await prove(made, late, answer, "k1")
        assert refusal.value.retry is Retry.SAME
        found = problem(refusal.value)
        assert (found.status, found.name) == (503, "signing-rate-exceeded")
        request = made.call("revoke", "ada")
        revoked = await made.services.revocation.user(
            request, TENANT, UserId("ada"), Reason.KEY_COMPROMISE
        )
        assert decoded(revoked)["receipt"]["status"] == "final"
        listed = await made.services.crls.publish("people")
        assert listed.record.entries == 1
        signers[-1].exhausted = False
        late.accept(decoded(await prove(made, late, answer, "k1")))
        await check_books(made)


class Counting(Silent):
    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()

    def signed(self, statements: int, seconds: float, outcome: str) -> None:
        self.outcomes[outcome] += statements


async def test_the_metric_counts_each_outcome(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        exhausted, counting = Exhausted(made.signer), Counting()
        exhausted.exhausted = True
        shared = SharedSigner(exhausted, counting)
        (people,) = [
            record.label for record in await made.signer.keys() if "people" in record.label
        ]
        certificate = Statement(people, Purpose.CERTIFICATE, b"")
        await shared.sign([certificate, Statement(people, Purpose.CRL, b""), certificate])
        assert counting.outcomes == {"rate-exceeded": 2, "statement-refused": 1}
