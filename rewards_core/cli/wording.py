"""What the messages of the command at hand call its options, and where they say that one was set."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from attrs import field, frozen


@frozen(kw_only=True)
class Wording:
    """The words of one command.

    Attributes:
        options: For each argument of its function the option that a person types, such as `polls_per_second` and
            `--polls-per-second`.
        origins: For each option that was set beforehand the variable, or the key of a file, that set it.
    """

    options: Mapping[str, str] = field(factory=dict)
    origins: Mapping[str, str] = field(factory=dict)


_PLAIN = Wording()
_wording: ContextVar[Wording] = ContextVar("the words of the command at hand", default=_PLAIN)


@contextmanager
def worded(wording: Wording) -> Iterator[None]:
    """Let messages inside use the words of a command."""
    before = _wording.set(wording)
    try:
        yield
    finally:
        _wording.reset(before)


def in_options(text: str) -> str:
    """Return a message with the command's own options in it, and after it where each was set, unless it was typed.

    Args:
        text: The message; a check of an argument begins with the argument's name and a colon.
    """
    wording = _wording.get()
    argument, colon, rest = text.partition(": ")
    if colon and argument in wording.options:
        text = f"{wording.options[argument]}: {rest}"
    found = [
        f"{option} was set by {origin}."
        for option, origin in wording.origins.items()
        if re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", text)
    ]
    return " ".join([text if not found or text.endswith((".", "!", "?")) else f"{text}.", *found])
