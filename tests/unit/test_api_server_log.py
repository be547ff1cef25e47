"""What servers and event loop complain about reaches the log without the values they quote."""

import asyncio
import json
import logging
from collections.abc import Iterator
from io import StringIO

import pytest
import structlog

from kms import logs
from kms.api.server import capture_server_log

NAMES = ("uvicorn.error", "asyncio")


@pytest.fixture
def log() -> Iterator[StringIO]:
    before = {name: logging.getLogger(name).handlers for name in NAMES}
    stream = StringIO()
    logs.configure("worker", stream=stream)
    capture_server_log()
    yield stream
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    for name, handlers in before.items():
        logging.getLogger(name).handlers = handlers
        logging.getLogger(name).propagate = True


def lines(log: StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in log.getvalue().splitlines()]


def test_a_complaint_keeps_its_words_and_loses_its_values(log: StringIO):
    logging.getLogger("uvicorn.error").warning("Invalid %s received.", "secret-request")
    (line,) = lines(log)
    assert (line["level"], line["source"]) == ("warning", "uvicorn.error")
    assert line["message"] == "Invalid %s received."
    assert "secret" not in log.getvalue()


def test_an_exception_that_nobody_awaited_is_told_by_type(log: StringIO):
    loop = asyncio.new_event_loop()
    loop.call_exception_handler(
        {"message": "Task exception was never retrieved", "exception": ValueError("secret")}
    )
    loop.close()
    (line,) = lines(log)
    assert line["message"] == "Task exception was never retrieved"
    assert line["error_type"] == "ValueError"
    assert "secret" not in log.getvalue()


def test_chatter_stays_out(log: StringIO):
    logging.getLogger("uvicorn.error").info("Started server process [%d]", 1)
    assert log.getvalue() == ""
