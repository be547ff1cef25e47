"""A home grows post-quantum authorities and a cosigner: commands, a running service, an auditor.

SoftHSM2 has no ML-DSA, so keys on it are wrapped under one of its own. Where NSS softoken can be
had, a second token of the home, one authority and the cosigner live there as they are.
"""

import base64
import json
import re
import shutil
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from kms.device import Certified, Device, Expectations, MessagingServer
from kms.tlog.notes import KeyType, VerifierKey, parse_note, verify_note
from tests.support import nss
from tests.support.running import KMS, OFFICER, TENANT, Home, running

pytestmark = pytest.mark.xdist_group("post-quantum-home")  # its home is made once

KMS_AUDIT = str(Path(sys.executable).with_name("kms-audit"))
HAS_NSS = not nss.missing()
PLAN = f"""
[authorities.people-pq-3]
{'token = "pq"' if HAS_NSS else 'protection = "wrapped"'}

[authorities.people-pq-5]
protection = "wrapped"
common_name = "People CA of category 5"
"""
BUNDLES = {
    "device-pq-3": {"identity-pq-3": "ML-DSA-65", "kem-pq-3": "ML-KEM-768"},
    "device-pq-5": {"identity-pq-5": "ML-DSA-87", "kem-pq-5": "ML-KEM-1024"},
}
OFFICERS = ("--officer", "alice", "--officer", "bob", "--yes")
NEVER_BORN = VerifierKey("log.test.example/1", KeyType.ML_DSA_44_COSIGNATURE, bytes(1312))


