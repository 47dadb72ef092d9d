"""What the options of a command take, read from the annotations of its function."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from inspect import unwrap
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from attrs import frozen

from rewards_core.validation import kind_of, shown

_NEVER_SET = frozenset({"help", "version", "config", "install-completion", "show-completion"})
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})
_GIVE: Mapping[type, str] = {bool: "true or false", int: "a whole number", float: "a number", list: "an array of texts"}


@frozen(kw_only=True)
class Kind:
    """An option that can be set by a variable or a file.

    Attributes:
        name: The option without its dashes, such as `max-connections`.
        parameter: The function's name for it.
        negative: The option that says the opposite, without its dashes; empty if there is none.
        takes: `bool`, `int`, `float`, `list` or `str`.
        parsed: Whether the command reads a text of its own form, such as `20/s`, beside a number.
    """

    name: str
    parameter: str
    negative: str = ""
    takes: type
    parsed: bool = False

    def from_variable(self, text: str) -> Any:
        """Return what a variable's text says.

        Raises:
            ValueError: it is not what the option takes; the text says what to give.
        """
        if self.takes is bool:
            word = text.strip().casefold()
            if word not in _TRUE | _FALSE:
                raise ValueError(f"give true or false, not {shown(text)}.")
            return word in _TRUE
        if self.takes is list:
            try:
                return shlex.split(text)
            except ValueError:
                raise ValueError("a quotation mark is missing. Give texts with blanks between them.") from None
        return text

    def from_file(self, value: Any) -> Any:
        """Return what a file's value says.

        Raises:
            ValueError: it is of another type; the text says what to give, and shows no value.
        """
        if self._fits(value):
            return value
        give = _GIVE.get(self.takes, "a text in quotation marks")
        raise ValueError(f"give {give}, not {_TOML.get(type(value)) or kind_of(value)}.")

    def _fits(self, value: Any) -> bool:
        if self.takes is list:
            return isinstance(value, list) and all(isinstance(each, str) for each in value)
        if self.takes is float:
            return (isinstance(value, (int, float)) and not isinstance(value, bool)) or (self.parsed and isinstance(value, str))
        return type(value) is self.takes


_TOML: Mapping[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number with a point",
    str: "a text",
    list: "an array",
    dict: "a table",
}


def kinds_of(command: Any) -> dict[str, Kind]:
    """Return the options of a command that can be set beforehand, by their names.

    Args:
        command: The command that typer made, or a group of commands, which has those of all.
    """
    members = getattr(command, "commands", None)
    if members is not None:
        return {name: kind for member in members.values() for name, kind in kinds_of(member).items()}
    hints = get_type_hints(unwrap(command.callback), include_extras=True)
    found = [_kind(param, hints[param.name]) for param in command.params if param.param_type_name == "option"]
    return {kind.name: kind for kind in found if kind.name not in _NEVER_SET}


def _kind(param: Any, hint: Any) -> Kind:
    extras: tuple[Any, ...] = ()
    if get_origin(hint) is Annotated:
        hint, *more = get_args(hint)
        extras = tuple(more)
    if get_origin(hint) in {Union, UnionType}:
        hint = next(each for each in get_args(hint) if each is not NoneType)
    takes = get_origin(hint) or hint
    return Kind(
        name=_longest(param.opts),
        parameter=param.name,
        negative=_longest(param.secondary_opts),
        takes=takes if takes in _GIVE else str,
        parsed=any(getattr(extra, "parser", None) is not None for extra in extras),
    )


def _longest(options: list[str]) -> str:
    return max(options, key=len, default="").lstrip("-")
