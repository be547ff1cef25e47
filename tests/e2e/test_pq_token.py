"""opencryptoki's soft token, whose processes live in a chroot: self-test, authorities, KEM keys."""

import base64
import os
import re
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from hsm_drivers.compat import Options, Report, examine, leftovers
from hsm_drivers.vendor import shipped
from kms.device import MessagingServer
from kms.processes.accounts import Separation
from kms.processes.one_token import TokenAccess, surveyed
from kms.processes.pin import Pin
from policies.algorithms import Scheme, algorithm
from tests.e2e.test_post_quantum_home import (
    BUNDLES,
    OFFICERS,
    audit,
    enrol,
    kms,
    leave,
    principal,
)
from tests.support import opencryptoki
from tests.support.running import OFFICER, Home, running

pytestmark = [pytest.mark.pq_token, pytest.mark.timeout(600)]
PLAN = """
[authorities.people-pq-3]
token = "pq"

[authorities.people-pq-5]
token = "pq"
"""


@pytest.fixture(scope="module")
def daemon() -> Iterator[None]:
    if os.geteuid() != 0:
        pytest.fail("the token's processes live in a chroot, which only root can enter: be root")
    with opencryptoki.running():
        yield


@pytest.fixture(scope="module")
def report(daemon: None) -> Report:
    """The driver's whole contract over the socket that crosses the chroot."""
    token = opencryptoki.token()
    survey = surveyed(token, Separation())
    pin = Pin(bytearray(opencryptoki.pin().reveal().encode()))
    with TokenAccess(token, pin, Separation()) as access, access.opened() as driver:
        options = Options(seconds=0.05, survey=survey, opener=access.opened)
        made = examine(driver, shipped("opencryptoki"), options)
        assert leftovers(driver) == ()
    return made


def test_every_operation_goes_well(report: Report) -> None:
    assert report.sound, [one for one in report.algorithms if not one.good]
    assert all(one.good for one in report.algorithms)
    assert report.concurrency.processes > 1


def test_ml_dsa_and_ml_kem_keys_live_on_the_token(report: Report) -> None:
    strong = [one for one in report.algorithms if one.post_quantum]
    schemes = {algorithm(one.algorithm).scheme for one in strong}
    assert schemes == {Scheme.ML_DSA, Scheme.ML_KEM}
    assert {"ML-DSA-44", "ML-DSA-65", "ML-DSA-87", "ML-KEM-768", "ML-KEM-1024"} == {
        one.algorithm for one in strong
    }
    for one in strong:
        assert one.attributes is not None
        assert one.attributes.held()
    assert all(role.fits for role in report.roles if "transferred" not in role.name)


@pytest.fixture(scope="module")
def home(prepared: Home, folder: Path, daemon: None) -> Iterator[Home]:
    """A home with the token as its second one; its authorities and cosigner live there."""
    made = prepared.copy(folder / "ock")
    config = made.path / "kms.toml"
    text, found = re.subn(
        r"(?m)^(# )?policy = .*$", 'policy = "post-quantum-2026"', config.read_text()
    )
    assert found == 1
    lines = [f'{name} = "{value}"' for name, value in opencryptoki.settings().items()]
    config.write_text("\n".join([text, "[tokens.pq]", *lines, ""]))
    here = ("--home", str(made.path))
    plan = made.root / "plan.toml"
    plan.write_text(PLAN)
    added = kms("authority", "add", *here, "--plan", str(plan), *OFFICERS)
    for name in ("people-pq-3", "people-pq-5"):
        data = base64.b64decode(added["certificates"][name]["certificate"])
        (made.root / f"{name}.pem").write_text(ssl.DER_cert_to_PEM_cert(data))
    cosigned = kms("log", "add-cosigner", *here, "--token", "pq", *OFFICERS)
    held = {key["label"]: key["protection"] for key in cosigned["keys"]}
    assert {held[f"people-pq-{number}-1"] for number in (3, 5)} == {"token"}
    assert held["log-cosigner-1"] == "token"
    (made.root / "log-cosigner.vkey").write_text(cosigned["cosigner_vkey"])
    yield made
    _destroy_all()


def _destroy_all() -> None:
    """The token outlives the test; its keys do not."""
    pin = Pin(bytearray(opencryptoki.pin().reveal().encode()))
    with (
        TokenAccess(opencryptoki.token(), pin, Separation()) as access,
        access.opened() as driver,
    ):
        for label in driver.labels():
            driver.destroy(label)


def test_ml_dsa_authorities_certify_ml_dsa_and_ml_kem_slots(home: Home) -> None:
    record = home.root / "record"
    officer = ("--home", str(home.path), "--as", OFFICER)
    with running(home):
        cert, key = principal(home)
        url = f"https://127.0.0.1:{home.port('api')}"
        with MessagingServer(url, cert, key, home.trust) as server:
            for bundle in BUNDLES:
                leave(record, enrol(home, server, bundle))
        kms("authority", "export", str(record), *officer)
        kms("log", "export", str(record), *officer)
    kms("log", "export-journal", str(record), "--home", str(home.path))
    assert audit(record, "--cosigner", str(home.root / "log-cosigner.vkey")) == (True, {})
    found = kms("hsm", "probe", "pq", "--home", str(home.path))
    labels = {key["label"]: key["detail"] for key in found["keys"] if key["recorded"]}
    assert {"people-pq-3-1", "people-pq-5-1", "log-cosigner-1"} <= labels.keys()
    assert all(detail.startswith("held") for detail in labels.values())
