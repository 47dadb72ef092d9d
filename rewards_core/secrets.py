"""Secrets that appear in no repr, log or pickle, nor in a local variable on a traceback."""

from __future__ import annotations

import hmac
import re
import unicodedata
from collections.abc import Callable
from functools import wraps
from typing import NoReturn, ParamSpec, Self, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
E = TypeVar("E", bound=BaseException)

_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp", "Zs"})
_BLANK = frozenset("\u034f\u115f\u1160\u2800\u3164\uffa0" + "".join(map(chr, range(0xFE00, 0xFE10))))
"""Letters, marks and symbols that are invisible."""
_QUOTES = frozenset({"''", '""', "``", "\u2018\u2019", "\u201c\u201d"})
_unexpanded = re.compile(r"\$\{[^}]*\}|\{\{[^}]*\}\}|\$\([^)]*\)|^\$[A-Za-z_]\w*$|^%\w+%$").search


class SecretHolder:
    """An object that holds a secret: a copy of it is itself, and it cannot be pickled."""

    __slots__ = ()

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self._known_as()}: an object with a secret cannot be pickled. Build it again in the other process.")

    def _known_as(self) -> str:
        return type(self).__name__


class Secret(SecretHolder):
    """A secret text, which only `reveal()` returns.

    Args:
        value: The secret, without white space, control or invisible characters, and without quotes around it.
        name: Its name for messages, such as `"api_secret"`.
        spaces: Whether it may contain spaces, as a password may.

    Raises:
        TypeError: `value` is not a str.
        ValueError: `value` is empty or was damaged: a line break from a file, quotes from a settings file, an invisible character
            from a web page, or a placeholder that was not expanded.
    """

    __slots__ = ("__value", "_name")

    def __init__(self, value: str, name: str = "secret", *, spaces: bool = False) -> None:
        kind: type[object] = type(value)
        problem = _problem_of(value, spaces=spaces) if issubclass(kind, str) else None
        self.__value = str.__str__(value) if issubclass(kind, str) else ""
        self._name = name
        del value
        if not issubclass(kind, str):
            raise TypeError(f"{name}: give it as a str, not {kind.__name__}.")
        if problem is not None:
            raise ValueError(f"{name}: {problem}")

    def reveal(self) -> str:
        """Return the secret. Use it in the same expression, so that no local variable holds it."""
        return self.__value

    def __repr__(self) -> str:
        return f"<{self._name}: hidden>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self.__value.encode(), other.__value.encode())

    def __hash__(self) -> int:
        return hash((Secret, self.__value))

    def _known_as(self) -> str:
        return self._name


def _problem_of(text: str, *, spaces: bool) -> str | None:
    """Return what is wrong with a secret and what to do, without showing any of it."""
    if not text.strip():
        return "it is empty. Check where it is read from."
    if text[-1] in "\r\n":
        return "it ends with a line break. Strip what is read from a file."
    if _unexpanded(text):
        return "it holds a placeholder such as ${NAME} that was not expanded. Check the settings that it comes from."
    if text[0] + text[-1] in _QUOTES and len(text) > 1:
        return "it is in quotes. Give it without them."
    for character in text if not spaces else text.replace(" ", "_"):
        category = unicodedata.category(character)
        if category in _INVISIBLE or character in _BLANK:
            what = "white space" if character.isspace() else f"an invisible character (U+{ord(character):04X})"
            return f"there is {what} in it. Copy it again from where it was issued."
    if text != text.strip():
        return "there is white space around it. Copy it again from where it was issued."
    return None


def shielded(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function that takes secrets: its errors lose the frames whose local variables hold them.

    Error trackers read the local variables of every frame on a traceback, of the causes and contexts, and of the errors in a
    group.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except BaseException as error:  # noqa: BLE001 - it is raised again below
            problem = error
        del args, kwargs
        try:
            raise without_frames(problem)
        finally:
            del problem

    return call


def without_frames(error: E) -> E:
    """Remove the tracebacks of an error, its causes and contexts and the members of groups, and return it."""
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        each = pending.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            each.__traceback__ = None
            pending += [each.__cause__, each.__context__, *(each.exceptions if isinstance(each, BaseExceptionGroup) else ())]
    return error
