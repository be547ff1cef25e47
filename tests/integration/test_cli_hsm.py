"""`kms hsm` on real modules: what is seen, what is refused, what is left behind."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hsm_drivers.compat.bench import MARK
from hsm_drivers.pkcs11 import Pkcs11Driver
from hsm_drivers.ports import KeyLabel
from kms.cli.main import run
from kms.config import load
from kms.processes.home import home_lock
from tests.support.cli import Done
from tests.support.running import wait_for
from tests.support.softhsm import SoftHsm

KMS = str(Path(sys.executable).with_name("kms"))


def kms(*arguments: str) -> Done:
    """In a process of its own: the commands close themselves to inspection for good."""
    done = subprocess.run(
        [KMS, *arguments], capture_output=True, text=True, check=False, timeout=120
    )
    return Done(done.returncode, done.stdout, done.stderr)


def named(token: SoftHsm) -> list[str]:
    return [*seen(token), "--token-label", token.label, "--pin-file", str(token.directory / "pin")]


def seen(token: SoftHsm) -> list[str]:
    return ["--module", token.module, "--env", f"SOFTHSM2_CONF={token.conf}"]


def labels(token: SoftHsm) -> list[str]:
    driver = Pkcs11Driver(token.module, token.label, token.pin)
    try:
        return list(driver.labels())
    finally:
        driver.close()


def make(token: SoftHsm, *wanted: str) -> None:
    driver = Pkcs11Driver(token.module, token.label, token.pin)
    try:
        for label in wanted:
            driver.generate(KeyLabel(label), "ECDSA-P256")
    finally:
        driver.close()


def test_a_module_s_tokens_are_listed_without_a_login(softhsm: SoftHsm) -> None:
    done = kms("hsm", "list", *seen(softhsm), "--json")
    assert done.status == 0, done.err
    (row,) = done.json["tokens"]
    assert (row["label"], row["profile"], row["usable"]) == ("test", "softhsm2", True)
    assert row["serial"]


def test_keys_of_a_token_are_probed(softhsm: SoftHsm) -> None:
    make(softhsm, "ca")
    done = kms("hsm", "probe", *named(softhsm), "--json")
    assert done.status == 0, done.err
    (key,) = done.json["keys"]
    assert key["label"] == "ca"
    assert key["detail"].startswith("held")
    assert "ECDSA-P256" in done.json["token"]["algorithms"]


def test_the_self_test_of_a_real_token(softhsm: SoftHsm, tmp_path: Path) -> None:
    make(softhsm, "ca", f"{MARK}dead-0")
    out = tmp_path / "report.md"
    options = ("--seconds", "0.01", "--try-wrong-pin", "--out", str(out), "--json")
    done = kms("hsm", "compat", *named(softhsm), *options)
    assert done.status == 0, done.err
    fits = {role["name"] for role in done.json["roles"] if role["fits"]}
    assert "Log key" in fits
    assert "Post-quantum cosigner of the log" not in fits
    (wrong,) = [one for one in done.json["general"] if one["what"] == "give one wrong PIN"]
    assert wrong["outcome"] == "good"
    assert done.json["leftovers"] == [f"{MARK}dead-0"]
    assert "Nothing that it offers went wrong" in out.read_text()
    assert labels(softhsm) == ["ca", f"{MARK}dead-0"]
    done = kms("hsm", "compat", *named(softhsm), "--clean", "--json")
    assert done.json == {"destroyed": [f"{MARK}dead-0"]}
    assert labels(softhsm) == ["ca"]


@pytest.mark.slow
def test_a_process_that_dies_is_told_and_leaves_no_key(softhsm: SoftHsm) -> None:
    """Started again, so that the test goes on and its keys are destroyed."""
    command = [KMS, "hsm", "compat", *named(softhsm), "--seconds", "0.2", "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stderr is not None
        wait_for(lambda: "trying ECDSA-P521" in running.stderr.readline())
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children")
        os.kill(token_process(children), signal.SIGKILL)
        out, _ = running.communicate(timeout=100)
    assert running.returncode == 1
    (step,) = [one for one in json.loads(out)["general"] if "alive" in one["what"]]
    assert step["outcome"] == "bad"
    assert labels(softhsm) == []


def token_process(children: Path) -> int:
    """Threads start children, too."""
    found = [
        int(pid) for task in children.parent.parent.iterdir()
        for pid in (task / "children").read_text().split()
    ]  # fmt: skip
    (pid,) = [pid for pid in found if b"token_process" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return pid


def test_a_wrong_pin_is_given_once(softhsm: SoftHsm) -> None:
    (softhsm.directory / "pin").write_text("wrong-pin")
    done = kms("hsm", "compat", *named(softhsm))
    assert done.status == 2
    assert "refused the PIN" in done.err
    assert done.err.count("it was tried once") == 1
    assert (
        kms("hsm", "list", *seen(softhsm), "--json")
        .json["tokens"][0]["state"]
        .endswith("count-low")
    )


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["list", "--module", "/etc/passwd"], 2, "cannot use the PKCS#11 module"),
        (["probe", "--module", "/etc/passwd"], 2, "Give --token-label"),
        (["probe", "main", "--module", "/etc/passwd"], 2, "not both"),
        (["list", "--module", "/etc/passwd", "--env", "X"], 2, "NAME=VALUE"),
        (["probe", "--home", "/nowhere"], 2, "not found"),
    ],
)
def test_what_cannot_be_done_is_said(
    arguments: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["hsm", *arguments]) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err


def test_tokens_that_are_not_there_are_told_with_those_that_are(softhsm: SoftHsm) -> None:
    options = [*named(softhsm), "--token-label", "other"]
    done = kms("hsm", "probe", *options)
    assert done.status == 1
    assert "no token is labelled 'other' (the module sees: 'test')" in done.err


def test_a_module_that_ends_its_process_ends_no_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, module = tmp_path / "crash.c", tmp_path / "crash.so"
    source.write_text("#include <stdlib.h>\nlong C_GetFunctionList(void *a) { abort(); }\n")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", module, source], check=True)
    assert run(["hsm", "list", "--module", str(module)]) == 2
    assert f"{module} ended its process (SIGABRT)" in capsys.readouterr().err


def test_a_token_that_another_process_uses_is_left_alone(softhsm: SoftHsm) -> None:
    """SoftHSM2 bears one process only."""
    code = "import ctypes,sys; ctypes.CDLL(sys.argv[1]); print('x', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code, softhsm.module],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "SOFTHSM2_CONF": str(softhsm.conf)},
    ) as other:  # fmt: skip
        assert other.stdout is not None
        other.stdout.readline()
        done = kms("hsm", "probe", *named(softhsm))
        other.communicate("\n")
    assert done.status == 2
    assert f"process {other.pid} uses that token" in done.err
    assert kms("hsm", "probe", *named(softhsm)).status == 0


@pytest.fixture
def home(softhsm: SoftHsm, tmp_path: Path) -> Path:
    made = tmp_path / "home"
    status = run(
        [
            "init", "--home", str(made), "--name", "kms.example", "--public-url", "http://p.example",
            "--token-label", softhsm.label, "--module", softhsm.module,
            "--pin-file", str(softhsm.directory / "pin"), "--softhsm-conf", str(softhsm.conf),
        ]
    )  # fmt: skip
    assert status == 0
    return made


def test_a_home_s_tokens_are_listed_each_as_it_is(home: Path, softhsm: SoftHsm) -> None:
    config = home / "kms.toml"
    gone = f'[tokens.gone]\nlabel = "gone"\nenvironment = {{ SOFTHSM2_CONF = "{softhsm.conf}" }}\n'
    config.write_text(f"{config.read_text()}\n{gone}")
    done = kms("hsm", "list", "--home", str(home), "--json")
    assert done.status == 1
    found: dict[str, Any] = {row["name"]: row for row in done.json["tokens"]}
    assert found["main"]["usable"]
    assert "no token is labelled 'gone'" in found["gone"]["state"]


def test_a_home_at_work_is_left_alone(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with home_lock(load(home / "kms.toml")):
        for command in ("probe", "compat"):
            assert run(["hsm", command, "--home", str(home)]) == 2
            assert f"is in use by process {os.getpid()}" in capsys.readouterr().err


def test_a_pinned_serial_number_tells_another_token(home: Path, softhsm: SoftHsm) -> None:
    config = home / "kms.toml"
    config.write_text(config.read_text().replace("[token]\n", '[token]\nserial = "0123"\n', 1))
    done = kms("hsm", "probe", "main", "--home", str(home))
    assert done.status == 1
    assert "it is another one" in done.err
