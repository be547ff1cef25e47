"""Strangers judge what `kms demo` left: GnuTLS, OpenSSL, pkilint, pkcs11-tool, file modes."""

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from pki.private_material import find_private_key
from tests.support.running import running_elsewhere

pytestmark = pytest.mark.timeout(300)

AUTHORITIES = ("root", "people", "infrastructure")
OPENSSL_KNOWS = ("ECDSA-P256", "Ed25519")
"""OpenSSL 3.0 stops at leaf keys it does not know: "unable to get certs public key"."""
MODULE = "/usr/lib/softhsm/libsofthsm2.so"
LAYOUT = (
    r"ca/(root|people|infrastructure)\.(pem|crl|crl\.pem)",
    r"devices/[^/]+/[^/]+/(identity|kem)\.pem",
    r"principals/(authority|ministry)/[a-z-]+-[0-9a-f]+\.pem",
    r"receipts/[^/]+/[^/]+\.tlog-proof",
    r"log/checkpoint",
    r"log/tile/.+",
    r"log\.vkey",
    r"events/(0|[1-9][0-9]*)\.json",
    r"openings\.json",
    r"softhsm2\.conf|pin|keys\.json|token/so-pin",
    r"token/tokens/.+",
    r"summary\.json",
    r"\.sovereign-kms-demo",
)
REQUIRED = ("identity.pem", "kem.pem", "checkpoint", "summary.json", "openings.json", "keys.json")


def run(*command: str | Path, env: dict[str, str] | None = None) -> tuple[int, str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, timeout=60)
    return done.returncode, done.stdout + done.stderr


def summary(record: Path) -> dict[str, Any]:
    document = json.loads((record / "summary.json").read_text())
    assert isinstance(document, dict)
    return document


def leaves(record: Path) -> list[tuple[Path, str, str]]:
    """Path, algorithm and status of every device's certificate."""
    listed = summary(record)["certificates"]
    assert {record / entry["path"] for entry in listed} == set(record.glob("devices/*/*/*.pem"))
    return [(record / entry["path"], entry["algorithm"], entry["status"]) for entry in listed]


def crls_of(record: Path, folder: Path) -> Path:
    """The lists that a verifier of a device needs, in one file."""
    path = folder / "crls.pem"
    path.write_bytes(b"".join((record / f"ca/{n}.crl.pem").read_bytes() for n in AUTHORITIES[:2]))
    return path


def files(*folders: Path) -> list[Path]:
    return [path for folder in folders for path in folder.rglob("*") if path.is_file()]


def service_home(record: Path) -> Path:
    return record.with_name(f"{record.name}-service")


def signer_state(record: Path) -> Path:
    return record.with_name(f"{record.name}-service-signer")


def test_it_shows_what_it_promises(demonstration: Path):
    document = summary(demonstration)
    users = {entry["user"] for entry in document["certificates"]}
    algorithms = {entry["algorithm"] for entry in document["certificates"]}
    assert len(users) >= 3
    assert document["devices"] >= 5
    assert {"ECDSA-P256", "Ed25519", "ML-DSA-65"} < algorithms
    assert {"MLKEM768-X25519", "MLKEM1024-P384"} < algorithms
    assert document["revoked"] > 0
    assert document["log_size"] == len(list(demonstration.glob("events/*.json")))
    refused = {item["type"].rpartition(":")[2] for item in document["refused"]}
    assert refused == {"algorithm-refused", "private-key-material"}
    output = (demonstration.parent / "output").read_text()
    assert all(f"urn:sovereign-kms:problem:{name}" in output for name in refused)


def test_gnutls_agrees_with_every_status(demonstration: Path, tmp_path: Path):
    ca, crls = demonstration / "ca", crls_of(demonstration, tmp_path)
    chain = tmp_path / "chain.pem"
    for path, _, status in leaves(demonstration):
        parts = (path, ca / "people.pem", ca / "root.pem")
        chain.write_bytes(b"".join(part.read_bytes() for part in parts))
        options = ("--load-ca-certificate", ca / "root.pem", "--load-crl", crls, "--infile", chain)
        code, said = run("certtool", "--verify", *options)
        assert (code == 0) is (status == "good"), f"{path}: {said}"
        assert ("is revoked" in said) is (status == "revoked"), f"{path}: {said}"


