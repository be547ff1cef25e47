"""The supervisor against small child processes that crash, wedge, refuse and drain."""

import fcntl
import hashlib
import json
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kms.config import ConfigError, parse
from kms.processes.accounts import Account, give, refuse_foreign, separate
from kms.processes.children import spawn
from kms.processes.pin import Pin, PinError
from kms.processes.signer_process import SignerStartError
from kms.processes.supervisor import (
    Commands,
    HomeBusyError,
    Supervisor,
    Timing,
    home_lock,
    temporary_signer,
)
from kms.settings import Settings

ROOT = Path(__file__).parents[2]
PIN = "4711-geheim"
FAST = Timing(tick=0.02, probe=0.1, signer_start=5, worker_margin=0.5, backoff_first=0.1)

FAKE = """
import argparse, hashlib, os, signal, socket, sys, time
from pathlib import Path
role = sys.argv[1]
arguments = argparse.ArgumentParser()
for flag in ("--socket-fd", "--pin-fd", "--ready-fd"):
    arguments.add_argument(flag, type=int)
arguments.add_argument("--config", type=Path)
arguments.add_argument("--clock-base", type=float)
for flag in ("--ceremony", "--own-user"):
    arguments.add_argument(flag, action="store_true")
arguments.add_argument("--allow-uid", type=int, action="append")
options = arguments.parse_args(sys.argv[2:])
home = options.config.parent
def note(word):
    fd = os.open(home / "notes", os.O_WRONLY | os.O_APPEND)
    os.write(fd, f"{role}:{word}\\n".encode())
def mode():
    try:
        return (home / f"{role}.mode").read_text()
    except FileNotFoundError:
        return "good"
note("start")
if mode().startswith("exit"):
    sys.exit(int(mode().split()[1]))
def signer():
    with os.fdopen(options.pin_fd, "rb") as file:
        pin = file.read()
    def end(*_):
        note("term")
        sys.exit(0)
    signal.signal(signal.SIGTERM, end)
    server = socket.socket(fileno=options.socket_fd)
    while True:
        peer, _ = server.accept()
        if mode() == "wedge":
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
            time.sleep(600)
        if mode() == "crash":
            (home / "signer.mode").unlink()
            os.kill(os.getpid(), signal.SIGSEGV)
        try:
            peer.sendall(hashlib.sha256(pin).digest() + bytes([options.ceremony]))
        except BrokenPipeError:
            pass  # it waited while no signer was there, and gave up
        peer.close()
def worker():
    def end(*_):
        note("term")
        time.sleep(0.3)
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(5)
            client.connect(str(home / "run" / "signer.sock"))
            note("drained" if client.recv(33) else "lost")
        sys.exit(0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN if mode() == "deaf" else end)
    os.write(options.ready_fd, b"ready\\n")
    while True:
        time.sleep(0.05)
        if mode() == "crash":
            os._exit(3)
{"signer": signer, "worker": worker}[role]()
"""


