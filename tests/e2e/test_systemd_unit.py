"""The unit in docs/systemd: systemd understands it, rates it, and the service lives with it."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.calling import Client, enrol
from tests.support.running import MESSENGER, SERVE, Home, running
from tests.support.sandbox import settings, system_calls

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "docs" / "systemd" / "kms.service"
GUIDE = ROOT / "docs" / "guides" / "operator.md"
SANDBOX = (sys.executable, "-P", "-m", "tests.support.sandbox", str(UNIT))

MakeHome = Callable[..., Home]


def analyze(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = ["systemd-analyze", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The unit with this checkout where it expects one: systemd looks for the program."""
    text = UNIT.read_text()
    assert "/opt/sovereign-kms/.venv/bin/kms serve" in text
    unit = tmp_path / "kms.service"
    program = Path(sys.executable).with_name("kms")
    unit.write_text(text.replace("/opt/sovereign-kms/.venv/bin/kms", str(program)))
    return unit


def test_systemd_understands_it(installed: Path) -> None:
    done = analyze("verify", installed)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    installed.write_text(installed.read_text().replace("ProtectHome=yes", "ProtectHome=surely"))
    assert "protect home" in analyze("verify", installed).stderr


def test_its_exposure_is_what_the_guide_says(installed: Path) -> None:
    """0 is best, 10 a unit without any of it."""
    done = analyze("security", "--offline=true", "--no-pager", installed)
    found = re.search(r"exposure level for kms.service: ([0-9.]+)", done.stdout)
    assert found is not None, done.stderr
    said = re.search(r"exposure level ([0-9.]+)", GUIDE.read_text())
    assert said is not None
    assert float(found[1]) <= float(said[1]) < 3


GONE = ("ptrace", "process_vm_readv", "mount", "keyctl", "bpf", "perf_event_open", "swapon")
ATTEMPTS = f"""
import ctypes, errno, mmap, socket
from tests.support.sandbox import numbers
call, libc = numbers(), ctypes.CDLL(None, use_errno=True)
for name in {GONE}:
    if libc.syscall(call[name], 0, 0, 0, 0, 0) != -1 or ctypes.get_errno() != errno.EPERM:
        print(name)
for name, attempt in {{
    "written code": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC),
    "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
}}.items():
    try:
        attempt()
        print(name)
    except OSError:
        pass
socket.socket(socket.AF_UNIX).close()
print("Unix", mmap.mmap(-1, 4096, prot=mmap.PROT_READ).read_byte())
"""


def test_what_it_takes_away_is_gone() -> None:
    """Each attempt that comes through is printed; without the unit it is most of them."""

    def printed(*prefix: str) -> list[str]:
        command = [*prefix, sys.executable, "-c", ATTEMPTS]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        return done.stdout.splitlines()

    assert printed(*SANDBOX) == ["Unix 0"]
    assert {"ptrace", "written code", "Unix 0"} <= set(printed())


def test_no_group_of_calls_is_left_open() -> None:
    allowed = system_calls(settings(UNIT)["SystemCallFilter"])
    assert {"openat", "accept4", "setuid", "fdatasync"} <= allowed
    assert not {"ptrace", "mount", "kexec_load", "bpf", "keyctl", "init_module"} & allowed
    assert not {"process_vm_readv", "process_vm_writev", "swapon", "reboot"} & allowed


@pytest.mark.timeout(120)
def test_the_service_lives_within_it(new_home: MakeHome) -> None:
    """With its capabilities, system calls, address families and without executable memory."""
    home = new_home()
    with running(home, (*SANDBOX, *SERVE)) as service, Client(home, MESSENGER) as client:
        pids = (service.supervisor, service.pid("worker"), service.pid("signer"))
        for pid in pids:
            status = Path(f"/proc/{pid}/status").read_text()
            assert re.search(r"^Seccomp:\s+2$", status, re.MULTILINE)
            assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)
        enrol(client, home.device("ada", "phone", identity="ECDSA-P256", kem="MLKEM768-X25519"))
        service.restart("signer")
        answer = client.until_answered("/v1/users/ada/revoke", {"reason": "key-compromise"}, "k")
        assert answer.document["receipt"]["status"] == "final"
        assert service.public("/pki/people.crl")[0] == 200


@pytest.mark.parametrize("name", ["kms-backup.service", "kms-backup.timer"])
def test_systemd_understands_the_backups_units(name: str) -> None:
    done = analyze("verify", UNIT.with_name(name))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_backups_unit_runs_a_command_that_there_is() -> None:
    text = UNIT.with_name("kms-backup.service").read_text()
    (line,) = re.findall(r"(?m)^ExecStart=/bin/sh -c '(.*)'$", text)
    words = line.replace("%%", "%").split("$")[0].split()[2:]
    assert words == ["backup", "create", "--home", "/var/lib/kms/home", "--out", words[-1]]
    assert Path(words[-1]).parent == Path("/var/backups/kms")
