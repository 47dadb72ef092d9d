"""What a command logs to standard error: lines for people, or one JSON object per line for programs."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import typer
from attrs import frozen

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["text", "json"]
LogLevelOption = Annotated[
    LogLevel | None,
    typer.Option("--log-level", help="Log messages of this level and above; info logs every delivery.", show_default="warning"),
]
LogFormatOption = Annotated[
    LogFormat, typer.Option("--log-format", help="Format of standard error: text, or one JSON object per line.")
]

_STANDARD_FIELDS = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"})
_TEXT = "%(asctime)s %(levelname)s %(name)s: {}%(message)s"
_faults = logging.getLogger("fault")


@frozen(kw_only=True)
class LogSettings:
    """How a process logs.

    Attributes:
        level: The lowest level that is logged.
        format: Text for people, or JSON.
    """

    level: LogLevel = "warning"
    format: LogFormat = "text"


_current = LogSettings()


def current_log_settings() -> LogSettings:
    """Return how this process logs, so that its child processes can log the same way."""
    return _current


def log_to_stderr(settings: LogSettings, *, worker: int | None = None) -> None:
    """Log to standard error from now on; in JSON, warnings and tracebacks are JSON too.

    Args:
        settings: The level and the format.
        worker: The number of this worker process, None outside a supervisor's workers.
    """
    global _current
    _current = settings
    handler = _StandardError(sys.stderr)
    if settings.format == "json":
        handler.setFormatter(_JsonLines(worker))
    else:
        handler.setFormatter(logging.Formatter(_TEXT.format("" if worker is None else f"worker {worker}: ")))
    logging.basicConfig(level=settings.level.upper(), handlers=[handler])
    if settings.format == "json":
        logging.captureWarnings(capture=True)
        sys.excepthook = _log_fault
        sys.unraisablehook = lambda found: _log_fault(found.exc_type, found.exc_value)
        threading.excepthook = lambda found: _log_fault(found.exc_type, found.exc_value)


@contextmanager
def json_messages(enabled: bool) -> Iterator[None]:
    """Write messages as JSON inside, if enabled: for those that come before the command calls `log_to_stderr`."""
    global _current
    before = _current
    if enabled:
        _current = LogSettings(format="json")
    try:
        yield
    finally:
        _current = before


def log_as_json(text: str, level: LogLevel) -> bool:
    """Write a message as JSON and return True, if this process writes JSON to standard error; else return False."""
    if _current.format != "json":
        return False
    with suppress(OSError, ValueError):  # standard error is closed or full
        record = logging.makeLogRecord({"name": "command", "levelname": level, "msg": text})
        sys.stderr.write(_JsonLines(None).format(record) + "\n")
        sys.stderr.flush()
    return True


class _StandardError(logging.StreamHandler[Any]):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - its name is that of logging
        """Drop the line if standard error is closed or full; by default a traceback would be written there."""
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)


class _JsonLines(logging.Formatter):
    def __init__(self, worker: int | None) -> None:
        super().__init__()
        self._worker = {} if worker is None else {"worker": worker}

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        own = {
            "time": time,
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self._worker,
        }
        extra = {name: value for name, value in vars(record).items() if name not in _STANDARD_FIELDS}
        values = own | extra | own  # in this order, and no extra field replaces one of these
        if record.exc_info:
            values["exception"] = self.formatException(record.exc_info)
        return json.dumps(values, default=str)  # ASCII, whatever the encoding of standard error


def _log_fault(kind: type[BaseException], error: BaseException | None, trace: object = None) -> None:  # noqa: ARG001 - a hook's
    _faults.critical("internal error: %s", kind.__name__, exc_info=error)
