"""What a command line is: its name, its commands, and what else than typing sets their options."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import typer
from attrs import field, frozen
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from rewards_core.cli.option_kinds import Kind, kinds_of


@frozen(kw_only=True)
class Program:
    """A command line.

    Attributes:
        name: The command, as a person types it.
        commands: For each subcommand `module:attribute` of its function, or of the application of several, and the line that
            the help shows of it: the first of its docstring.
        apart: Options, such as `snapshot`, that mean one thing in one command and another in the next: variables and files set
            them for one command only.
        older: Variables of earlier versions, each with the option that it still sets.
    """

    name: str
    commands: Mapping[str, tuple[str, str]]
    apart: frozenset[str] = frozenset()
    older: Mapping[str, str] = field(factory=dict)

    def variable(self, *words: str) -> str:
        """Return the variable of an option in every command, or in one: of `"port"`, or of `"serve", "port"`."""
        return "_".join(each.replace("-", "_").upper() for each in (self.name, *words))

    def load(self, name: str, command: type[TyperCommand] | None = None, group: type[TyperGroup] | None = None) -> Any:
        """Import a command and return what typer makes of it: a command, or a group of them.

        Args:
            name: One of `commands`.
            command: The class of commands, None for typer's own.
            group: The class of a group, None for typer's own.
        """
        module, _, attribute = self.commands[name][0].partition(":")
        found = getattr(import_module(module), attribute)
        if not isinstance(found, typer.Typer):
            found, function = typer.Typer(add_completion=False), found
            found.command(name)(function)
        for info in found.registered_commands:
            info.cls = command
        found.info.cls = group
        return get_command(found)

    def options(self) -> Iterator[tuple[str, dict[str, Kind]]]:
        """Yield the words of each command, such as `events list`, with its options; imports them all."""
        for name in self.commands:
            loaded = self.load(name)
            members = getattr(loaded, "commands", None)
            for words, command in {name: loaded}.items() if members is None else members.items():
                yield (name if members is None else f"{name} {words}"), kinds_of(command)


def group_of_one(help: str) -> typer.Typer:  # noqa: A002
    """Return the application of a group whose only command keeps a word of its own, such as `list`.

    Args:
        help: What it is for.
    """
    app = typer.Typer(no_args_is_help=True, add_completion=False, help=help)
    app.callback()(_nothing)
    return app


def _nothing() -> None:
    """Stand for what is done before a command."""