def test_openssl_agrees_where_it_knows_the_key(demonstration: Path, tmp_path: Path):
    ca, crls = demonstration / "ca", crls_of(demonstration, tmp_path)
    options = ("-x509_strict", "-CAfile", ca / "root.pem", "-untrusted", ca / "people.pem")
    judged = set()
    for path, algorithm, status in leaves(demonstration):
        code, said = run("openssl", "verify", *options, "-crl_check_all", "-CRLfile", crls, path)
        if algorithm in OPENSSL_KNOWS:
            judged.add((algorithm, status))
            assert (code == 0) is (status == "good"), said
            assert ("error 23 at 0 depth lookup: certificate revoked" in said) is (code != 0)
        else:
            assert "unable to get certs public key" in said, "a newer OpenSSL? Let it judge these"
    assert {algorithm for algorithm, _ in judged} == set(OPENSSL_KNOWS)
    assert {status for _, status in judged} == {"good", "revoked"}


def test_openssl_accepts_the_authorities_and_principals(demonstration: Path, tmp_path: Path):
    ca = demonstration / "ca"
    crls = tmp_path / "crls.pem"
    crls.write_bytes(b"".join((ca / f"{name}.crl.pem").read_bytes() for name in AUTHORITIES))
    for name in AUTHORITIES:
        options = ("-x509_strict", "-crl_check_all", "-CRLfile", crls, "-CAfile", ca / "root.pem")
        code, said = run("openssl", "verify", *options, ca / f"{name}.pem")
        assert code == 0, said
        issuer = ca / "root.pem" if name == "root" else ca / f"{name}.pem"
        crl = ca / f"{name}.crl.pem"
        code, said = run("openssl", "crl", "-noout", "-CAfile", issuer, "-in", crl)
        assert "verify OK" in said
        parsed = x509.load_der_x509_crl((ca / f"{name}.crl").read_bytes())
        assert parsed.public_bytes(Encoding.PEM) == crl.read_bytes()
    principals = list(demonstration.glob("principals/*/*.pem"))
    assert len(principals) >= 5
    for path in principals:
        chain = ("-CAfile", ca / "root.pem", "-untrusted", ca / "infrastructure.pem")
        code, said = run(
            "openssl", "verify", "-x509_strict", "-crl_check_all", "-CRLfile", crls, *chain, path
        )
        assert code == 0, said


def test_pkilint_finds_nothing(demonstration: Path):
    certificates = [path for path in demonstration.rglob("*.pem") if ".crl" not in path.name]
    principals = list(demonstration.glob("principals/*/*.pem"))
    assert len(certificates) == len(leaves(demonstration)) + len(AUTHORITIES) + len(principals)
    pkilint("lint_pkix_cert", [], certificates)
    crls = {name: demonstration / "ca" / f"{name}.crl" for name in AUTHORITIES}
    # A list of the root's is about authorities: an ARL in X.509's words.
    pkilint("lint_crl", ["-t", "ARL", "-p", "PKIX"], [crls.pop("root")])
    pkilint("lint_crl", ["-t", "CRL", "-p", "PKIX"], list(crls.values()))


def pkilint(tool: str, options: list[str], paths: list[Path]) -> None:
    """One of pkilint's programs on many files, in one process, because each start takes long."""
    code = f"import sys\nfrom pkilint.bin.{tool} import main\n"
    code += "sys.exit(max(main([*sys.argv[2:2 + int(sys.argv[1])], path])"
    code += " for path in sys.argv[2 + int(sys.argv[1]):]))"
    arguments = ["lint", "-s", "WARNING", *options]
    status, said = run(sys.executable, "-c", code, str(len(arguments)), *arguments, *paths)
    assert status == 0, said


