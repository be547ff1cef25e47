"""What was signed, and lost by a crash: found, logged and revoked by the service itself."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509

from kms.domain.records import Certificate, CertificateStatus
from tests.support.books import books_of
from tests.support.calling import LOST, Client
from tests.support.crashing import COMMAND, arm
from tests.support.running import MESSENGER, OFFICER, Home, running, wait_for

pytestmark = pytest.mark.timeout(300)

TTL = 10
"""Seconds, the least that can be configured."""


def test_the_service_finds_and_revokes_orphans(new_home: Callable[..., Home], tmp_path: Path):
    home = new_home(enrolment_seconds=TTL)
    with running(home, COMMAND) as service, Client(home, MESSENGER) as client:
        device = home.device("ada", "phone", identity="ECDSA-P256", kem="MLKEM768-X25519")
        begun = client.post("/v1/enrolments", device.request("device")).document
        path, proofs = f"/v1/enrolments/{begun['enrolment']}/proofs", device.prove(begun)
        arm(home.path, "worker:people-1.told")
        with pytest.raises(LOST):
            client.post(path, proofs, "abandoned")
        service.wait_ready()
        with Client(home, OFFICER) as officer:
            arm_crl_loss(home, officer)
        service.wait_ready()
        assert service.metric("kms_orphans_total") == 0, "the client may still come back"
        time.sleep(TTL + 1.5)
        service.restart("worker")  # it looks for orphans when it starts
        wait_for(lambda: service.metric("kms_orphans_total") == 3, 30, "two certificates, a CRL")
        late = client.until_answered(path, proofs, "abandoned")
        assert late.problem in {"challenge-expired", "challenge-used"}, "it comes too late"
        wait_for(lambda: service.metric("kms_crl_entries", authority="people") == 2, 30, "a list")
        crl = x509.load_der_x509_crl(service.public("/pki/people.crl")[1])
        assert service.stop() == 0
    with books_of(home, tmp_path / "books") as books:
        books.check()
        orphans = books.ledger.find(Certificate, status=CertificateStatus.ORPHANED)
        assert {item.serial_number for item in crl} == {int(item.serial, 16) for item in orphans}
        assert len(orphans) == 2


def arm_crl_loss(home: Home, officer: Client) -> None:
    """A list that was signed, too, and never published."""
    arm(home.path, "worker:people-1.told")
    answer = officer.until_answered("/v1/authorities/people/crl", {})
    assert answer.status == 201
    assert answer.document["number"] >= 2
