"""A command line whose commands are imported when they are called: its help, and each command, costs only itself."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand
from typer.main import get_command


def command_line(name: str, *, help: str, epilog: str, commands: Mapping[str, tuple[str, str]]) -> typer.Typer:  # noqa: A002
    """Return the Typer application of a command line.

    Args:
        name: The command, as a person types it.
        help: What it is for.
        epilog: What stands below its help.
        commands: For each subcommand `module:attribute` of its function, or of the application of several, and the line that
            the help shows of it: the first of its docstring.
    """
    app = typer.Typer(
        name=name, help=help, epilog=epilog, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
    )
    for each, (place, line) in commands.items():
        app.command(each, cls=_later(place), help=line)(_nothing)
    return app


def _later(place: str) -> type[TyperCommand]:
    class Later(TyperCommand):
        def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
            module, _, attribute = place.partition(":")
            found = getattr(import_module(module), attribute)
            if not isinstance(found, typer.Typer):
                found, command = typer.Typer(add_completion=False), found
                found.command(self.name)(command)
            return get_command(found).make_context(info_name, args, parent, **extra)

    return Later


def _nothing() -> None:
    """Stand for a command that has not been imported."""
