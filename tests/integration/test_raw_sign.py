"""The C program that measures raw signing: it builds without warnings, signs, explains itself."""

import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULE = "/usr/lib/softhsm/libsofthsm2.so"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("raw") / "raw_sign"
    source = ROOT / "scripts" / "bench" / "raw_sign.c"
    flags = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(["gcc", *flags, "-o", path, source, "-ldl"], check=True)
    return path


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("token") / "t"
    subprocess.run(["sh", ROOT / "softhsm" / "init-token.sh", path, "bench"], check=True)
    return path


def run(program: Path, token: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program, *arguments],
        env={**os.environ, "SOFTHSM2_CONF": str(token / "softhsm2.conf")},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("what", [(), ("hmac",), ("gcm", "64"), ("x25519",)])
def test_it_uses_one_key_and_counts(program: Path, token: Path, what: tuple[str, ...]):
    for _ in range(2):
        done = run(program, token, MODULE, "bench", str(token / "pin"), "0.2", *what)
        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout)
        assert result["signatures"] > 10
        assert 0.2 <= result["seconds"] < 2
    kind = "secrkey" if what[:1] in {("hmac",), ("gcm",)} else "privkey"
    tool = ["pkcs11-tool", "--module", MODULE, "--token-label", "bench", "--list-objects"]
    listing = subprocess.run(
        [*tool, "--login", "--pin", "env:BENCH_PIN", "--type", kind],
        env={
            **os.environ,
            "SOFTHSM2_CONF": str(token / "softhsm2.conf"),
            "BENCH_PIN": (token / "pin").read_text().strip(),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    name = "-".join(("bench-raw", *what[:1]))
    assert listing.stdout.count(f"label:      {name}\n") == 1, "found again, not made again"


@pytest.mark.parametrize(
    ("change", "words", "status"),
    [
        ({0: "/etc/passwd"}, "no PKCS#11 module", 1),
        ({1: "nope"}, "no token is labelled nope", 1),
        ({2: "/nonexistent"}, "no PIN", 1),
        ({3: "0"}, "usage", 2),
        ({3: "1000"}, "usage", 2),
        ({3: "0.1", 4: "rot13"}, "usage", 2),
    ],
)
def test_what_is_wrong_is_said(
    program: Path, token: Path, change: dict[int, str], words: str, status: int
):
    arguments = [MODULE, "bench", str(token / "pin"), "0.1"]
    for place, value in change.items():
        arguments[place : place + 1] = [value]
    done = run(program, token, *arguments)
    assert done.returncode == status
    assert words in done.stderr
    assert not done.stdout
