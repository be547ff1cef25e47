"""Log lines of every process: one JSON object each on standard error, or key=value on a terminal.

What may be logged: event names, counts, times, ids of the service's own things (process, serial,
tree size), route templates. Never PINs, keys, request bodies, names of users or devices.
"""

import contextlib
import logging
import sys
from typing import TextIO

import structlog


def configure(process: str, *, stream: TextIO | None = None, quiet: bool = False) -> None:
    """Set up structlog for this process; call once at start.

    Args:
        process: Name that stands in every line: `supervisor`, `worker`, `signer`, `cli`.
        stream: Where to write; standard error by default.
        quiet: Warnings and what is worse, nothing else.
    """
    out = stream or sys.stderr
    renderer: structlog.typing.Processor
    if out.isatty():
        renderer = structlog.processors.KeyValueRenderer(
            key_order=["timestamp", "level", "process", "event"], drop_missing=True
        )
    else:
        renderer = structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _exception_type,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.WARNING if quiet else logging.INFO
        ),
        logger_factory=lambda *_: _Lines(out),
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.bind_contextvars(process=process)
    drivers = logging.getLogger("hsm_drivers")
    drivers.handlers = [_Drivers()]
    drivers.setLevel(logging.INFO)


class _Drivers(logging.Handler):
    """What the drivers and the signer say: they know the standard library's log alone."""

    def emit(self, record: logging.LogRecord) -> None:
        """As a line like all others."""
        error = record.exc_info[1] if record.exc_info else None
        said = structlog.get_logger()
        said.log(record.levelno, record.name, detail=record.getMessage(), exc_info=error)


class _Lines:
    """Writes lines and never fails: on a full disk or a closed stream, the service goes on."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def msg(self, line: str) -> None:
        """Write one line."""
        with contextlib.suppress(OSError, ValueError):
            self._out.write(line + "\n")
            self._out.flush()

    debug = info = warning = error = critical = exception = msg


def _exception_type(
    _logger: object, _method: str, line: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Reduce `exc_info` to type and place: messages may hold what is secret."""
    info = line.pop("exc_info", None)
    error = info if isinstance(info, BaseException) else sys.exc_info()[1] if info else None
    if error is not None:
        line["error_type"] = type(error).__qualname__
        line["error_at"] = _innermost(error)
    return line


def _innermost(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return ""
    code = trace.tb_frame.f_code
    return f"{trace.tb_frame.f_globals.get('__name__', '')}:{code.co_name}:{trace.tb_lineno}"
