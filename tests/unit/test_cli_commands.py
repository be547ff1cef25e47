"""What each remote command asks for, and what it shows."""

import base64
import io
import json
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from kms.cli.client import MAX_ANSWER
from kms.wire import b64
from tests.support.authority import Authority
from tests.support.cli import PUBLIC, Cli

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
ROOT = Authority.create("Root", None, 1, BEGIN)
PEOPLE = Authority.create("People", ROOT, 2, BEGIN)
RECEIPT = {"status": "final", "log": 1, "index": 9, "text": "c2sp.org/tlog-proof@v1\n"}
CERTIFICATE = {
    "tenant": "ministry",
    "authority": "people",
    "serial": "0a",
    "profile": "device-identity",
    "algorithm": "ECDSA-P256",
    "user": "@amina:ministry.example",
    "device": "phone",
    "slot": "identity",
    "principal": None,
    "not_before": "2026-01-01T00:00:00Z",
    "not_after": "2026-04-01T00:00:00Z",
    "status": "good",
    "revoked_at": None,
    "reason": None,
    "sha256": "ab" * 32,
    "certificate": "MAA=",
    "index": 7,
}


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(tmp_path, lambda: tuple(capsys.readouterr()))


CHANGES: list[tuple[list[str], str, dict[str, Any]]] = [
    (
        ["tenant", "add", "ministry", "id.ministry.example"],
        "/v1/tenants",
        {"tenant": "ministry", "identity_domain": "id.ministry.example"},
    ),
    (
        [
            *("principal", "add", "matrix", "--role", "messaging-server", "--tenant", "ministry"),
            *("--bundle", "device", "--bundle", "device-identity"),
        ],
        "/v1/principals",
        {
            "tenant": "ministry",
            "name": "matrix",
            "role": "messaging-server",
            "bundles": ["device", "device-identity"],
        },
    ),
    (
        ["principal", "disable", "matrix", "--tenant", "ministry"],
        "/v1/principals/matrix/disable",
        {"tenant": "ministry"},
    ),
    (
        ["cert", "revoke", "0a", "--reason", "key-compromise"],
        "/v1/certificates/0a/revoke",
        {"reason": "key-compromise"},
    ),
    (
        ["device", "revoke", "phone", "--tenant", "ministry"],
        "/v1/devices/phone/revoke",
        {"reason": "unspecified", "tenant": "ministry"},
    ),
    (
        ["user", "revoke", "@amina:ministry.example", "--yes"],
        "/v1/users/%40amina%3Aministry.example/revoke",
        {"reason": "unspecified"},
    ),
    (["authority", "publish-crl", "people"], "/v1/authorities/people/crl", {}),
]


@pytest.mark.parametrize(("arguments", "path", "body"), CHANGES)
def test_a_change_is_asked_for_once_with_a_key(
    cli: Cli, arguments: list[str], path: str, body: dict[str, Any]
) -> None:
    cli.service.on("POST", path.replace("%40", "@").replace("%3A", ":"), {"receipt": RECEIPT})
    done = cli.remote(*arguments, "--idempotency-key", "once")
    assert (done.status, done.err) == (0, "")
    (request,) = cli.service.requests
    assert request.url.raw_path.decode() == path
    assert json.loads(request.content) == body
    assert request.headers["Idempotency-Key"].split(".")[0] == "once"
    again = cli.remote(*arguments, "--json")
    assert "receipt" in str(again.json)


def test_listings_are_tables_for_people_and_documents_for_scripts(cli: Cli) -> None:
    tenants = [{"tenant": "ministry", "identity_domain": "id.example", "standing": "active"}]
    cli.service.on("GET", "/v1/tenants", {"tenants": tenants})
    done = cli.remote("tenant", "list")
    assert done.status == 0
    head, _, row = done.out.splitlines()
    assert head.split() == ["tenant", "identity_domain", "standing"]
    assert row.split() == ["ministry", "id.example", "active"]
    assert cli.remote("tenant", "list", "--json").json == {"tenants": tenants}


def test_nothing_is_said_to_be_nothing(cli: Cli) -> None:
    cli.service.on("GET", "/v1/principals", {"principals": []})
    assert cli.remote("principal", "list").out == "none\n"


def test_certificates_are_searched_by_what_is_given(cli: Cli) -> None:
    cli.service.on("GET", "/v1/certificates", {"certificates": [CERTIFICATE], "next": None})
    done = cli.remote("cert", "list", "--user", "@amina:ministry.example", "--status", "good")
    assert dict(cli.service.requests[0].url.params) == {
        "user": "@amina:ministry.example",
        "status": "good",
        "limit": "100",
    }
    assert "@amina:ministry.example/phone/identity" in done.out


def test_a_listing_says_that_there_is_more(cli: Cli) -> None:
    cli.service.on("GET", "/v1/certificates", {"certificates": [CERTIFICATE], "next": "0a"})
    done = cli.remote("cert", "list", "--limit", "1")
    assert "raise --limit" in done.err
    assert cli.remote("cert", "list", "--limit", "1", "--json").json["next"] == "0a"


