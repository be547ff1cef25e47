"""A demonstration that is ended early leaves no process behind."""

import os
import signal
import subprocess
from pathlib import Path

from tests.support.running import KMS, reachable_directory, wait_for

CHILDREN = ("supervisor", "signer", "worker")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _pids(run: Path) -> dict[str, int] | None:
    try:
        return {name: int((run / f"{name}.pid").read_text()) for name in CHILDREN}
    except (OSError, ValueError):
        return None


def test_it_ends_its_children_when_it_is_told_to_end() -> None:
    with reachable_directory() as folder:
        command = [KMS, "demo", "--dir", str(folder / "record"), "--json"]
        demo = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            run = folder / "record-service" / "run"
            pids = wait_for(lambda: _pids(run), 90, "the service of the demonstration starts")
        finally:
            demo.send_signal(signal.SIGTERM)
            out, err = demo.communicate(timeout=90)
        assert demo.returncode == 1
        assert '"error"' in out
        assert "Traceback" not in err
        assert not [name for name, pid in pids.items() if _alive(pid)]


def test_it_refuses_a_directory_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    done = subprocess.run(
        [KMS, "demo", "--dir", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "left alone" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
