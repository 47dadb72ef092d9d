"""Words for people: a stranger's text on one line, and a number of things."""

import re
from json import dumps
from urllib.parse import quote

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]+")


def one_line(text: str, limit: int = 300) -> str:
    """Return a stranger's text as one printable line of at most `limit` characters."""
    line = _CONTROL.sub(" ", text).strip()
    return line if len(line) <= limit else line[: limit - 1] + "…"


def hide(text: str, secrets: tuple[str, ...], limit: int = 300) -> str:
    """Return a stranger's text as one line, with every occurrence of each secret replaced before it is cut."""
    for secret in secrets:
        for written in (secret, dumps(secret)[1:-1], quote(secret, safe="")):  # plain, as inside JSON, and as inside a URL
            text = text.replace(written, "[hidden]")
    return one_line(text, limit)


def counted(count: int, one: str, many: str = "") -> str:
    """Return a number of things in words: `1 row` or `1,200 rows`; where an s is not enough, `many` is the other word."""
    return f"1 {one}" if count == 1 else f"{count:,} {many or one + 's'}"
