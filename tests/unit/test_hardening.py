"""What a process gives up, read from /proc by a process of its own."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
HARDENED = """
import ctypes, resource, sys
from pathlib import Path
from hsm_drivers.hardening import harden
harden(closed=sys.argv[1] == "closed")
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(status["NoNewPrivs"].strip(), *resource.getrlimit(resource.RLIMIT_CORE))
print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))  # PR_GET_DUMPABLE
"""


def hardened(how: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", HARDENED, how],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_a_hardened_process() -> None:
    assert hardened("closed") == ["1 0 0", "0"]


def test_one_that_its_own_user_may_look_into() -> None:
    assert hardened("open") == ["1 0 0", "1"]
