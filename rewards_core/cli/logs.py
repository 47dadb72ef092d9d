"""What a command writes to standard error while it runs: lines for people, or a JSON object a line for programs."""

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
LogForm = Literal["text", "json"]
LogLevelOption = Annotated[
    LogLevel | None,
    typer.Option(
        "--log-level", help="Log this and what is more urgent; info has a line for each delivery.", show_default="warning"
    ),
]
LogFormatOption = Annotated[
    LogForm, typer.Option("--log-format", help="What is written to standard error: text, or a JSON object a line.")
]

_NOT_OURS = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"})
_TEXT = "%(asctime)s %(levelname)s %(name)s: {}%(message)s"
_faults = logging.getLogger("fault")


@frozen(kw_only=True)
class LogSettings:
    """What is logged, and how.

    Attributes:
        level: The least urgent that is logged.
        form: Lines for people, or JSON.
    """

    level: LogLevel = "warning"
    form: LogForm = "text"


_in_force = LogSettings()


def logs_in_force() -> LogSettings:
    """Return how this process logs, for processes that are to log the same way."""
    return _in_force


def log_to_stderr(settings: LogSettings, *, worker: int | None = None) -> None:
    """Log to standard error from now on; as JSON whatever else this process writes there too, warnings and tracebacks included.

    Args:
        settings: What, and how.
        worker: The number of this process among the workers of a supervisor, None if it is none.
    """
    global _in_force
    _in_force = settings
    handler = _StandardError(sys.stderr)
    if settings.form == "json":
        handler.setFormatter(_JsonLines(worker))
    else:
        handler.setFormatter(logging.Formatter(_TEXT.format("" if worker is None else f"worker {worker}: ")))
    logging.basicConfig(level=settings.level.upper(), handlers=[handler])
    if settings.form == "json":
        logging.captureWarnings(capture=True)
        sys.excepthook = _fault
        sys.unraisablehook = lambda found: _fault(found.exc_type, found.exc_value)
        threading.excepthook = lambda found: _fault(found.exc_type, found.exc_value)


@contextmanager
def in_json(wanted: bool) -> Iterator[None]:
    """Let what a command says inside be JSON, if that is wanted, before it has come as far as to log."""
    global _in_force
    before = _in_force
    if wanted:
        _in_force = LogSettings(form="json")
    try:
        yield
    finally:
        _in_force = before


def told_as_json(text: str, level: LogLevel) -> bool:
    """Write what a command says, if this process writes JSON to standard error; return whether it does."""
    if _in_force.form != "json":
        return False
    with suppress(OSError, ValueError):  # it is closed or full: the line is lost and nothing else happens
        told = logging.makeLogRecord({"name": "command", "levelname": level, "msg": text})
        sys.stderr.write(_JsonLines(None).format(told) + "\n")
        sys.stderr.flush()
    return True


class _StandardError(logging.StreamHandler[Any]):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - its name is that of logging
        """Lose a line where standard error is closed or full; by default a traceback would be written there."""
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)


class _JsonLines(logging.Formatter):
    def __init__(self, worker: int | None) -> None:
        super().__init__()
        self._worker = {} if worker is None else {"worker": worker}

    def format(self, record: logging.LogRecord) -> str:
        own = {
            "time": _moment(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self._worker,
        }
        fields = {name: value for name, value in vars(record).items() if name not in _NOT_OURS}
        values = own | fields | own  # own words first, whatever the fields are called
        if record.exc_info:
            values["exception"] = self.formatException(record.exc_info)
        return _line(values)


def _fault(kind: type[BaseException], error: BaseException | None, trace: object = None) -> None:  # noqa: ARG001 - a hook's
    _faults.critical("a fault of the program: %s", kind.__name__, exc_info=error)


def _moment(unix: float) -> str:
    return datetime.fromtimestamp(unix, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _line(values: dict[str, Any]) -> str:
    return json.dumps(values, default=str)  # ASCII, whatever the encoding of standard error
