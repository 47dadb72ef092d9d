"""Secrets that do not show themselves."""

from __future__ import annotations

import hmac
import re
from typing import NoReturn

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]+")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


class Secret:
    """Hold a secret text; only `reveal()` gives it, and neither `repr` nor `str`, logs, copies nor pickles do.

    Args:
        value: The secret, not empty.
        name: What it is, for messages, such as `"api_secret"`.

    Raises:
        TypeError: `value` is not a str.
        ValueError: `value` is empty or only white space, or no text that UTF-8 can hold.
    """

    __slots__ = ("__value", "_name")

    def __init__(self, value: str, name: str = "secret") -> None:
        if not isinstance(value, str):
            raise TypeError(f"{name}: expected a str, got {type(value).__name__}; give the secret as text")
        if not value.strip():
            raise ValueError(f"{name}: expected a non-empty secret, got an empty one; check where it is read from")
        if _SURROGATE.search(value):
            raise ValueError(f"{name}: expected text that UTF-8 can hold, got a lone surrogate; read it as UTF-8")
        self.__value = value
        self._name = name

    def reveal(self) -> str:
        """Return the secret itself."""
        return self.__value

    def __repr__(self) -> str:
        return f"<{self._name}: hidden>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self.__value.encode("utf-8"), other.__value.encode("utf-8"))

    def __hash__(self) -> int:
        return hash((Secret, self.__value))

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self._name} cannot be pickled: a secret does not leave its process; build the object anew there")


def one_line(text: str, limit: int = 300) -> str:
    """Return a stranger's text as one printable line of at most `limit` characters."""
    line = _CONTROL.sub(" ", text).strip()
    return line if len(line) <= limit else line[: limit - 1] + "…"


def hide(text: str, secrets: tuple[str, ...]) -> str:
    """Return the text with every occurrence of each secret replaced."""
    for secret in secrets:
        text = text.replace(secret, "[hidden]")
    return text
