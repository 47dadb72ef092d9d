"""Which options of the command at hand were set beforehand, so that a message about one says where to correct it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

_NONE: Mapping[str, str] = {}
_set_by: ContextVar[Mapping[str, str]] = ContextVar("options that were set beforehand", default=_NONE)


@contextmanager
def set_beforehand(origins: Mapping[str, str]) -> Iterator[None]:
    """Let messages inside say where options were set.

    Args:
        origins: For each option, such as `--port`, the variable or the key of a file that set it.
    """
    before = _set_by.set(origins)
    try:
        yield
    finally:
        _set_by.reset(before)


def with_origins(text: str) -> str:
    """Return a message, and after it where each option that it names was set, unless that was on the command line."""
    found = [
        f"{option} was set by {origin}."
        for option, origin in _set_by.get().items()
        if re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", text)
    ]
    return " ".join([text if text.endswith((".", "!", "?")) or not found else f"{text}.", *found])
