"""How a command line starts, and says which extra it needs where that is missing."""

from __future__ import annotations

import sys
from importlib import import_module
from io import TextIOWrapper

from rewards_core.cli.exit_codes import Exit


def run_command_line(program: str, module: str) -> None:
    """Run the command line of a module; without the extra `cli` say which to install, with exit code 2.

    Args:
        program: The command's name, as a person types it.
        module: The module that holds the Typer application as `app`.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal that lacks a character shows its number
            stream.reconfigure(errors="backslashreplace")
    try:
        for needed in ("typer", "rich"):
            try:
                import_module(needed)
            except ModuleNotFoundError:
                sys.stderr.write(f"{program} needs {needed}: pip install 'rewards-async[cli]'\n")
                raise SystemExit(Exit.USAGE) from None
        import_module(module).app(prog_name=program)
    except KeyboardInterrupt:  # while it was being imported
        raise SystemExit(Exit.INTERRUPTED) from None
