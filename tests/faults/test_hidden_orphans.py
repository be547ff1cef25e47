"""What an intruder had signed and hid from the service's own look at the journal."""

import hashlib
from datetime import timedelta
from pathlib import Path

import pytest

from hsm_drivers.ports import Statement
from kms.domain.records import Certificate, CertificateStatus, SignerMark
from kms.services.ports import Replace
from pki.certificates import CertificateRequest
from pki.names import Subject, device_uri
from pki.profiles import certificate_profile
from tests.support import pki
from tests.support.books import check_books
from tests.support.services import DOMAIN, World, world

pytestmark = pytest.mark.anyio

MANY = 30


def stolen(made: World, number: int) -> Statement:
    """A certificate within the profile, that no reservation knows of."""
    now = made.clock.now()
    request = CertificateRequest(
        profile=certificate_profile("device-identity"),
        serial=(1 << 100) + number,
        not_before=now,
        not_after=now + timedelta(days=1),
        subject=Subject("stolen", DOMAIN),
        key=pki.public("ECDSA-P256"),
        uris=(device_uri(DOMAIN, "ada", f"stolen-{number}"),),
    )
    people = made.services.core.authorities["people"]
    return people.certificates.prepare(request).statement


async def test_a_mark_that_was_moved_hides_nothing_from_a_look_anew(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        await made.services.crls.publish("people")
        await made.services.upkeep.sweep()
        statements = [stolen(made, number) for number in range(MANY)]
        assert all(isinstance(item, bytes) for item in await made.signer.sign(statements))
        health = await made.signer.health()
        mark = SignerMark(health.token, health.counter)
        assert made.ledger.reserve([Replace(mark)]) is None
        assert await made.services.upkeep.sweep() == 0
        before = made.services.crls.published("people")
        assert before is not None
        assert await made.services.upkeep.sweep(anew=True) == MANY
        orphans = made.ledger.find(Certificate, status=CertificateStatus.ORPHANED)
        digests = {hashlib.sha256(item.message).hexdigest() for item in statements}
        assert {item.tbs_sha256 for item in orphans} == digests
        after = made.services.crls.published("people")
        assert after is not None
        assert (after.number, after.entries) == (before.number + 1, MANY), "one list for all"
        assert await made.services.upkeep.sweep(anew=True) == 0
        await check_books(made)
