"""What clients were told, and whether a service's books still say so."""

import json
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kms.domain.records import CertificateStatus, Device, Event, Standing, User
from kms.wire import unb64
from tests.support.books import Books
from tests.support.calling import Client
from tests.support.running import TENANT
from tests.support.stranger import Verifier, check_receipt

PATIENCE = 300.0
"""Seconds that a client asks again: far longer than any start of a service on a busy machine."""


@dataclass(frozen=True, slots=True)
class Call:
    """A POST and the answer that a client got and believes.

    Attributes:
        client: Who sent it: keys are a client's own.
        when: A number that the test gives, such as how often it had killed something by then.
    """

    client: str
    path: str
    body: object
    key: str
    answer: bytes
    when: int = 0

    @property
    def document(self) -> Any:
        return json.loads(self.answer)

    @property
    def pending(self) -> bool:
        """Whether its receipt was still to come."""
        return b'"status":"pending"' in self.answer

    @property
    def certified(self) -> Sequence[dict[str, Any]]:
        """Devices that it says are certified."""
        if self.path.endswith("/proofs"):
            return [self.document]
        if self.path.endswith(":batch-proofs"):
            assert all(item["status"] == 201 for item in self.document["results"])
            return [item["body"] for item in self.document["results"]]
        return []

    def repeat(self, client: Client) -> None:
        """The same call with the same key gives the same bytes again."""
        again = client.until_answered(self.path, self.body, self.key, PATIENCE)
        if self.pending:  # a revocation while the signer was away: its receipt may have come
            assert _without_receipts(again.document) == _without_receipts(self.document)
        else:
            assert again.body == self.answer, self.path

    def check(self, books: Books, verifier: Verifier) -> None:
        """What it says is in the books, under a receipt that proves it."""
        for certified in self.certified:
            _check_issued(books, verifier, certified, certified["certificates"])
        if self.path == "/v1/certificates":
            _check_issued(books, verifier, self.document, [{**self.document, "slot": None}])
        if self.path.endswith("/revoke"):
            _check_revoked(books, verifier, self.document)


@dataclass
class Acknowledged:
    """Calls that were answered; several clients may note theirs at once.

    Attributes:
        times: How often each device was certified, of all calls so far.
    """

    calls: list[Call] = field(default_factory=list)
    times: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def post(self, client: Client, path: str, body: object, key: str, when: int = 0) -> Call:
        """Send until answered with success, and note it."""
        answer = client.until_answered(path, body, key, PATIENCE)
        assert answer.status in (200, 201), answer.body
        call = Call(str(client.name), path, body, key, answer.body, when)
        with self._lock:
            self.calls.append(call)
            self.times.update(item["device"] for item in call.certified)
        return call

    def take(self) -> list[Call]:
        """The calls so far, which are forgotten here."""
        with self._lock:
            taken, self.calls = self.calls, []
        return taken

    def replay(self, *clients: Client) -> None:
        """Every call again gives the same bytes again."""
        named = {client.name: client for client in clients}
        for call in self.calls:
            call.repeat(named[call.client])

    def check(self, books: Books, vkey: str) -> None:
        """Everything acknowledged is in the books of a service at rest, once."""
        verifier = Verifier.parse(vkey)
        for call in self.calls:
            call.check(books, verifier)
        self.check_once(books)

    def check_once(self, books: Books) -> None:
        """No device was certified more often than its client was told."""
        certified = Counter(
            device
            for found in books.certificates.values()
            for device in {item.device for item in found if item.device is not None}
        )
        told = {device: certified[device] for device in self.times}
        assert told == self.times


def _without_receipts(document: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if not name.startswith("receipt")}


def _check_issued(
    books: Books,
    verifier: Verifier,
    document: dict[str, Any],
    certificates: Sequence[dict[str, Any]],
) -> None:
    """The leaf is where the receipt proves it, and its certificates are those of the answer."""
    receipt, leaf = document["receipt"], unb64(document["leaf"])
    assert receipt["status"] == "final"
    event = _proven(books, verifier, receipt)
    assert event.leaf == leaf
    rows = books.certificates[event.event]
    told = {item["slot"]: unb64(item["certificate"]) for item in certificates}
    assert {row.slot: row.der for row in rows} == told
    assert len(rows) == len(told), "a slot was certified twice"


def _check_revoked(books: Books, verifier: Verifier, document: dict[str, Any]) -> None:
    event = books.events[document["receipt"]["index"]]
    if document["receipt"]["status"] == "final":
        assert _proven(books, verifier, document["receipt"]) is event
    if "device" in document:
        device = books.ledger.get(Device, TENANT, document["device"])
        assert device is not None
        assert device.standing is Standing.REVOKED
    if "user" in document:
        user = books.ledger.get(User, TENANT, document["user"])
        assert user is not None
        assert user.standing is Standing.REVOKED
    for item in document["revoked"]:
        row = books.serials[item["authority"], item["serial"]]
        assert (row.status, row.revoked_by) == (CertificateStatus.REVOKED, event.event)


def _proven(books: Books, verifier: Verifier, receipt: dict[str, Any]) -> Event:
    """The event that a receipt proves, by itself and against the tree of the books."""
    event = books.events[receipt["index"]]
    index, size = check_receipt(receipt["text"].encode(), event.leaf, verifier)
    assert index == receipt["index"]
    assert verifier.open(receipt["text"].partition("\n\n")[2].encode()) == (size, books.roots[size])
    return event
