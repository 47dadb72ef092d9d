"""What a command line is: its name, its commands with their options, and the variables that set these."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from inspect import unwrap
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import typer
from attrs import field, frozen
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from rewards_core.validation import kind_of, shown

_NOT_CONFIGURABLE = frozenset({"help", "version", "config", "install-completion", "show-completion"})
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})
_TOML_WANTED: Mapping[type, str] = {bool: "true or false", int: "a whole number", float: "a number", list: "an array of texts"}
_TOML_FOUND: Mapping[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number with a point",
    str: "a text",
    list: "an array",
    dict: "a table",
}


@frozen(kw_only=True)
class OptionSpec:
    """An option that a variable or a file can set.

    Attributes:
        name: The option without its dashes, such as `max-connections`.
        parameter: The function's parameter.
        negative: The opposite option without its dashes, such as `no-poll`; empty if there is none.
        type: `bool`, `int`, `float`, `list` or `str`.
        has_parser: Whether the command also parses a text, such as `20/s`, for a number.
    """

    name: str
    parameter: str
    negative: str = ""
    type: type
    has_parser: bool = False

    def from_variable(self, text: str) -> Any:
        """Return the value of a variable.

        Raises:
            ValueError: the option does not take it; the message says what to give.
        """
        if self.type is bool:
            word = text.strip().casefold()
            if word not in _TRUE | _FALSE:
                raise ValueError(f"give true or false, not {shown(text)}.")
            return word in _TRUE
        if self.type is list:
            try:
                return shlex.split(text)
            except ValueError:
                raise ValueError(
                    "a quotation mark is missing. Separate values by spaces, and quote values that contain spaces."
                ) from None
        return text

    def from_file(self, value: Any) -> Any:
        """Return the value of a TOML key.

        Raises:
            ValueError: it has another type; the message says what to give, and does not show the value.
        """
        if self._fits(value):
            return value
        wanted = _TOML_WANTED.get(self.type, "a text in quotation marks")
        raise ValueError(f"give {wanted}, not {_TOML_FOUND.get(type(value)) or kind_of(value)}.")

    def _fits(self, value: Any) -> bool:
        if self.type is list:
            return isinstance(value, list) and all(isinstance(each, str) for each in value)
        if self.type is float:
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            return is_number or (self.has_parser and isinstance(value, str))
        return type(value) is self.type


def option_specs(command: Any) -> dict[str, OptionSpec]:
    """Return the options of a typer command, or of all commands of a typer group, by their names."""
    members = getattr(command, "commands", None)
    if members is not None:
        return {name: spec for member in members.values() for name, spec in option_specs(member).items()}
    function = unwrap(command.callback, stop=lambda each: hasattr(each, "__signature__"))  # where groups of options were spread
    hints = get_type_hints(function, include_extras=True)
    found = [_spec(param, hints[param.name]) for param in command.params if param.param_type_name == "option"]
    return {spec.name: spec for spec in found if spec.name not in _NOT_CONFIGURABLE}


def _spec(param: Any, hint: Any) -> OptionSpec:
    extras: tuple[Any, ...] = ()
    if get_origin(hint) is Annotated:
        hint, *more = get_args(hint)
        extras = tuple(more)
    if get_origin(hint) in {Union, UnionType}:
        hint = next(each for each in get_args(hint) if each is not NoneType)
    found = get_origin(hint) or hint
    return OptionSpec(
        name=_longest(param.opts),
        parameter=param.name,
        negative=_longest(param.secondary_opts),
        type=found if found in _TOML_WANTED else str,
        has_parser=any(getattr(extra, "parser", None) is not None for extra in extras),
    )


def _longest(options: list[str]) -> str:
    return max(options, key=len, default="").lstrip("-")


@frozen(kw_only=True)
class Program:
    """A command line.

    Attributes:
        name: Its name, as a person types it.
        commands: Command to `module:attribute` of its function or group, and its line in the help: the first of its docstring.
        ambiguous: Options, such as `snapshot`, that mean different things in different commands: variables and files set them
            for one command only.
        legacy_variables: Variables of earlier versions that still work, with the option of each.
    """

    name: str
    commands: Mapping[str, tuple[str, str]]
    ambiguous: frozenset[str] = frozenset()
    legacy_variables: Mapping[str, str] = field(factory=dict)

    def variable(self, *words: str) -> str:
        """Return the variable of an option in every command, or in one: of `"port"`, or of `"serve", "port"`."""
        return "_".join(each.replace("-", "_").upper() for each in (self.name, *words))

    def load(self, name: str, command: type[TyperCommand] | None = None, group: type[TyperGroup] | None = None) -> Any:
        """Import a command and return what typer makes of it, with these classes: a command, or a group of them."""
        module, _, attribute = self.commands[name][0].partition(":")
        return _as_command(getattr(import_module(module), attribute), name, command, group)

    def options(self) -> Iterator[tuple[str, dict[str, OptionSpec]]]:
        """Yield the words of each command, such as `events list`, with its options; this imports all commands."""
        for name in self.commands:
            loaded = self.load(name)
            members = getattr(loaded, "commands", None)
            for words, command in {name: loaded}.items() if members is None else members.items():
                yield (name if members is None else f"{name} {words}"), option_specs(command)


@cache  # typer evaluates every annotation, and later makes a validator for each
def _as_command(found: Any, name: str, command: type[TyperCommand] | None, group: type[TyperGroup] | None) -> Any:
    if not isinstance(found, typer.Typer):
        found, function = typer.Typer(add_completion=False), found
        found.command(name)(function)
    for info in found.registered_commands:
        info.cls = command
    found.info.cls = group
    return get_command(found)


def command_group(help: str) -> typer.Typer:  # noqa: A002
    """Return the application of a group of commands, which may have one command only."""
    app = typer.Typer(no_args_is_help=True, add_completion=False, help=help)
    app.callback()(lambda: None)  # without a callback typer drops the word of an only command
    return app
