"""Every driver: the twin in memory, SoftHSM2, and NSS softoken with its post-quantum keys."""

from collections.abc import Iterator

import pytest

from hsm_drivers.pkcs11 import Pkcs11Driver
from hsm_drivers.ports import Driver
from hsm_drivers.software import SoftwareDriver


@pytest.fixture(params=["software", "softhsm", "nss"])
def driver(request: pytest.FixtureRequest) -> Iterator[Driver]:
    if request.param == "software":
        yield SoftwareDriver()
        return
    token = request.getfixturevalue(request.param)
    opened = Pkcs11Driver(token.module, token.label, token.pin)
    yield opened
    opened.close()
