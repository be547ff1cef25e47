"""Every driver: the twin in memory, SoftHSM2, NSS softoken with its post-quantum keys, a pool."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hsm_drivers.pkcs11 import Pkcs11Driver
from hsm_drivers.ports import Driver
from hsm_drivers.software import SoftwareDriver
from tests.support.software_pool import pooled


@pytest.fixture(params=["software", "softhsm", "nss", "pool"])
def driver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Driver]:
    if request.param == "software":
        yield SoftwareDriver()
        return
    if request.param == "pool":
        with pooled(tmp_path, {"": [SoftwareDriver()]}) as it:
            yield it.pool.driver("")
        return
    token = request.getfixturevalue(request.param)
    opened = Pkcs11Driver(token.module, token.label, token.pin)
    yield opened
    opened.close()
