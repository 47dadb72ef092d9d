"""Webhook keys from an environment variable or a file; no error shows or holds a secret."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

is_key_id = re.compile(r"[!-+\--~]+", re.ASCII).fullmatch
"""Matches an id: printable, without the white space and comma that separate pairs."""
_HOW = "write ID:SECRET, several separated by commas or spaces."


def parse_keys(text: str, where: str) -> dict[str, str]:
    """Return key ids with their secrets.

    Args:
        text: `ID:SECRET` pairs separated by commas or white space, or a JSON object; a line that begins with `#` is a comment.
        where: Their source, for messages.

    Raises:
        ValueError: there are no keys, one cannot be read, or two have the same id.
    """
    keys = _checked(_pairs(text))
    del text  # a traceback would show it
    if isinstance(keys, str):
        raise ValueError(f"{where}{keys}")  # noqa: TRY004 - a wrong text is a wrong value
    return keys


def read_secret_file(path: Path, what: str) -> str:
    """Return the text of a file of secrets, such as `"webhook keys"`; a `ValueError` shows and holds nothing of it."""
    try:
        return path.read_text("utf-8")
    except OSError as problem:
        why = problem.strerror or type(problem).__name__
    except UnicodeDecodeError:  # which holds the text
        why = "it is not UTF-8"
    raise ValueError(f"{path}: this file of {what} cannot be read: {why}.")


def read_keys_variable(name: str, instead: str = "") -> dict[str, str]:
    """Return key ids with their secrets from an environment variable; `instead` names the alternative, for messages."""
    if not os.environ.get(name, "").strip():
        raise ValueError(f"Set {name} to ID:SECRET, as on the Webhooks page of the vendor's console{instead}.")
    return parse_keys(os.environ[name], name)


def webhook_keys(keys_file: Path | None, variable: str) -> dict[str, str]:
    """Return key ids with their secrets from the file of `--keys-file`, or without one from the variable."""
    if keys_file is not None:
        return parse_keys(read_secret_file(keys_file, "webhook keys"), str(keys_file))
    return read_keys_variable(variable, ", or name a file with --keys-file")


def _checked(pairs: Iterable[tuple[str, Any]]) -> dict[str, str] | str:
    """Return the keys, or what is wrong with them."""
    keys: dict[str, str] = {}
    for number, (key_id, secret) in enumerate(pairs, 1):
        if not is_key_id(key_id) or not isinstance(secret, str) or not secret.strip():
            return f": pair {number} of the webhook keys cannot be read: {_HOW}"
        if key_id in keys:
            return f": pair {number} of the webhook keys has the id of an earlier one: give each id once."
        keys[key_id] = secret
    return keys or f" holds no webhook keys that can be read: {_HOW}"


def _pairs(text: str) -> Iterable[tuple[str, Any]]:
    text = text.strip()
    if text.startswith("{"):
        try:
            pairs: list[tuple[str, Any]] = json.loads(text, object_pairs_hook=list)  # an object would drop a repeated id
            return pairs
        except (ValueError, RecursionError):
            return ()
    lines = (line for line in text.splitlines() if not line.lstrip().startswith("#"))
    return [(key_id, secret) for key_id, _, secret in (pair.partition(":") for pair in " ".join(lines).replace(",", " ").split())]
