"""scripts/tokens/nss.sh: tokens that only their owner reads; what is wrong is said."""

import os
import stat
import subprocess
from pathlib import Path

import pytest

from tests.support import nss as nss_softoken
from tests.support.nss import LIBRARIES, SCRIPT, Nss, make_nss


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCRIPT, *map(str, arguments)],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_token_is_made_once_and_is_private(nss: Nss, tmp_path: Path) -> None:
    made = make_nss(tmp_path / "own", "own")
    assert make_nss(tmp_path / "own", "own").pin.reveal() == made.pin.reveal()
    assert made.pin.reveal() != nss.pin.reveal()
    assert len(made.pin.reveal()) == 32
    for path in (made.directory / "pin", *(made.directory / "token").iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert stat.S_IMODE((made.directory / "token").stat().st_mode) == 0o700
    assert made.environment.keys() == {"NSS_LIB_PARAMS", "LD_LIBRARY_PATH"}


def test_a_process_of_its_own_finds_the_token(nss: Nss) -> None:
    """With what the script printed, and nothing else, as a token process is started."""
    done = subprocess.run(
        ["pkcs11-tool", "--module", nss.module, "--list-slots"],
        env={"PATH": os.environ["PATH"], **nss.environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"token label        : {nss.label}" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "usage"),
        (["fetch"], 2, "usage"),
        (["make", "{dir}", "{dir}/new"], 2, "usage"),
        (["make", "{dir}/none", "{dir}/new", "ok"], 2, "first: nss.sh fetch"),
        (["make", "{lib}", "{dir}/new", "bad label"], 2, "letters"),
        (["make", "{lib}", "{dir}/new", "x" * 33], 2, "32 characters"),
        (["make", "{lib}", "{dir}/a b", "ok"], 2, "cannot be told"),
        (["make", "{lib}", "{dir}/full", "ok"], 1, "not empty"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, arguments: list[str], code: int, said: str) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").touch()
    library = tmp_path / "lib"
    library.mkdir()
    (library / "done").touch()
    done = run(*(argument.format(dir=tmp_path, lib=library) for argument in arguments))
    assert done.returncode == code
    assert done.stderr.startswith("nss: ")
    assert said in done.stderr


def test_without_a_network_nothing_is_fetched(tmp_path: Path) -> None:
    done = run("fetch", tmp_path / "lib", KMS_WHEELS="/somewhere")
    assert done.returncode == 1
    assert "nothing is fetched" in done.stderr
    assert not (tmp_path / "lib").exists()


def test_what_is_there_is_not_fetched_again(nss: Nss) -> None:
    assert run("fetch", LIBRARIES, KMS_WHEELS="/somewhere").returncode == 0


def test_a_missing_token_is_told_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nss_softoken, "LIBRARIES", tmp_path)
    monkeypatch.setattr(nss_softoken, "WHY_NOT", tmp_path / "missing")
    assert "setup.sh test was not run" in nss_softoken.missing()
    (tmp_path / "missing").write_text("nss: apt-get update failed\n")
    assert "apt-get update failed" in nss_softoken.missing()
    (tmp_path / "done").touch()
    assert nss_softoken.missing() == ""
