"""Webhook keys as both command lines read them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from rewards_core.keys import read_keys_file, read_keys_variable

if TYPE_CHECKING:
    from pathlib import Path


def keys_option(variable: str) -> Any:
    """Return the option `--keys-file`, for a vendor whose keys are otherwise in this variable."""
    return typer.Option("--keys-file", help=f"File of ID:SECRET pairs or a JSON object; else {variable} holds the pairs.")


def webhook_keys(keys_file: Path | None, variable: str) -> dict[str, str]:
    """Return key ids with their secrets, from the file of `--keys-file` if there is one, else from the variable.

    Raises:
        ValueError: they are missing or cannot be read; the text says what to do and shows no secret.
    """
    if keys_file is not None:
        return read_keys_file(keys_file)
    return read_keys_variable(variable, ", or name a file with --keys-file")