def wait_for(what: Callable[[], bool], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def ask(path: Path, timeout: float = 0.5) -> bytes:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(timeout)
        client.connect(str(path))
        return client.recv(33)


def probe(path: Path) -> bool:
    try:
        return ask(path)[:32] == hashlib.sha256(PIN.encode()).digest()
    except OSError:
        return False


class Home:
    """A home with fake children in it."""

    def __init__(self, directory: Path, python: str = sys.executable, **values: object) -> None:
        self.script = directory / "fake.py"
        self.script.write_text(FAKE)
        (directory / "kms").mkdir()
        self._notes = directory / "kms" / "notes"
        self._notes.touch()
        self._notes.chmod(0o666)
        self.settings: Settings = parse(
            directory / "kms" / "kms.toml",
            {
                "name": "log.test",
                "public_url": "http://127.0.0.1:8080",
                "signer": {"wedge_seconds": 2},
                "limits": {"drain_seconds": 1},
                **values,
            },
        )
        self.settings.path.touch()
        self.commands = Commands(
            signer=(python, str(self.script), "signer"),
            worker=(python, str(self.script), "worker"),
        )

    def mode(self, role: str, word: str) -> None:
        path = self.settings.home / f"{role}.mode"
        path.with_suffix(".new").write_text(word)
        path.with_suffix(".new").replace(path)

    def notes(self) -> list[str]:
        return self._notes.read_text().split()

    def state(self) -> dict[str, dict[str, object]]:
        path = self.settings.run_dir / "state.json"
        return json.loads(path.read_text()) if path.exists() else {"worker": {}, "signer": {}}

    def pid(self, role: str) -> int:
        return int((self.settings.run_dir / f"{role}.pid").read_text())

    def ready(self) -> bool:
        return self.state()["worker"].get("ready") is True and probe(self.settings.signer_socket)

    @contextmanager
    def served(self, timing: Timing = FAST, *, ready: bool = True) -> Iterator["Running"]:
        pin = Pin(bytearray(PIN.encode()))
        supervisor = Supervisor(self.settings, pin, probe, commands=self.commands, timing=timing)
        running = Running(supervisor)
        running.start()
        try:
            if ready:
                wait_for(self.ready)
            yield running
        finally:
            running.stop()


class Running(threading.Thread):
    """A supervisor in a thread."""

    def __init__(self, supervisor: Supervisor) -> None:
        super().__init__()
        self.supervisor = supervisor
        self.status: int | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.status = self.supervisor.run()
        except ConfigError as error:
            self.error = error

    def stop(self) -> None:
        self.supervisor.request_stop()
        self.join(30)
        assert not self.is_alive()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_term_lets_the_worker_drain_before_the_signer_ends(home: Home):
    with home.served() as running:
        pids = [home.pid("signer"), home.pid("worker")]
    assert running.status == 0
    assert home.notes()[2:] == ["worker:term", "worker:drained", "signer:term"]
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert sorted(path.name for path in home.settings.run_dir.iterdir()) == [
        "home.lock",
        "state.json",
    ]


def test_a_worker_that_does_not_drain_is_killed(home: Home):
    home.mode("worker", "deaf")
    with home.served() as running:
        started = time.monotonic()
        running.stop()
    assert time.monotonic() - started < 6
    assert home.notes()[-1] == "signer:term"


def test_a_killed_signer_is_replaced_and_its_callers_are_served(home: Home):
    with home.served():
        old = home.pid("signer")
        os.kill(old, signal.SIGKILL)
        wait_for(lambda: not Path(f"/proc/{old}").exists())
        assert ask(home.settings.signer_socket, timeout=10)
        wait_for(lambda: home.pid("signer") != old)
        assert home.state()["worker"]["restarts"] == 0


def test_a_crash_that_repeats_is_tried_ever_more_rarely(home: Home):
    home.mode("signer", "exit 1")
    with home.served(ready=False):
        time.sleep(1.8)
    starts = home.notes().count("signer:start")
    assert 3 <= starts <= 5, "0.1, 0.2, 0.4, 0.8 s apart"


def test_a_wedged_signer_is_killed(home: Home):
    with home.served():
        old = home.pid("signer")
        home.mode("signer", "wedge")
        wait_for(lambda: not Path(f"/proc/{old}").exists())
        home.mode("signer", "good")
        wait_for(home.ready)
        assert home.notes().count("worker:start") == 1


def test_a_signer_that_never_answers_is_killed_too(home: Home):
    home.mode("signer", "wedge")
    timing = Timing(tick=0.02, probe=0.1, signer_start=1, backoff_first=0.1)
    with home.served(timing, ready=False):
        wait_for(lambda: home.notes().count("signer:start") >= 2)
        home.mode("signer", "good")
        wait_for(home.ready)


def test_a_refused_pin_is_never_tried_again(home: Home):
    home.mode("signer", "exit 77")
    with home.served(ready=False):
        wait_for(lambda: home.state()["signer"].get("state") == "pin-refused")
        home.mode("signer", "good")
        wait_for(lambda: home.state()["worker"].get("ready") is True)
        time.sleep(0.5)
        assert home.notes().count("signer:start") == 1
        with pytest.raises(OSError, match="No such file"):
            ask(home.settings.signer_socket)
        assert home.state()["worker"]["state"] == "running"


def test_a_misconfigured_worker_ends_the_service(home: Home):
    home.mode("worker", "exit 78")
    with home.served(ready=False) as running:
        running.join(10)
    assert running.status == 2


def test_a_crashed_worker_is_replaced(home: Home):
    with home.served():
        home.mode("worker", "crash")
        wait_for(lambda: home.notes().count("worker:start") >= 2)
        home.mode("worker", "good")
        wait_for(home.ready)
        assert home.notes().count("signer:start") == 1


def test_a_full_disk_does_not_end_the_service(home: Home):
    """Directories stand where its files are to be written: nothing can be told, all goes on."""
    for name in ("state.new", "signer.new", "worker.new"):
        (home.settings.run_dir / name).mkdir(parents=True)
    with home.served(ready=False) as running:
        wait_for(lambda: len(home.notes()) == 2 and probe(home.settings.signer_socket))
        assert home.state()["signer"] == {}
        (home.settings.run_dir / "state.new").rmdir()
        wait_for(lambda: home.state()["worker"].get("ready") is True)
    assert running.status == 0


def test_the_pin_is_nowhere_to_be_seen(home: Home):
    with home.served():
        for role in ("signer", "worker"):
            process = Path(f"/proc/{home.pid(role)}")
            shown = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            assert PIN.encode() not in shown
        assert PIN not in json.dumps(home.state())


def test_children_hold_no_descriptor_that_is_not_theirs(home: Home):
    with home.served():
        worker = Path(f"/proc/{home.pid('worker')}/fd")
        names = [str(path.readlink()) for path in worker.iterdir()]
        assert not [name for name in names if name.startswith("socket:")]
        assert not [name for name in names if name.endswith("home.lock")]


def test_a_home_has_one_service(home: Home):
    with home.served():
        with pytest.raises(HomeBusyError, match=str(os.getpid())), home_lock(home.settings):
            pass
        other = Running(Supervisor(home.settings, Pin(bytearray(b"x")), probe))
        other.start()
        other.join(10)
        assert isinstance(other.error, HomeBusyError)
        assert home.ready(), "the first one was not disturbed"


def test_the_socket_is_private(home: Home):
    with home.served():
        found = home.settings.signer_socket.stat()
        assert stat.S_IMODE(found.st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o730])