def test_one_certificate_is_shown_and_written(cli: Cli, tmp_path: Path) -> None:
    shown = {**CERTIFICATE, "certificate": b64(ROOT.certificate)}
    cli.service.on("GET", "/v1/certificates/0a", shown)
    out = tmp_path / "shown.pem"
    done = cli.remote("cert", "show", "0a", "--out", str(out))
    assert done.status == 0
    assert _der(out) == ROOT.certificate
    assert "certificate " not in done.out  # bytes are for files and scripts
    assert cli.remote("cert", "show", "0a", "--json").json == shown


@pytest.mark.parametrize("written", ["0a", "0A", "0x0a", "0X0A", "0:A", "0A:"])
def test_a_serial_is_taken_as_other_tools_print_it(cli: Cli, written: str) -> None:
    cli.service.on("GET", "/v1/certificates/0a", CERTIFICATE)
    assert cli.remote("cert", "show", written).status == 0


def test_a_csr_is_sent_as_pem_or_as_base64_of_der(cli: Cli, tmp_path: Path) -> None:
    root, issuer = b64(ROOT.certificate), b64(PEOPLE.certificate)
    answer = {"tenant": "m", "serial": "0a", "certificate": issuer, "chain": [issuer, root]}
    cli.service.on("POST", "/v1/certificates", answer)
    csr, out = tmp_path / "csr", tmp_path / "matrix.pem"
    csr.write_bytes(b"-----BEGIN CERTIFICATE REQUEST-----\nMAA=\n")
    done = cli.remote("cert", "issue", "matrix", "--csr", str(csr), "--out", str(out))
    assert done.status == 0
    assert len(x509.load_pem_x509_certificates(out.read_bytes())) == 2  # no root in a TLS chain
    csr.write_bytes(b"\x30\x00")
    done = cli.remote("cert", "issue", "matrix", "--csr", str(csr))
    assert done.out.count("BEGIN CERTIFICATE") == 2
    sent = [body["csr"] for body in cli.service.bodies()]
    assert sent == ["-----BEGIN CERTIFICATE REQUEST-----\nMAA=\n", "MAA="]


def test_nothing_is_issued_that_could_not_be_written(cli: Cli, tmp_path: Path) -> None:
    csr, taken = tmp_path / "csr", tmp_path / "taken"
    csr.touch()
    taken.write_text("precious")
    for out in (taken, tmp_path / "absent" / "file"):
        done = cli.remote("cert", "issue", "matrix", "--csr", str(csr), "--out", str(out))
        assert done.status == 2
    assert cli.service.requests == []
    assert taken.read_text() == "precious"


