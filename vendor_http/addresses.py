"""Which base URLs a client may talk to."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

_UNFIT = re.compile(r"[\x00-\x20\x7f-\xa0\\\ud800-\udfff]")


def check_base_url(url: str, *, name: str = "base_url", allow_insecure: bool = False) -> str:
    """Return a base URL without its closing slash, if credentials may be sent there.

    Args:
        url: `https://host[:port][/path]`.
        name: What the caller calls it, for messages.
        allow_insecure: Whether plain http may be used outside loopback.

    Raises:
        TypeError: it is not a str.
        ValueError: it is no such URL, carries credentials, a query or a fragment, or is plain http outside loopback.
    """
    if not isinstance(url, str):
        raise TypeError(f"{name}: expected a URL as str, got {type(url).__name__}; give one like 'https://api.example.com/v1'")
    try:
        if _UNFIT.search(url):
            raise ValueError
        parts = urlsplit(url)
        host = parts.hostname
        parts.port  # noqa: B018 - read to learn whether it is a port
    except ValueError:
        host = None
    if not host or parts.scheme not in {"http", "https"}:
        raise ValueError(
            f"{name}: expected an absolute http or https URL, got something else; give one like 'https://api.example.com/v1'"
        )
    if "@" in parts.netloc:
        raise ValueError(
            f"{name}: expected a URL without credentials, got user information before {host!a}; pass credentials as arguments"
        )
    if "?" in url or "#" in url:
        raise ValueError(f"{name}: expected a URL that ends with its path, got a query or fragment after {host!a}; leave it out")
    if parts.scheme == "http" and not allow_insecure and not is_loopback(host):
        raise ValueError(
            f"{name}: expected https, got http to {host!a}, which would show the credentials on the way; "
            "give an https URL, or allow_insecure=True if the network between is yours"
        )
    return url.rstrip("/")


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is this machine by definition."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