def test_a_socket_that_others_could_replace_is_not_served(home: Home, mode: int):
    home.settings.run_dir.mkdir()
    home.settings.run_dir.chmod(mode)
    with pytest.raises(ConfigError, match=f"open to no other's writing .* mode {mode:o}"):
        Supervisor(home.settings, Pin(bytearray(b"x")), probe, commands=home.commands).run()


def test_what_stands_in_the_place_of_the_socket(home: Home):
    """An old socket gives way; what cannot is named."""
    home.settings.run_dir.mkdir()
    home.settings.signer_socket.touch()
    with home.served():
        pass
    home.settings.signer_socket.mkdir()
    with pytest.raises(ConfigError, match=r"signer\.sock: this socket cannot be made"):
        Supervisor(home.settings, Pin(bytearray(b"x")), probe, commands=home.commands).run()


def test_a_socket_path_that_is_too_long_is_said_to_be(tmp_path: Path):
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    home = Home(deep)
    with pytest.raises(ConfigError, match=r"signer\.sock"):
        Supervisor(home.settings, Pin(bytearray(b"x")), probe, commands=home.commands).run()


def test_a_temporary_signer_serves_one_command(home: Home):
    pin = Pin(bytearray(PIN.encode()))
    home.settings.run_dir.mkdir()
    with temporary_signer(home.settings, pin, probe, command=home.commands.signer) as path:
        assert ask(path) == hashlib.sha256(PIN.encode()).digest() + b"\x01"
    assert home.notes() == ["signer:start", "signer:term"]
    assert not path.exists()


