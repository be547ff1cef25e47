"""The installed programs, and the service as a child process that is always ended."""

import http.client
import json
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from kms.cli.demo.errors import DemoError, SurroundingsError
from kms.cli.demo.place import Place, Ports

START_SECONDS = 60.0
STOP_SECONDS = 45.0
COMMAND_SECONDS = 120.0
_LAST_LINES = 12


def find(name: str) -> str:
    """An installed program: beside this interpreter, else on the search path.

    Raises:
        SurroundingsError: It is not installed.
    """
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        raise SurroundingsError(f"the program {name} is not installed beside {sys.executable}")
    return found


@dataclass(frozen=True, slots=True)
class Kms:
    """The command line; `say` is told of each command as a person would type it."""

    program: str
    place: Place
    ports: Ports
    say: Callable[[str], None]

    def local(self, *arguments: str) -> dict[str, Any]:
        """A command at the service's console.

        Raises:
            DemoError: It failed.
        """
        return self._run(arguments, ["--home", str(self.place.home)])

    def as_client(self, name: str, *arguments: str) -> dict[str, Any]:
        """A command of one of the clients, over the API.

        Raises:
            DemoError: It failed.
        """
        cert, key = self.place.client(name)
        options = ["--server", f"https://127.0.0.1:{self.ports.api}"]
        options += ["--public", f"http://127.0.0.1:{self.ports.public}"]
        options += ["--cert", str(cert), "--key", str(key), "--trust", str(self.place.trust)]
        return self._run(arguments, options)

    def _run(self, arguments: Sequence[str], options: Sequence[str]) -> dict[str, Any]:
        self.say(f"$ kms {shlex.join(arguments)}")
        status, output, errors = run([self.program, *arguments, *options, "--json"])
        if status != 0:
            raise DemoError(f"kms {shlex.join(arguments)} ended with status {status}:\n{errors}")
        try:
            document: dict[str, Any] = json.loads(output)
        except ValueError as error:
            raise DemoError(f"kms {shlex.join(arguments)} printed no JSON document") from error
        return document


def run(command: Sequence[str]) -> tuple[int, str, str]:
    """Status, standard output and standard error of a program.

    Raises:
        DemoError: It did not end.
    """
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DemoError(f"{shlex.join(command[:3])} … did not end") from error
    return done.returncode, done.stdout, done.stderr.strip()


@contextmanager
def service(program: str, place: Place, ports: Ports) -> Iterator[None]:
    """Run the service while the context lasts; it is ended whatever happens.

    Raises:
        DemoError: It does not come up, or does not end in order.
    """
    with place.log_file.open("wb") as log:
        process = subprocess.Popen(
            [program, "serve", "--home", str(place.home)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        _await_ready(process, place, ports)
        yield
    finally:
        status = _end(process)
    if status != 0:
        raise DemoError(f"the service ended with status {status}:\n{_tail(place)}")


def _await_ready(process: subprocess.Popen[bytes], place: Place, ports: Ports) -> None:
    deadline = monotonic() + START_SECONDS
    while not _ready(ports.operator):
        if process.poll() is not None:
            raise DemoError(f"the service ended at once:\n{_tail(place)}")
        if monotonic() > deadline:
            raise DemoError(
                f"the service is not ready after {START_SECONDS:.0f} s:\n{_tail(place)}"
            )
        sleep(0.1)


def _ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _end(process: subprocess.Popen[bytes]) -> int:
    """End a child by its own id: in order, and if that takes too long, at once."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        return process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _tail(place: Place) -> str:
    try:
        lines = place.log_file.read_text(errors="replace").splitlines()
    except OSError:
        return f"see {place.log_file}"
    return "\n".join(lines[-_LAST_LINES:])