def test_pkcs11_tool_confirms_the_keys(demonstration: Path, tmp_path: Path):
    env = {
        "SOFTHSM2_CONF": str(demonstration / "softhsm2.conf"),
        "PIN": (demonstration / "pin").read_text(),
    }
    tool = ("pkcs11-tool", "--module", MODULE, "--token-label", "kms-demo")
    code, said = run(*tool, "--login", "--pin", "env:PIN", "--list-objects", env=env)
    assert code == 0, said
    blocks = [b for b in re.split(r"\n(?=\S)", said) if "Key Object" in b]
    private = {block_value(b, "ID"): b for b in blocks if b.startswith("Private Key")}
    known = {entry["id"]: entry for entry in json.loads((demonstration / "keys.json").read_text())}
    assert private.keys() == known.keys()
    assert {entry["label"] for entry in known.values()} == {
        "log-1",
        "root-1",
        "people-1",
        "infrastructure-1",
    }
    for key_id, block in private.items():
        assert block_value(block, "label") == known[key_id]["label"]
        access = {item.strip() for item in block_value(block, "Access").split(",")}
        assert access == {"sensitive", "always sensitive", "never extractable", "local"}
        assert block_value(block, "Usage") == "sign"
    assert not [b for b in blocks if not b.startswith(("Private Key", "Public Key"))]
    code, said = run(*tool, "--list-objects", "--type", "privkey", env=env)
    assert "Private Key" not in said, "shown without a PIN"


def block_value(block: str, name: str) -> str:
    match = re.search(rf"(?m)^\s+{name}:\s+(.*)$", block)
    assert match, block
    return match[1].strip()


def test_the_layout_is_the_documented_one(demonstration: Path):
    found = {str(path.relative_to(demonstration)) for path in files(demonstration)}
    strange = {name for name in found if not any(re.fullmatch(p, name) for p in LAYOUT)}
    assert not strange
    names = {Path(name).name for name in found}
    assert names >= set(REQUIRED)
    for name in AUTHORITIES:
        assert {f"ca/{name}.pem", f"ca/{name}.crl", f"ca/{name}.crl.pem"} <= found


def test_secrets_are_for_their_owner_alone(demonstration: Path):
    home, state = service_home(demonstration), signer_state(demonstration)
    private = [demonstration / "pin", demonstration / "token" / "so-pin"]
    private += [demonstration / "openings.json", home / "data" / "ledger.db"]
    private += [*home.glob("clients/*.key"), *home.glob("tls/*.key"), *files(state)]
    private += files(demonstration / "token" / "tokens")
    assert len(private) > 12
    for path in private:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    for path in (state, home / "data", home / "tls", demonstration / "token" / "tokens"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700, path
    writable = stat.S_IWGRP | stat.S_IWOTH
    assert not [p for p in files(demonstration, home) if p.stat().st_mode & writable]


def test_no_private_key_of_a_device_is_anywhere(demonstration: Path):
    home, state = service_home(demonstration), signer_state(demonstration)
    # These are clients' and the server's own, made where they are used.
    own = {*home.glob("clients/*.key"), *home.glob("tls/*.key")}
    for path in own:
        assert load_pem_private_key(path.read_bytes(), None)
    # PKCS#8 of a P-256 key, which one of the refused requests carried.
    der = bytes.fromhex("308187020100301306072a8648ce3d020106082a8648ce3d030107046d306b0201010420")
    marks = (b"PRIVATE KEY", der, b"MIGHAgEAMBMGByqGSM49AgEG", der.hex().encode())
    for path in files(demonstration, home, state):
        if path not in own:
            content = path.read_bytes()
            assert not [mark for mark in marks if mark in content], path
            if path.suffix not in {".db", ".object"}:
                assert find_private_key(content) is None, path


def test_its_pins_are_nowhere_else(demonstration: Path):
    for home in (demonstration / "pin", demonstration / "token" / "so-pin"):
        pin = home.read_bytes().strip()
        assert len(pin) >= 16
        found = files(demonstration, service_home(demonstration), signer_state(demonstration))
        assert [path for path in found if pin in path.read_bytes()] == [home]


def test_its_service_runs_again_and_the_worker_has_no_module(demonstration: Path, folder: Path):
    with running_elsewhere(service_home(demonstration), folder / "again") as service:
        worker, signer = service.pid("worker"), service.pid("signer")
        if os.geteuid() == 0:  # a signer is closed to the user that it runs as
            assert "softhsm" in Path(f"/proc/{signer}/maps").read_text()
        maps = Path(f"/proc/{worker}/maps").read_text()
        assert "libssl" in maps or "_ssl" in maps, "these are the maps of a process that serves"
        for word in ("softhsm", "pkcs11", "p11-kit"):
            assert word not in maps
        assert service.metric("kms_log_size") >= summary(demonstration)["log_size"]