@pytest.mark.parametrize(("status", "error"), [(77, PinError), (1, SignerStartError)])
def test_a_temporary_signer_that_ends_is_an_error(home: Home, status: int, error: type[Exception]):
    home.mode("signer", f"exit {status}")
    home.settings.run_dir.mkdir()
    pin = Pin(bytearray(PIN.encode()))
    with (
        pytest.raises(error),
        temporary_signer(home.settings, pin, probe, command=home.commands.signer),
    ):
        pass


def _service(home: Home) -> subprocess.Popen[bytes]:
    """`serve` in a process of its own, its PIN on a descriptor."""
    code = f"""
import sys
from pathlib import Path
sys.path[:0] = [{str(ROOT)!r}, {str(Path(__file__).parent)!r}]
from test_supervisor import FAST, probe
from kms import logs
from kms.config import parse
from kms.processes.pin import obtain_pin
from kms.processes.supervisor import Commands, serve
logs.configure("supervisor")
settings = parse(Path({str(home.settings.path)!r}),
    {{"name": "log.test", "public_url": "http://127.0.0.1:8080"}})
commands = Commands({home.commands.signer!r}, {home.commands.worker!r})
sys.exit(serve(settings, obtain_pin(settings, pin_fd=int(sys.argv[1])), probe,
    commands=commands, timing=FAST))
"""
    reader, writer = os.pipe()
    os.write(writer, PIN.encode() + b"\n")
    os.close(writer)
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(reader)],
        pass_fds=[reader],
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
    )
    os.close(reader)
    return process


def test_the_signals_of_a_real_process(home: Home):
    process = _service(home)
    try:
        wait_for(home.ready)
        assert home.pid("supervisor") == process.pid
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 0
    lines = [json.loads(line) for line in errors.decode().splitlines()]
    assert {"service.not-separated", "worker.ready", "service.stopped"} <= {
        line["event"] for line in lines
    }
    assert PIN.encode() not in errors
    assert home.notes()[-1] == "signer:term"


