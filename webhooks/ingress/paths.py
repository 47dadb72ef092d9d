"""Normal form of request paths: percent-decoded as far as RFC 3986 allows, for every form of request target."""

from __future__ import annotations

import re

_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_TO_ENCODE = re.compile(rb"%([0-9A-Fa-f]{2})|[^A-Za-z0-9._~:/\[\]@!$&'()*+,;=-]")
_ORIGIN = re.compile(r"https?://[^/?#]*", re.IGNORECASE)


def path_of(target: str) -> str | None:
    """Return the normal path of a request target; None if it has none, such as `*` and `host:443`.

    Args:
        target: The target of the request line, which may be a whole URL (RFC 9112, 3.2.2). The query is ignored.
    """
    origin = _ORIGIN.match(target)
    path = re.split(r"[?#]", target[origin.end() :] if origin else target, maxsplit=1)[0]
    if origin and not path:
        return "/"
    return normal_path(path) if path.startswith("/") else None


def normal_path(path: str) -> str:
    """Return the normal form of a path, the same for paths that RFC 3986 calls equivalent (6.2.2.1, 6.2.2.2).

    Letters, digits, `-`, `.`, `_` and `~` are decoded, delimiters are left as they are, and all other bytes become `%` and two
    upper-case digits. So `/%77ebhooks` is `/webhooks`, and `/a%2Fb` is not `/a/b`. Dots and empty segments are left alone.

    Args:
        path: A path without query, percent-encoded or not.
    """
    return _TO_ENCODE.sub(_encode, path.encode("utf-8", "surrogateescape")).decode("ascii")


def _encode(found: re.Match[bytes]) -> bytes:
    digits = found[1]
    byte = int(digits, 16) if digits else found[0][0]
    return bytes((byte,)) if byte in _UNRESERVED else b"%%%02X" % byte
