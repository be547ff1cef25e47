"""Log lines: one JSON object each, errors without their messages."""

import errno
import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from kms import logs


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    logging.getLogger("hsm_drivers").handlers.clear()


def test_a_line_is_one_json_object():
    out = io.StringIO()
    logs.configure("worker", stream=out)
    structlog.get_logger().info("worker.ready", text="two\nlines")
    structlog.get_logger().debug("hidden")
    (line,) = out.getvalue().splitlines()
    fields = json.loads(line)
    assert fields.pop("timestamp").endswith("Z")
    assert fields == {
        "event": "worker.ready", "level": "info", "process": "worker", "text": "two\nlines"
    }  # fmt: skip


@pytest.mark.parametrize("how", ["exception", "given"])
def test_an_error_is_logged_without_its_message(how: str):
    out = io.StringIO()
    logs.configure("worker", stream=out)
    try:
        int("hunter2")
    except ValueError as error:
        if how == "exception":
            structlog.get_logger().exception("failed")
        else:
            structlog.get_logger().warning("failed", exc_info=error)
    assert "hunter2" not in out.getvalue()
    fields = json.loads(out.getvalue())
    assert fields["error_type"] == "ValueError"
    assert "test_an_error_is_logged" in fields["error_at"]


def test_a_terminal_gets_key_value_lines(monkeypatch: pytest.MonkeyPatch):
    out = io.StringIO()
    monkeypatch.setattr(out, "isatty", lambda: True)
    logs.configure("signer", stream=out)
    structlog.get_logger().info("signer.started", counter=7)
    assert "process='signer' event='signer.started' counter=7" in out.getvalue()


def test_a_line_that_cannot_be_written_stops_nobody():
    class Full(io.StringIO):
        def write(self, _text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    out = Full()
    logs.configure("worker", stream=out)
    structlog.get_logger().error("maintenance.failed")
    assert out.getvalue() == ""


@pytest.mark.parametrize("quiet", [False, True])
def test_what_the_drivers_say_is_a_line_too(*, quiet: bool):
    out = io.StringIO()
    logs.configure("signer", stream=out, quiet=quiet)
    logs.configure("signer", stream=out, quiet=quiet)
    drivers = logging.getLogger("hsm_drivers.service.keyring")
    drivers.info("service key %s made", "s-1")
    try:
        int("hunter2")
    except ValueError:
        drivers.exception("a checker failed")
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["detail"] for line in lines] == ["service key s-1 made", "a checker failed"][
        quiet:
    ]
    assert {line["event"] for line in lines} == {"hsm_drivers.service.keyring"}
    assert lines[-1]["error_type"] == "ValueError"
    assert "hunter2" not in out.getvalue()


def test_a_stream_that_was_closed_stops_nobody():
    out = io.StringIO()
    logs.configure("worker", stream=out)
    out.close()
    structlog.get_logger().warning("still.here")
    logging.getLogger("hsm_drivers.pool").warning("and here")
