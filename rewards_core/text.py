"""Text for messages: untrusted text on one line, counts and lists."""

import re
from collections.abc import Collection
from json import dumps
from urllib.parse import quote

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]+")


def one_line(text: str, limit: int = 300) -> str:
    """Return an untrusted text as one printable line of at most `limit` characters."""
    line = _CONTROL.sub(" ", text).strip()
    return line if len(line) <= limit else line[: limit - 1] + "…"


def hide(text: str, secrets: tuple[str, ...], limit: int = 300) -> str:
    """Return an untrusted text as one line, with each secret replaced before the line is cut."""
    for secret in secrets:
        for written in (secret, dumps(secret)[1:-1], quote(secret, safe="")):  # plain, as inside JSON, and as inside a URL
            text = text.replace(written, "[hidden]")
    return one_line(text, limit)


def counted(count: int, one: str, many: str = "") -> str:
    """Return a count in words: `1 row` or `1,200 rows`; `many` is an irregular plural."""
    return f"1 {one}" if count == 1 else f"{count:,} {many or one + 's'}"


def listed(names: Collection[str]) -> str:
    """Return names as a list in words: `A`, `A and B`, `A, B and C`."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
