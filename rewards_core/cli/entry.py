"""The entry point of a command line, which also works where the extra `cli` is not installed."""

from __future__ import annotations

import sys
from importlib import import_module
from io import TextIOWrapper

from rewards_core.cli.exit_codes import Exit


def run_command_line(program: str, module: str) -> None:
    """Run a command line; without the extra `cli`, say how to install it and exit with code 2.

    Args:
        program: Its name, as a person types it.
        module: The module that holds the Typer application as `app`.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # show a character that the terminal lacks by its number
            stream.reconfigure(errors="backslashreplace")
    try:
        for needed in ("typer", "rich"):
            try:
                import_module(needed)
            except ModuleNotFoundError:
                from rewards_core.install_hint import install_hint  # noqa: PLC0415 - it takes time

                sys.stderr.write(f"{program} needs the package {needed}. Run {install_hint('cli')}.\n")
                raise SystemExit(Exit.USAGE) from None
        import_module(module).app(prog_name=program)
    except KeyboardInterrupt:  # during the import
        raise SystemExit(Exit.INTERRUPTED) from None
