"""When two paths are the same one: percent-decoded as far as RFC 3986 allows, in whatever form a request names its target."""

from __future__ import annotations

import re

_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_TO_RESPELL = re.compile(rb"%([0-9A-Fa-f]{2})|[^A-Za-z0-9._~:/\[\]@!$&'()*+,;=-]")
_ABSOLUTE = re.compile(r"https?://[^/?#]*", re.IGNORECASE)


def path_of(target: str) -> str | None:
    """Return the path of a request's target, as `normal_path` writes it; None if it names none, as `*` and `host:443` do.

    Args:
        target: The target of the request line, which may be a whole URL (RFC 9112, 3.2.2). Its query does not count.
    """
    whole_url = _ABSOLUTE.match(target)
    path = re.split(r"[?#]", target[whole_url.end() :] if whole_url else target, maxsplit=1)[0]
    if whole_url and not path:
        return "/"
    return normal_path(path) if path.startswith("/") else None


def normal_path(path: str) -> str:
    """Return the one spelling of a path: two paths that RFC 3986 calls equivalent give the same text (6.2.2.1, 6.2.2.2).

    Letters, digits, `-`, `.`, `_` and `~` stand as they are, delimiters as they came, all else as `%` and two capital digits. So
    `/%77ebhooks` is `/webhooks`, and `/a%2Fb` is not `/a/b`. Dots and empty segments are left alone.

    Args:
        path: What stands before a query, percent-encoded or not.
    """
    return _TO_RESPELL.sub(_respelled, path.encode("utf-8", "surrogateescape")).decode("ascii")


def _respelled(found: re.Match[bytes]) -> bytes:
    digits = found[1]
    byte = int(digits, 16) if digits else found[0][0]
    return bytes((byte,)) if byte in _UNRESERVED else b"%%%02X" % byte
