"""Change values of a JSON text where they stand: white space, the order of members and repeated names stay as they are."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from rewards_core.errors import UnexpectedResponse
from rewards_core.json import loads

Path = tuple[str, ...]
"""The names of the members, and the numbers of the items, that lead to a value."""

_piece = re.compile(r'"(?:[^"\\]|\\.)*"|[-+0-9.eE]+|true|false|null|[{}\[\],:]').finditer


def rewritten(text: str, change: Callable[[Path, str | None], str | None], rename: Callable[[str], str] = str) -> str:
    """Return a JSON text with values changed.

    Args:
        text: What `loads` can read.
        change: Is called with the path and the text of each string, number or word, and with None as the text of each object and
            list; returns the JSON text to put in its place, or None to leave it, and to go into an object or a list.
        rename: Returns the name to put in place of a member's, without its quotes.
    """
    parts: list[str] = []
    done = 0
    path: list[str] = []
    skipped = 0  # objects and lists that are open inside one that was changed
    names: list[bool] = []  # for each open object True while the next string is a name; False for a list or before a value
    objects: list[bool] = []
    for found in _piece(text):
        piece = found[0]
        if skipped:
            skipped += (piece in "{[") - (piece in "}]")
            if not skipped:
                done = found.end()
            continue
        if piece == ",":
            if objects[-1]:
                names[-1] = True
            else:
                path[-1] = str(int(path[-1]) + 1)
        elif piece in "}]":
            path.pop()
            names.pop()
            objects.pop()
        elif piece == ":":
            names[-1] = False
        elif names and names[-1]:
            name = json.loads(piece)
            path[-1] = name
            other = rename(name)
            if other != name:
                parts += [text[done : found.start()], json.dumps(other)]
                done = found.end()
        else:
            opens = piece in "{["
            instead = change(tuple(path), None if opens else piece)
            if instead is not None:
                parts += [text[done : found.start()], instead]
                done = found.end()
                skipped = int(opens)
            elif opens:
                path.append("0")
                objects.append(piece == "{")
                names.append(piece == "{")
    return "".join([*parts, text[done:]])


def readable(body: bytes) -> str | None:
    """Return a body as text if it is JSON, else None."""
    try:
        loads(body)
    except UnexpectedResponse:
        return None
    return body.decode("utf-8")
