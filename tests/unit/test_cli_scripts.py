"""The command line by plain text: what is typed, what is answered.

A case is a block of lines:

    $ kms …                            what is typed; {tmp} is a directory with some.csr,
                                       @ stands for the connection's options
    service METHOD PATH STATUS NAME …  the service refuses with that problem and detail
    exit N                             the exit status
    out TEXT, err TEXT                 what standard output and standard error contain
    json a.b TEXT                      a member of the one JSON document on standard output
"""

import shlex
from functools import reduce
from pathlib import Path

import pytest

from tests.support.cli import Cli, problem

SCRIPTS = Path(__file__).parent / "cli_scripts"


def _cases() -> list[str]:
    text = "\n".join(path.read_text() for path in sorted(SCRIPTS.glob("*.txt")))
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return [block for block in "\n".join(lines).split("\n\n") if block.strip()]


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    for name in ("HOME", "CONFIG", "SERVER", "CERT", "KEY", "TRUST"):
        monkeypatch.delenv(f"KMS_{name}", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some.csr").write_bytes(b"\x30\x00")
    return Cli(tmp_path, lambda: tuple(capsys.readouterr()))


@pytest.mark.parametrize("case", _cases(), ids=lambda case: case.strip().splitlines()[0][2:])
def test_script(cli: Cli, case: str) -> None:
    typed, *lines = case.strip().splitlines()
    expected = [line.partition(" ")[::2] for line in lines]
    for kind, text in expected:
        if kind == "service":
            method, path, status, name, detail = text.split(" ", 4)
            cli.service.on(method, path, problem(name, int(status), detail, retry="never"))
    words = shlex.split(typed.replace("{tmp}", str(cli.directory)))[2:]
    done = cli.remote(*words[:-1]) if words[-1:] == ["@"] else cli.run(*words)
    for kind, text in expected:
        if kind == "exit":
            assert done.status == int(text), done
        elif kind == "json":
            path, value = text.split(" ", 1)
            assert str(reduce(lambda at, key: at[key], path.split("."), done.json)) == value
        elif kind != "service":
            shown = done.out if kind == "out" else done.err
            assert text in " ".join(shown.split()), done
    assert "Traceback" not in done.out + done.err