def test_a_person_is_revoked_after_a_look_and_a_yes(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    _a_person(cli)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    done = cli.remote("user", "revoke", "amina")
    assert done.status == 0
    assert "2 devices, 1 certificates in force" in done.err
    assert "Revoked 1 certificate; event 9, receipt final." in done.out


def test_a_person_is_not_revoked_after_a_no(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    _a_person(cli)
    for answer in ("n\n", "\n", ""):
        monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        done = cli.remote("user", "revoke", "amina")
        assert done.status == 1
        assert cli.service.bodies() == []


def test_a_script_must_say_yes_itself(cli: Cli) -> None:
    _a_person(cli)
    done = cli.remote("user", "revoke", "amina", "--json")
    assert done.status == 2
    assert "--yes" in done.json["error"]["remedy"]
    assert cli.service.bodies() == []


@pytest.mark.parametrize("what", ["user", "device"])
def test_a_dry_run_changes_nothing(cli: Cli, what: str) -> None:
    _a_person(cli)
    done = cli.remote(what, "revoke", "amina", "--dry-run", "--json")
    assert done.json == {"would_revoke": [CERTIFICATE]}
    assert cli.service.bodies() == []


def _a_person(cli: Cli) -> None:
    owned = [{"device": name, "user": "amina"} for name in ("phone", "laptop")]
    cli.service.on("GET", "/v1/users/amina/devices", {"devices": owned, "next": None})
    cli.service.on("GET", "/v1/certificates", {"certificates": [CERTIFICATE], "next": None})
    gone = [{"authority": "people", "serial": "0a", "device": "phone", "slot": "identity"}]
    answer = {"user": "amina", "revoked": gone, "receipt": RECEIPT}
    cli.service.on("POST", "/v1/users/amina/revoke", answer)


def test_a_device_is_shown_with_its_certificates(cli: Cli) -> None:
    device = {"user": "amina", "device": "phone", "bundle": "device", "standing": "active"}
    cli.service.on("GET", "/v1/devices/phone", device)
    cli.service.on("GET", "/v1/certificates", {"certificates": [CERTIFICATE], "next": None})
    assert cli.remote("device", "show", "phone", "--json").json == {
        **device,
        "certificates": [CERTIFICATE],
    }
    assert "standing" in cli.remote("device", "show", "phone").out


def test_all_lists_are_published_under_keys_of_their_own(cli: Cli) -> None:
    names = ["root", "people"]
    cli.service.on("GET", "/v1/authorities", {"authorities": [{"name": name} for name in names]})
    for name in names:
        made = {"authority": name, "number": 2, "entries": 0}
        cli.service.on("POST", f"/v1/authorities/{name}/crl", made)
    done = cli.remote("authority", "publish-crl", "--idempotency-key", "k", "--json")
    assert [item["authority"] for item in done.json["crls"]] == names
    assert cli.service.keys() == ["k.root", "k.people"]


def test_authorities_are_exported_with_their_lists(cli: Cli, tmp_path: Path) -> None:
    cli.service.on("GET", "/v1/authorities", {"authorities": [_listed("root", ROOT)]})
    cli.service.on("GET", "/pki/root.crl", b"\x30\x03\x02\x01\x01")
    done = cli.remote("authority", "export", str(tmp_path / "out"), "--public", PUBLIC)
    assert done.status == 0
    folder = tmp_path / "out" / "ca"
    assert _der(folder / "root.pem") == ROOT.certificate
    crl = (folder / "root.crl").read_bytes()
    head, *body, tail = (folder / "root.crl.pem").read_text().splitlines()
    assert (head, tail) == ("-----BEGIN X509 CRL-----", "-----END X509 CRL-----")
    assert base64.b64decode("".join(body)) == crl == b"\x30\x03\x02\x01\x01"
    assert cli.service.requests[-1].url.host == "pki.test"


def test_without_a_public_listener_it_says_what_to_give(cli: Cli) -> None:
    cli.service.on("GET", "/v1/authorities", {"authorities": [_listed("root", ROOT)]})
    done = cli.remote("log", "checkpoint")
    assert done.status == 2
    assert "--public URL" in done.err


def _listed(name: str, authority: Authority) -> dict[str, Any]:
    crl = {"number": 1, "this_update": "", "next_update": "", "entries": 0}
    return {
        "name": name,
        "generation": 1,
        "certificate": b64(authority.certificate),
        "crl": crl,
    }


def _der(path: Path) -> bytes:
    return ssl.PEM_cert_to_DER_cert(path.read_text())


def test_events_show_the_names_that_are_known(cli: Cli) -> None:
    opened = [{"field": "user", "tenant": "m", "value": "amina", "opening": "AA=="}]
    seen = {"index": 4, "type": "user.revoked", "time": "2026-01-01T00:00:00Z", "openings": opened}
    cli.service.on("GET", "/v1/events", {"events": [seen], "next": None})
    row = cli.remote("log", "events").out.splitlines()[-1].split()
    assert row == ["4", "2026-01-01T00:00:00Z", "user.revoked", "-", "-", "amina", "-"]


def test_a_receipt_is_written_exactly(cli: Cli, tmp_path: Path) -> None:
    cli.service.on("GET", "/v1/events/9/receipt", RECEIPT)
    out = tmp_path / "nine.tlog-proof"
    assert cli.remote("log", "receipt", "9", "--out", str(out)).status == 0
    assert out.read_text() == RECEIPT["text"]


def test_a_pending_receipt_is_a_failure(cli: Cli) -> None:
    cli.service.on("GET", "/v1/events/9/receipt", {**RECEIPT, "status": "pending", "text": None})
    done = cli.remote("log", "receipt", "9")
    assert done.status == 1
    assert "not covered" in done.err


def test_the_checkpoint_is_given_exactly(cli: Cli, tmp_path: Path) -> None:
    note = "log.example/1\n0\n47DEQpj8\n\n\u2014 log.example/1 AAAA\n".encode()
    cli.service.on("GET", "/log/checkpoint", note)
    out = tmp_path / "checkpoint"
    done = cli.remote("log", "checkpoint", "--public", PUBLIC, "--out", str(out))
    assert done.status == 0
    assert out.read_bytes() == note


def test_what_the_service_says_cannot_steer_a_terminal(cli: Cli) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J"
    cli.service.on("GET", "/v1/tenants", {"tenants": [{"tenant": evil}]})
    assert "\x1b" not in cli.remote("tenant", "list").out


def test_every_command_has_json_and_help(cli: Cli) -> None:
    for words in _commands():
        done = cli.run(*words, "--help")
        assert done.status == 0
        assert "--json" in done.out, words


def _commands() -> list[list[str]]:
    from kms.cli.main import app  # noqa: PLC0415 - only here

    found = [[item.name] for item in app.registered_commands]
    for group in app.registered_groups:
        inner = group.typer_instance
        assert inner is not None
        found += [[inner.info.name, item.name] for item in inner.registered_commands]
    assert len(found) >= 26
    return found


def test_answers_are_bounded() -> None:
    assert MAX_ANSWER <= 64 << 20
