"""Redact captured deliveries: credentials in headers always, and whatever `--redact` names.

JSON bodies are edited in place: white space, the order of members and repeated names stay as they arrived.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence

from attrs import frozen

from rewards_core.errors import UnexpectedResponse
from rewards_core.json import loads
from rewards_core.validation import shown

REDACTED = "[redacted]"
_CREDENTIALS = frozenset(
    {"authorization", "cookie", "proxy-authorization", "set-cookie", "x-api-key", "x-api-secret", "x-auth-token"}
)
_HEADER = "header:"
_ANY = "*"
_json_piece = re.compile(r'"(?:[^"\\]|\\.)*"|[-+0-9.eE]+|true|false|null|[{}\[\],:]').finditer

Headers = Sequence[tuple[str, str]]
Path = tuple[str, ...]
"""The member names and item numbers that lead to a JSON value."""


@frozen(kw_only=True)
class Redaction:
    """What is redacted.

    Attributes:
        headers: Names of headers, in lower case.
        members: Paths of members of the body; `*` stands for any name or number.
    """

    headers: frozenset[str]
    members: tuple[Path, ...]

    def of_headers(self, headers: Headers) -> list[tuple[str, str]]:
        """Return headers with values redacted."""
        return [(name, REDACTED if name.lower() in self.headers else value) for name, value in headers]

    def of_body(self, body: bytes) -> tuple[bytes | None, list[str]]:
        """Return a body with members redacted, and which; None for a body that is not JSON, which may hold anything."""
        if not self.members:
            return body, []
        text = json_text(body)
        if text is None:
            return None, [_ANY]
        found: dict[str, None] = {}

        def redact(path: Path, _: str | None) -> str | None:
            if not any(_matches(path, member) for member in self.members):
                return None
            found[".".join(path)] = None
            return f'"{REDACTED}"'

        return rewrite_json(text, redact).encode("utf-8"), list(found)


def parse_redaction(texts: Sequence[str]) -> Redaction:
    """Parse the values of `--redact`: `header:NAME`, or the path of a member such as `data.user.email`.

    Raises:
        ValueError: a value is neither.
    """
    headers, members = set(_CREDENTIALS), []
    for text in texts:
        name = text.removeprefix(_HEADER)
        if not name or (name == text and "" in text.split(".")):
            raise ValueError(f"--redact: give a member such as data.user.email, or header:NAME, not {shown(text)}.")
        if name == text:
            members.append(tuple(text.split(".")))
        else:
            headers.add(name.strip().lower())
    return Redaction(headers=frozenset(headers), members=tuple(members))


def _matches(path: Path, member: Path) -> bool:
    return len(path) == len(member) and all(wanted in {_ANY, step} for wanted, step in zip(member, path, strict=True))


def json_text(body: bytes) -> str | None:
    """Return a body as text if it is JSON, else None."""
    try:
        loads(body)
    except UnexpectedResponse:
        return None
    return body.decode("utf-8")


def rewrite_json(text: str, change: Callable[[Path, str | None], str | None], rename: Callable[[str], str] = str) -> str:
    """Return a JSON text with values changed in place.

    Args:
        text: A JSON text that `loads` can read.
        change: Called with the path and the JSON text of each value, with None as the text of an object or a list. Returns the
            JSON text to put there, or None to keep the value, and to continue inside an object or a list.
        rename: Returns the new name of a member.
    """
    parts: list[str] = []
    done = 0
    path: list[str] = []
    skipped = 0  # depth inside an object or a list that was replaced
    names: list[bool] = []  # for each open object or list: whether the next string is a member's name
    objects: list[bool] = []
    for found in _json_piece(text):
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
