"""What a command line is: its name, its commands, and the variables that set their options."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import typer
from attrs import field, frozen
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from rewards_core.cli.option_specs import OptionSpec, option_specs


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
        found = getattr(import_module(module), attribute)
        if not isinstance(found, typer.Typer):
            found, function = typer.Typer(add_completion=False), found
            found.command(name)(function)
        for info in found.registered_commands:
            info.cls = command
        found.info.cls = group
        return get_command(found)

    def options(self) -> Iterator[tuple[str, dict[str, OptionSpec]]]:
        """Yield the words of each command, such as `events list`, with its options; this imports all commands."""
        for name in self.commands:
            loaded = self.load(name)
            members = getattr(loaded, "commands", None)
            for words, command in {name: loaded}.items() if members is None else members.items():
                yield (name if members is None else f"{name} {words}"), option_specs(command)


def command_group(help: str) -> typer.Typer:  # noqa: A002
    """Return the application of a group of commands, which may have one command only."""
    app = typer.Typer(no_args_is_help=True, add_completion=False, help=help)
    app.callback()(lambda: None)  # without a callback typer drops the word of an only command
    return app
