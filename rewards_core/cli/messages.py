"""Messages of the running command, in terms of its options: what a person types for each, and what set it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from attrs import field, frozen


@frozen(kw_only=True)
class OptionNames:
    """The options of one command.

    Attributes:
        options: Argument of the function to option, such as `polls_per_second` to `--polls-per-second`.
        origins: Option to the variable or the key of a file that set it; options that were typed are left out.
    """

    options: Mapping[str, str] = field(factory=dict)
    origins: Mapping[str, str] = field(factory=dict)


_current = ContextVar("option names", default=OptionNames())  # noqa: B039 - it is frozen


@contextmanager
def option_names(names: OptionNames) -> Iterator[None]:
    """Let messages inside name the options of a command."""
    before = _current.set(names)
    try:
        yield
    finally:
        _current.reset(before)


def with_option_names(text: str) -> str:
    """Return a message with an argument's name replaced by its option, and a note of what set each option that it names.

    Args:
        text: The message; one about an argument begins with the argument's name and a colon.
    """
    names = _current.get()
    argument, colon, rest = text.partition(": ")
    if colon and argument in names.options:
        text = f"{names.options[argument]}: {rest}"
    notes = [
        f"{option} was set by {origin}."
        for option, origin in names.origins.items()
        if re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", text)
    ]
    return " ".join([text if not notes or text.endswith((".", "!", "?")) else f"{text}.", *notes])