def kms(*arguments: str, fails: str = "") -> dict[str, Any]:
    """A command of the installed program; its JSON."""
    done = subprocess.run(
        [KMS, *arguments, "--json"], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode == 0) == (not fails), done.stdout + done.stderr
    assert fails in done.stdout + done.stderr, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def audit(record: Path, *arguments: str) -> tuple[bool, dict[str, list[str]]]:
    """The auditor's verdict, and the failures of each check that has any."""
    done = subprocess.run(
        [KMS_AUDIT, "verify", str(record), "--json", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    checks = json.loads(done.stdout)["checks"]
    assert any(check["check"] == "cosignatures" and check["examined"] > 2 for check in checks)
    failed = {check["check"]: check["failures"] for check in checks if check["failures"]}
    return done.returncode == 0, failed


@pytest.fixture(scope="module")
def home(prepared: Home, folder: Path) -> Home:
    """Two authorities and a cosigner are added, under a policy that permits wrapped keys."""
    made = prepared.copy(folder / "pq")
    if HAS_NSS:
        give_token(made)
    here = ("--home", str(made.path))
    plan = made.root / "plan.toml"
    plan.write_text(PLAN)
    add = ("authority", "add", *here, "--plan", str(plan), *OFFICERS)
    config = made.path / "kms.toml"
    wanted = 'policy = "post-quantum-2026"'
    text, found = re.subn(r"(?m)^(# )?policy = .*$", wanted, config.read_text())
    assert found == 1
    config.write_text(text)
    added = kms(*add)
    for name in ("people-pq-3", "people-pq-5"):
        data = base64.b64decode(added["certificates"][name]["certificate"])
        (made.root / f"{name}.pem").write_text(ssl.DER_cert_to_PEM_cert(data))
    kms(*add, fails="already")
    held = ("--token", "pq") if HAS_NSS else ("--protection", "wrapped")
    cosigned = kms("log", "add-cosigner", *here, *held, *OFFICERS)
    protections = {key["label"]: key["protection"] for key in cosigned["keys"]}
    expected = "token" if HAS_NSS else "wrapped"
    assert protections["people-pq-3-1"] == protections["log-cosigner-1"] == expected
    assert protections["people-pq-5-1"] == "wrapped"
    (made.root / "log-cosigner.vkey").write_text(cosigned["cosigner_vkey"])
    return made


def give_token(home: Home) -> None:
    """A second token, as an operator writes it down."""
    token = nss.make_nss(home.root / "nss", "pq")
    told = {
        "module": token.module,
        "label": token.label,
        "pin_file": str(token.directory / "pin"),
        "directory": str(token.directory),
    }
    lines = [f"{name} = {json.dumps(value)}" for name, value in told.items()]
    lines += ["", "[tokens.pq.environment]"]
    lines += [f"{name} = {json.dumps(value)}" for name, value in token.environment.items()]
    config = home.path / "kms.toml"
    config.write_text("\n".join([config.read_text(), "[tokens.pq]", *lines, ""]))


@pytest.fixture(scope="module")
def record(home: Home) -> Path:
    """What a service left that certified a device of each bundle, and revoked one."""
    made = home.root / "record"
    officer = ("--home", str(home.path), "--as", OFFICER)
    with running(home):
        cert, key = principal(home)
        url = f"https://127.0.0.1:{home.port('api')}"
        with MessagingServer(url, cert, key, home.trust) as server:
            for bundle in BUNDLES:
                leave(made, enrol(home, server, bundle))
        kms("device", "revoke", "device-pq-3", "--tenant", TENANT, *officer)
        kms("authority", "publish-crl", "people-pq-3", *officer)
        kms("authority", "export", str(made), *officer)
        kms("log", "export", str(made), *officer)
    kms("log", "export-journal", str(made), "--home", str(home.path))
    return made


def principal(home: Home) -> tuple[Path, Path]:
    """A messaging server of the post-quantum bundles; certificate and key."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    csr, cert, private = (home.root / f"pq.{kind}" for kind in ("csr", "pem", "key"))
    csr.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    data = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    private.write_bytes(data)
    officer = ("--home", str(home.path), "--as", OFFICER, "--tenant", TENANT)
    bundles = [part for bundle in BUNDLES for part in ("--bundle", bundle)]
    kms("principal", "add", "pq", "--role", "messaging-server", *bundles, *officer)
    kms("cert", "issue", "pq", "--csr", str(csr), "--out", str(cert), *officer)
    return cert, private


def enrol(home: Home, server: MessagingServer, bundle: str) -> Certified:
    authority = bundle.replace("device", "people")
    expectations = Expectations.load(
        TENANT,
        home.trust.read_bytes(),
        (home.root / f"{authority}.pem").read_bytes(),
        (home.root / "log.vkey").read_text(),
        cosigner_vkey=(home.root / "log-cosigner.vkey").read_text(),
    )
    return server.enrol(Device("ada", bundle, BUNDLES[bundle], expectations), bundle)


def leave(record: Path, certified: Certified) -> None:
    """As devices are laid out in a record."""
    folder = record / "devices" / certified.user / certified.device
    folder.mkdir(parents=True)
    for item in certified.certificates:
        (folder / f"{item.slot}.pem").write_bytes(item.pem())
    receipts = record / "receipts" / certified.user
    receipts.mkdir(parents=True, exist_ok=True)
    (receipts / f"{certified.device}.tlog-proof").write_text(certified.receipt)


def test_the_auditor_finds_every_step(home: Home, record: Path):
    """Of both bundles, their authorities' CRLs, the cosigner, and what the signer signed."""
    cosigner = home.root / "log-cosigner.vkey"
    assert cosigner.read_text() == (record / "log-cosigner.vkey").read_text().strip()
    assert audit(record, "--cosigner", str(cosigner)) == (True, {})
    for name, revoked in (("people-pq-3", 2), ("people-pq-5", 0)):
        crl = x509.load_der_x509_crl((record / "ca" / f"{name}.crl").read_bytes())
        ca = x509.load_pem_x509_certificate((record / "ca" / f"{name}.pem").read_bytes())
        assert crl.is_signature_valid(ca.public_key())  # type: ignore[arg-type]  # ML-DSA, too
        assert len(list(crl)) == revoked
        slots = sorted((record / "devices" / "ada" / name.replace("people", "device")).iterdir())
        assert len(slots) == 2
        for path in slots:
            x509.load_pem_x509_certificate(path.read_bytes()).verify_directly_issued_by(ca)


def test_heads_carry_both_signatures_and_strangers_need_one(home: Home, record: Path):
    note = parse_note((record / "log" / "checkpoint").read_bytes())
    both = [(home.root / name).read_text().strip() for name in ("log.vkey", "log-cosigner.vkey")]
    for text in both:
        key = VerifierKey.parse(text)
        assert verify_note(note, [key]) == [key.name] == ["log.test.example/1"]
    assert len(note.signatures) == 2


def test_a_head_without_the_cosigner_is_found(record: Path, tmp_path: Path):
    shutil.copytree(record, tmp_path / "record")
    path = tmp_path / "record" / "receipts" / "ada" / "device-pq-5.tlog-proof"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))
    good, failed = audit(tmp_path / "record")
    assert not good
    assert list(failed) == ["cosignatures"]
    assert "device-pq-5" in str(failed)


def test_a_cosigner_that_was_never_born_is_found(record: Path, tmp_path: Path):
    (tmp_path / "other.vkey").write_text(NEVER_BORN.text())
    good, failed = audit(record, "--cosigner", str(tmp_path / "other.vkey"))
    assert not good
    assert "is not the cosigner of event" in str(failed["cosignatures"])


@pytest.mark.slow  # a signer and two token processes of its own
def test_the_doctor_finds_every_key_as_it_was_made(home: Home, record: Path):
    done = subprocess.run(
        [KMS, "doctor", "--home", str(home.path), "--json"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    findings = json.loads(done.stdout)["findings"]
    of_token = [item for item in findings if item["check"] in {"token", "keys", "mechanisms"}]
    assert {item["severity"] for item in of_token} == {"ok"}, of_token
    assert "log-cosigner-1" in str(of_token)
