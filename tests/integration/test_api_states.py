"""Enrol, prove, revoke, read, in any order: answers as described, and never two truths.

The model is what a messaging server knows of its devices; every answer is held against the
description of the API as well.
"""

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine

from kms.device import Device
from tests.support.described import CHECKS, Described, session
from tests.support.flow import IDENTITY, expectations
from tests.support.tls_site import Running, running

_FRESH = count()


@dataclass
class Owned:
    """A device, and what has become of it."""

    device: Device
    order: dict[str, Any]
    serial: str = ""
    certified: bool = False
    certificate_good: bool = False
    active: bool = True


class Lives(RuleBasedStateMachine):
    """Devices of one ministry, as its messaging server calls for them."""

    server: Running
    api: Described

    ordered = Bundle("ordered")
    certified = Bundle("certified")

    def __init__(self) -> None:
        super().__init__()
        self._size = 0

    def _name(self, kind: str) -> str:
        return f"{kind}-{next(_FRESH)}"

    def _order(self, device: Device, purpose: str) -> tuple[int, Any]:
        body = {**device.request("device-identity"), "purpose": purpose}
        return self.api.call("POST", "/v1/enrolments", body)

    def _prove(self, enrolment: str, body: dict[str, Any]) -> tuple[int, Any]:
        template = "/v1/enrolments/{enrolment}/proofs"
        return self.api.call("POST", template, body, enrolment=enrolment)

    @rule(target=ordered)
    def order(self) -> Owned:
        known = expectations(self.server.site.world)
        device = Device(self._name("user"), self._name("device"), IDENTITY, known)
        status, answer = self._order(device, "enrol")
        assert status == 201
        return Owned(device, answer)

    @rule(owned=ordered, forged=st.binary(min_size=1, max_size=80))
    def prove_wrongly(self, owned: Owned, forged: bytes) -> None:
        body = {"proofs": {"identity": base64.b64encode(forged).decode()}}
        status, _ = self._prove(owned.order["enrolment"], body)
        assert status == 422

    @rule(target=certified, owned=consumes(ordered))
    def prove(self, owned: Owned) -> Owned:
        status, answer = self._prove(owned.order["enrolment"], owned.device.prove(owned.order))
        assert status == 201
        (certificate,) = owned.device.accept(answer).certificates
        owned.serial, owned.certificate_good = certificate.serial, True
        return owned

    @rule(owned=certified)
    def prove_again(self, owned: Owned) -> None:
        status, _ = self._prove(owned.order["enrolment"], owned.device.prove(owned.order))
        assert status == 409

    @rule(owned=certified)
    def take_the_device_for_another_user(self, owned: Owned) -> None:
        known = expectations(self.server.site.world)
        thief = Device(self._name("user"), owned.device.device, IDENTITY, known)
        assert self._order(thief, "enrol")[0] == 409

    @rule(owned=certified)
    def revoke_the_certificate(self, owned: Owned) -> None:
        status, _ = self.api.call(
            "POST", "/v1/certificates/{serial}/revoke", {}, serial=owned.serial
        )
        assert status == 200  # again is no error: it has the effect that was wanted
        owned.certificate_good = False

    @rule(owned=certified)
    def revoke_the_device(self, owned: Owned) -> None:
        status, _ = self.api.call(
            "POST", "/v1/devices/{device}/revoke", {}, device=owned.device.device
        )
        assert status == 200
        owned.certificate_good = owned.active = False

    @rule(owned=certified)
    def revoke_the_user(self, owned: Owned) -> None:
        status, _ = self.api.call("POST", "/v1/users/{user}/revoke", {}, user=owned.device.user)
        assert status == 200
        owned.certificate_good = owned.active = False

    @rule(owned=certified)
    def read(self, owned: Owned) -> None:
        status, seen = self.api.call("GET", "/v1/certificates/{serial}", serial=owned.serial)
        assert status == 200
        assert (seen["status"] == "good") == owned.certificate_good
        index = seen["index"]
        assert index < self._size
        status, receipt = self.api.call("GET", "/v1/events/{index}/receipt", index=index)
        assert (status, receipt["status"], receipt["index"]) == (200, "final", index)
        status, seen = self.api.call("GET", "/v1/devices/{device}", device=owned.device.device)
        assert status == 200
        assert (seen["standing"] == "active") == owned.active

    @invariant()
    def the_log_only_grows(self) -> None:
        status, log = self.api.call("GET", "/v1/log")
        assert status == 200
        assert log["size"] >= self._size
        self._size = log["size"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("states")) as made:
        yield made


def live(server: Running, examples: int, steps: int) -> None:
    with session(server, "messenger") as asking:
        Lives.server, Lives.api = server, Described(server.url, asking, CHECKS)
        run_machine(
            Lives,
            settings=settings(
                max_examples=examples,
                stateful_step_count=steps,
                deadline=None,
                phases=(Phase.generate, Phase.shrink),
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )


def test_any_order_of_calls(server: Running):
    live(server, examples=3, steps=20)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_any_order_of_calls_for_long(server: Running):
    live(server, examples=100, steps=50)