def test_children_do_not_outlive_a_killed_supervisor(home: Home):
    process = _service(home)
    try:
        wait_for(home.ready)
        pids = [home.pid("signer"), home.pid("worker")]
    finally:
        process.kill()
        process.communicate(timeout=20)
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    with home.served():
        assert home.ready()


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that other users can pass; pytest's own are private."""
    path = Path(tempfile.mkdtemp(prefix="kms-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def _public(path: Path) -> bool:
    """Whether every user gets there."""
    return all(folder.stat().st_mode & 0o001 for folder in path.parents)


def _python_for_others(directory: Path) -> str:
    """An interpreter that other users can start; the tests' own may lie in a private directory."""
    system = f"/usr/bin/python3.{sys.version_info.minor}"
    if _public(Path(sys.executable).resolve()) or not Path(system).exists():
        return sys.executable
    wrapper = directory / "python"
    site = sysconfig.get_path("purelib")
    wrapper.write_text(f'#!/bin/sh\nPYTHONPATH="$PYTHONPATH:{site}" exec {system} "$@"\n')
    wrapper.chmod(0o755)
    return str(wrapper)


def _uid(pid: int) -> int:
    return Path(f"/proc/{pid}").stat().st_uid


def test_worker_and_signer_run_as_users_of_their_own(open_directory: Path):
    worker, signer = pwd.getpwnam("games"), pwd.getpwnam("nobody")
    users = {"worker": worker.pw_name, "signer": signer.pw_name}
    home = Home(open_directory, _python_for_others(open_directory), users=users)
    python = home.commands.worker[0]
    if os.geteuid() != 0 or not (_public(ROOT / "kms") and _public(Path(python).resolve())):
        with pytest.raises(ConfigError, match=r"not started as root|cannot"):
            separate(home.settings, python)
        return
    home.settings.data_dir.mkdir()
    (home.settings.data_dir / "ledger.db").touch()
    with home.served():
        assert _uid(home.pid("worker")) == worker.pw_uid
        assert _uid(home.pid("signer")) == signer.pw_uid
        assert home.state()["separated"] is True
    assert home.settings.run_dir.stat().st_uid == 0
    assert home.settings.signer_state.stat().st_uid == signer.pw_uid
    assert (home.settings.data_dir / "ledger.db").stat().st_uid == worker.pw_uid
    assert home.notes()[2:] == ["worker:term", "worker:drained", "signer:term"]


@pytest.mark.parametrize(
    ("worker", "signer", "words"),
    [
        ("root", "nobody", "two different"),
        ("nobody", "nobody", "two different"),
        ("no-such-user", "nobody", "no-such-user"),
    ],
)
def test_configured_users_that_cannot_be_used_end_the_start(
    tmp_path: Path, worker: str, signer: str, words: str
):
    home = Home(tmp_path, users={"worker": worker, "signer": signer})
    with pytest.raises(ConfigError, match=words if os.geteuid() == 0 else "not started as root"):
        separate(home.settings)


def test_users_that_cannot_reach_the_home_end_the_start(tmp_path: Path, open_directory: Path):
    home = Home(tmp_path, users={"worker": "games", "signer": "nobody"})
    with pytest.raises(ConfigError, match=r"cannot|not started as root"):
        separate(home.settings, _python_for_others(open_directory))


def test_root_touches_files_only_where_nobody_else_puts_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    own, folder = os.geteuid(), tmp_path / "data"
    for name in ("data", "mine", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to(folder)
    other = Home(tmp_path / "other").settings
    mine = Home(tmp_path / "mine", users={"worker": pwd.getpwuid(own).pw_name}).settings
    monkeypatch.setattr("os.geteuid", lambda: 0)
    refuse_foreign(folder, mine)
    with pytest.raises(ConfigError, match="not a link"):
        refuse_foreign(tmp_path / "link", mine)
    for mode in (0o720, 0o702, 0o1777):
        folder.chmod(mode)
        with pytest.raises(ConfigError, match=f"others may write in .* {mode:o}"):
            refuse_foreign(folder, mine)
    folder.chmod(0o755)
    if own == 0:
        os.chown(folder, pwd.getpwnam("games").pw_uid, -1)
    with pytest.raises(ConfigError, match="neither root nor the worker"):
        refuse_foreign(folder, other)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    refuse_foreign(tmp_path / "link", other)


def test_giving_follows_no_trap(tmp_path: Path):
    secret = tmp_path / "secret"
    secret.touch()
    folder = tmp_path / "folder"
    (folder / "below").mkdir(parents=True)
    (folder / "below" / "mine").touch()
    (folder / "link").symlink_to(secret)
    (folder / "below" / "hard").hardlink_to(secret)
    os.mkfifo(folder / "fifo")
    own = os.geteuid()
    uid = pwd.getpwnam("nobody").pw_uid if own == 0 else own
    give(folder, Account("nobody", uid, -1, ()))
    assert secret.stat().st_uid == own
    assert (folder / "below" / "mine").stat().st_uid == uid
    assert (folder / "below").stat().st_uid == uid
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_child_of_a_parent_that_died_at_once_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A supervisor that is killed right after the fork: no signal reaches that child any more."""
    done = tmp_path / "done"
    command = ["/bin/sh", "-c", 'echo "$@" > "$0"', str(done), "a  b", ""]
    with spawn(command, fds=(), account=None, environment={}) as child:
        assert child.wait(10) == 0
    assert done.read_text() == "a  b \n"
    done.unlink()
    monkeypatch.setattr("os.getpid", lambda: 2**22)  # the parent that it had
    with spawn(command, fds=(), account=None, environment={}) as child:
        assert child.wait(10) == 1
    assert not done.exists()


def test_the_lock_ends_with_its_holder(home: Home):
    with home_lock(home.settings):
        pass
    with home_lock(home.settings):
        fd = os.open(home.settings.run_dir / "home.lock", os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(fd)
