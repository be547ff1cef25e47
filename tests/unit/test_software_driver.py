"""The software twin beyond what every driver is (tests/contract): it can be away."""

from collections.abc import Callable

import pytest

from hsm_drivers.errors import TokenUnavailableError
from hsm_drivers.ports import KeyLabel
from hsm_drivers.software import SoftwareDriver

KEM = KeyLabel("kem")


def test_an_outage_is_everywhere() -> None:
    driver = SoftwareDriver("twin")
    driver.generate(KEM, "X25519")
    driver.outage = TokenUnavailableError("the token is away")
    calls: list[Callable[[], object]] = [
        lambda: driver.generate(KeyLabel("new"), "X25519"),
        driver.labels,
        lambda: driver.attributes(KEM),
        lambda: driver.public_key(KEM),
        lambda: driver.sign(KEM, b""),
        lambda: driver.random(1),
        lambda: driver.wrap(KEM, bytes(8)),
        lambda: driver.unwrap(KEM, bytes(24)),
        lambda: driver.decapsulate(KEM, bytes(32)),
    ]
    for call in calls:
        with pytest.raises(TokenUnavailableError, match="away"):
            call()
