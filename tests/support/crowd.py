"""Clients of all kinds that never stop asking, whatever happens to the service under them."""

import contextlib
import hashlib
import secrets
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cryptography import x509

from kms.device import Device
from kms.wire import unb64
from tests.support.acknowledged import PATIENCE, Acknowledged, Call
from tests.support.calling import LOST, Answer, Client
from tests.support.clients import csr, new_key
from tests.support.running import MESSENGER, OFFICER, TENANT, Service
from tests.support.stranger import Verifier, check_receipt

BATCH = 5
BOTH = {"identity": "Ed25519", "kem": "MLKEM768-X25519"}
IDENTITY = {"identity": "ECDSA-P256"}
PAUSE = 0.02
"""Seconds that each client rests between two rounds: the machine is for the service, too."""
JOIN_SECONDS = PATIENCE + 60


class Crowd:
    """Each kind of work in a thread of its own, until `stop`.

    Attributes:
        acknowledged: What was answered and not yet looked up in the books.
        rounds: How often each kind of work was done.
        kills: Set by whoever kills. A call is repeated after a later kill than it was answered.
        seen: Roots of the log, by size, that readers were shown under its signature.
    """

    def __init__(self, service: Service) -> None:
        self.acknowledged = Acknowledged()
        self.rounds: Counter[str] = Counter()
        self.kills = 0
        self.seen: dict[int, bytes] = {}
        self._service = service
        self._expectations = service.home.expectations()
        self._verifier = Verifier.parse(self._expectations.log_vkey)
        self._enrolled: deque[Device] = deque()
        self._identities: dict[str, tuple[str, str]] = {}
        self._to_repeat: dict[str, deque[Call]] = {MESSENGER: deque(), OFFICER: deque()}
        self._largest = 0
        self._crl_number = 0
        self._stop = threading.Event()
        self._errors: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._run, args=(work, client, name))
            for name, client, work in (
                ("enrol", MESSENGER, self._enrol),
                ("enrol", MESSENGER, self._enrol),
                ("batch", MESSENGER, self._enrol_batch),
                ("renew", MESSENGER, self._renew),
                ("revoke", OFFICER, self._revoke),
                ("crl", OFFICER, self._publish),
                ("certify", OFFICER, self._certify),
                ("read", MESSENGER, self._read),
                ("repeat", MESSENGER, self._repeat),
                ("repeat", OFFICER, self._repeat),
                ("abandon", MESSENGER, self._abandon),
            )
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def check(self) -> None:
        """Raise what a client found wrong."""
        if self._errors:
            raise self._errors[0]

    def stop(self) -> None:
        """Let everyone finish what they are at; what they found wrong is raised here."""
        self.leave()
        self.check()
        assert not any(thread.is_alive() for thread in self._threads)

    def leave(self) -> None:
        """End, whatever clients find of a service that may be gone."""
        self._stop.set()
        for thread in self._threads:
            thread.join(JOIN_SECONDS)

    def repeat_rest(self) -> None:
        """What was not repeated by a client is repeated now."""
        for name, calls in self._to_repeat.items():
            with Client(self._service.home, name) as client:
                while calls:
                    calls.popleft().repeat(client)
                    self.rounds["repeat"] += 1

    def _run(self, work: Callable[[Client], object], name: str, kind: str) -> None:
        try:
            with Client(self._service.home, name) as client:
                while not self._stop.is_set():
                    if work(client) is not None:
                        self.rounds[kind] += 1
                    self._stop.wait(PAUSE)
        except BaseException as error:  # noqa: BLE001 - raised again by `check`
            self._errors.append(error)

    def _post(self, client: Client, path: str, body: object) -> Any:
        call = self.acknowledged.post(client, path, body, secrets.token_hex(8), self.kills)
        self._to_repeat[call.client].append(call)
        return call.document

    def _device(self, slots: Mapping[str, str]) -> Device:
        name = secrets.token_hex(6)
        return Device(f"user-{name}", name, slots, self._expectations)

    def _order(self, device: Device) -> dict[str, Any]:
        return device.request("device" if "kem" in device.keys else "device-identity")

    def _accept(self, device: Device, document: Mapping[str, Any]) -> None:
        """The device verifies everything; then it is there to be renewed or revoked."""
        certificates = {item.slot: item for item in device.accept(document).certificates}
        identity = certificates["identity"]
        digest = hashlib.sha256(identity.certificate).hexdigest()
        self._identities[device.device] = (identity.serial, digest)
        self._enrolled.append(device)

    def _certified(self, client: Client, device: Device) -> Device:
        begun = self._post(client, "/v1/enrolments", self._order(device))
        path = f"/v1/enrolments/{begun['enrolment']}/proofs"
        self._accept(device, self._post(client, path, device.prove(begun)))
        return device

    def _enrol(self, client: Client) -> Device:
        return self._certified(client, self._device(BOTH))

    def _enrol_batch(self, client: Client) -> Sequence[Device]:
        devices = [self._device(IDENTITY) for _ in range(BATCH)]
        items = [self._order(device) for device in devices]
        results = self._post(client, "/v1/enrolments:batch", {"items": items})["results"]
        proofs = [
            {"enrolment": item["body"]["enrolment"], **device.prove(item["body"])}
            for device, item in zip(devices, results, strict=True)
        ]
        path = "/v1/enrolments:batch-proofs"
        for device, item in zip(
            devices, self._post(client, path, {"items": proofs})["results"], strict=True
        ):
            self._accept(device, item["body"])
        return devices

    def _renew(self, client: Client) -> Device | None:
        old = self._taken()
        if old is None:
            return None
        slots = {name: key.algorithm for name, key in old.keys.items()}
        _, renews = self._identities[old.device]
        device = Device(old.user, old.device, slots, self._expectations, renews=renews)
        return self._certified(client, device)

    def _revoke(self, client: Client) -> object:
        """A device, a person or a certificate, in turn."""
        device = self._taken()
        if device is None:
            return None
        serial, _ = self._identities.pop(device.device)
        what = ("devices", "users", "certificates")[self.rounds["revoke"] % 3]
        name = {"devices": device.device, "users": device.user, "certificates": serial}[what]
        body = {"tenant": TENANT, "reason": "superseded"}
        answer = self._post(client, f"/v1/{what}/{name}/revoke", body)
        self._stop.wait(0.1)
        return answer

    def _publish(self, client: Client) -> object:
        answer = self._post(client, "/v1/authorities/people/crl", {})
        self._stop.wait(0.3)
        return answer

    def _certify(self, client: Client) -> object:
        """A certificate of a messaging server, from its request."""
        body = {"tenant": TENANT, "name": MESSENGER, "csr": csr(new_key())}
        answer = self._post(client, "/v1/certificates", body)
        self._stop.wait(0.2)
        return answer

    def _abandon(self, client: Client) -> object:
        """A client that never asks again: what was signed for it may be an orphan."""
        device = self._device(IDENTITY)
        with contextlib.suppress(*LOST, KeyError):
            begun = client.post("/v1/enrolments", self._order(device)).document
            path = f"/v1/enrolments/{begun['enrolment']}/proofs"
            return client.post(path, device.prove(begun))
        return None

    def _repeat(self, client: Client) -> object:
        """An answer of before the last kill comes again."""
        calls = self._to_repeat[str(client.name)]
        if not calls or calls[0].when >= self.kills:
            return None
        call = calls.popleft()
        call.repeat(client)
        return call

    def _read(self, client: Client) -> object:
        """What readers see never goes back, and what they fetch again verifies."""
        with contextlib.suppress(*LOST):
            self._read_public()
            self._read_own(client)
            return self
        return None

    def _read_public(self) -> None:
        status, note = self._service.public("/log/checkpoint")
        if status == 200:
            size, root = self._verifier.open(note)
            assert size >= self._largest, "the log that readers are shown has shrunk"
            assert self.seen.setdefault(size, root) == root, "two logs of one size"
            self._largest = size
        status, der = self._service.public("/pki/people.crl")
        if status == 200:
            number = x509.load_der_x509_crl(der).extensions.get_extension_for_class(x509.CRLNumber)
            assert number.value.crl_number >= self._crl_number, "an older list was shown again"
            self._crl_number = number.value.crl_number

    def _read_own(self, client: Client) -> None:
        calls = [call for call in list(self._to_repeat[MESSENGER]) if call.certified]
        if not calls:
            return
        document = calls[-1].certified[0]
        shown = client.get(f"/v1/devices/{document['device']}")
        assert shown.status == 200 or _passing(shown), shown.body
        index = document["receipt"]["index"]
        receipt = client.get(f"/v1/events/{index}/receipt")
        if receipt.status == 200 and receipt.document["status"] == "final":
            leaf = unb64(document["leaf"])
            check_receipt(receipt.document["text"].encode(), leaf, self._verifier)
        else:
            assert receipt.status == 200 or _passing(receipt), receipt.body

    def _taken(self) -> Device | None:
        with contextlib.suppress(IndexError):
            return self._enrolled.popleft()
        return None


def _passing(answer: Answer) -> bool:
    """A refusal that says: later."""
    return bool(answer.problem) and answer.retry != "never"
