"""Take out of a captured delivery what must not be kept: headers that hold credentials always, and what a person names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attrs import frozen

from rewards_core.validation import shown
from webhooks.cli.capture.json_text import Path, readable, rewritten

REDACTED = "[redacted]"
_ALWAYS = frozenset({"authorization", "cookie", "proxy-authorization", "set-cookie", "x-api-key", "x-api-secret", "x-auth-token"})
_HEADER = "header:"
_ANY = "*"

Headers = Sequence[tuple[str, str]]


@frozen(kw_only=True)
class Redaction:
    """What is taken out.

    Attributes:
        headers: Names of headers, lower case.
        members: Paths of members of the body; `*` stands for any name or number.
    """

    headers: frozenset[str]
    members: tuple[Path, ...]

    def of_headers(self, headers: Headers) -> list[tuple[str, str]]:
        """Return headers with the values of some taken out."""
        return [(name, REDACTED if name.lower() in self.headers else value) for name, value in headers]

    def of_body(self, body: bytes) -> tuple[bytes | None, list[str]]:
        """Return a body with members taken out, and which; None where it cannot be read, so that nobody knows what it holds."""
        if not self.members:
            return body, []
        text = readable(body)
        if text is None:
            return None, [_ANY]
        found: dict[str, None] = {}

        def change(path: Path, _: str | None) -> str | None:
            for member in self.members:
                if _fits(path, member):
                    found[".".join(path)] = None
                    return f'"{REDACTED}"'
            return None

        return rewritten(text, change).encode("utf-8"), list(found)


def parse_redaction(texts: Sequence[str]) -> Redaction:
    """Read what `--redact` takes: `header:NAME`, or the path of a member of the body such as `data.user.email`.

    Raises:
        ValueError: one of them is neither.
    """
    headers, members = set(_ALWAYS), []
    for text in texts:
        name = text.removeprefix(_HEADER)
        if not name or (name == text and "" in text.split(".")):
            raise ValueError(f"--redact: give a member such as data.user.email, or header:NAME, not {shown(text)}.")
        if name == text:
            members.append(tuple(text.split(".")))
        else:
            headers.add(name.strip().lower())
    return Redaction(headers=frozenset(headers), members=tuple(members))


def in_texts(value: Any, change: Callable[[str], str]) -> Any:
    """Return a value of mappings and lists with every text in it changed; the names of members stay."""
    if isinstance(value, Mapping):
        return {name: in_texts(each, change) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [in_texts(each, change) for each in value]
    return change(value) if isinstance(value, str) else value


def _fits(path: Path, member: Path) -> bool:
    return len(path) == len(member) and all(wanted in {_ANY, step} for wanted, step in zip(member, path, strict=True))
