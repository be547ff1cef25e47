"""Child processes that take commands as JSON lines and answer each with one: load, foreign CAs."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from places import BenchError, Site

HERE = Path(__file__).parent


class Helper:
    """One such process; a context manager, the process ends with its standard input.

    Args:
        command: Program and arguments.
        environment: Variables beside those of this process.
    """

    def __init__(self, *command: str | Path, environment: Mapping[str, str] | None = None) -> None:
        self._name = Path(command[-1]).name
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()

    def ask(self, do: str, **values: Any) -> dict[str, Any]:
        """One command and its answer.

        Raises:
            BenchError: The process ended; its traceback stands above.
        """
        self.say({"do": do, **values})
        assert self._process.stdout is not None  # noqa: S101 - for the type checker
        line = self._process.stdout.readline()
        if not line:
            raise BenchError(f"{self._name} ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def say(self, value: Mapping[str, Any]) -> None:
        """One line that is not answered."""
        assert self._process.stdin is not None  # noqa: S101 - for the type checker
        self._process.stdin.write(json.dumps(value) + "\n")
        self._process.stdin.flush()


def enrolling(site: Site, port: int | None = None) -> Helper:
    """A messaging server with its devices (`load.py`), calling the site's API or another port."""
    helper = Helper(sys.executable, HERE / "load.py")
    cert, key = site.client
    helper.say(
        {
            "host": "127.0.0.1",
            "port": site.api if port is None else port,
            "cert": str(cert),
            "key": str(key),
            "trust": str(site.trust),
        }
    )
    return helper


def plain() -> Helper:
    """A client of plain HTTP (`plain_load.py`)."""
    return Helper(sys.executable, HERE / "plain_load.py")
