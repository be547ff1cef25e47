"""What clients were told, and whether a service's books still say so."""

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kms.domain.records import (
    Certificate,
    CertificateStatus,
    Device,
    Enrolment,
    EnrolmentStatus,
    Event,
    Idempotent,
    Standing,
)
from kms.wire import unb64
from tests.support.books import Books
from tests.support.calling import Client
from tests.support.stranger import Verifier, check_receipt


@dataclass(frozen=True, slots=True)
class Call:
    """A POST and the answer that a client got and believes."""

    path: str
    body: object
    key: str
    answer: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.answer)

    @property
    def pending(self) -> bool:
        """Whether its receipt was still to come."""
        return b'"status":"pending"' in self.answer


@dataclass
class Acknowledged:
    """Calls that were answered; several clients may note theirs at once."""

    calls: list[Call] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def post(self, client: Client, path: str, body: object, key: str) -> Any:
        """Send until answered with success, and note it; answers the document."""
        answer = client.until_answered(path, body, key)
        assert answer.status in (200, 201), answer.body
        with self._lock:
            self.calls.append(Call(path, body, key, answer.body))
        return answer.document

    def replay(self, client: Client) -> None:
        """Every call again gives the same bytes again."""
        for call in self.calls:
            again = client.until_answered(call.path, call.body, call.key)
            if call.pending:  # a revocation while the signer was away: its receipt may have come
                assert _without_receipts(again.document) == _without_receipts(call.document)
            else:
                assert again.body == call.answer, call.path

    def check(self, books: Books, vkey: str) -> None:
        """Everything acknowledged is in the books, once."""
        verifier = Verifier.parse(vkey)
        for call in self.calls:
            for certified in _certified(call):
                _check_certified(books, verifier, certified)
            if call.path.endswith("/revoke"):
                _check_revoked(books, verifier, call.document)
            found = books.ledger.find(Idempotent, idempotency_key=call.key)
            assert len(found) == 1, call.path


def _without_receipts(document: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if not name.startswith("receipt")}


def _certified(call: Call) -> Sequence[dict[str, Any]]:
    """Devices that an answer says are certified."""
    if call.path.endswith("/proofs"):
        return [call.document]
    if call.path.endswith(":batch-proofs"):
        assert all(item["status"] == 201 for item in call.document["results"])
        return [item["body"] for item in call.document["results"]]
    return []


def _check_certified(books: Books, verifier: Verifier, document: dict[str, Any]) -> None:
    device, leaf = document["device"], unb64(document["leaf"])
    index = document["receipt"]["index"]
    assert document["receipt"]["status"] == "final"
    _check_event(books, index, leaf)
    assert check_receipt(document["receipt"]["text"].encode(), leaf, verifier)[0] == index
    completed = books.ledger.find(Enrolment, device=device, status=EnrolmentStatus.COMPLETED)
    assert [item.enrolment for item in completed] == [document["enrolment"]]
    rows = books.ledger.find(Certificate, device=device)
    told = {item["slot"]: unb64(item["certificate"]) for item in document["certificates"]}
    assert {row.slot: row.der for row in rows} == told
    assert len(rows) == len(told), "a slot was certified twice"


def _check_revoked(books: Books, verifier: Verifier, document: dict[str, Any]) -> None:
    (device,) = books.ledger.find(Device, device=document["device"])
    assert device.standing is Standing.REVOKED
    for item in document["revoked"]:
        (row,) = books.ledger.find(Certificate, serial=item["serial"])
        assert row.status is CertificateStatus.REVOKED
    receipt = document["receipt"]
    (event,) = books.ledger.find(Event, index=receipt["index"])
    assert event.type == "device.revoked"
    if receipt["status"] == "final":
        check_receipt(receipt["text"].encode(), event.leaf, verifier)


def _check_event(books: Books, index: int, leaf: bytes) -> None:
    (event,) = books.ledger.find(Event, index=index)
    assert event.leaf == leaf
