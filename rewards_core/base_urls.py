"""Base URLs to which credentials may be sent."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from rewards_core.secrets import shielded
from rewards_core.validation import check_flag, check_str

_unfit_for_url = re.compile(r"[\x00-\x20\x7f-\xa0\\\ud800-\udfff]").search


@shielded
def check_base_url(
    url: str, *, name: str = "base_url", allow_insecure: bool = False, allowed_by: str = "allow_insecure=True"
) -> str:
    """Return a base URL without its closing slash, if credentials may be sent to it.

    Args:
        url: `https://host[:port][/path]`.
        name: The argument, for messages.
        allow_insecure: Whether plain http may be used outside loopback.
        allowed_by: The option that allows it, for messages.
    """
    check_flag(allow_insecure, "allow_insecure")
    url = check_str(url, name)
    try:
        if _unfit_for_url(url):
            raise ValueError
        parts = urlsplit(url)
        host = parts.hostname
        parts.port  # noqa: B018 - raises for an invalid port
    except ValueError:
        host = None
    if not host or parts.scheme not in {"http", "https"}:
        raise ValueError(f"{name}: give an absolute http or https URL such as 'https://api.example.com/v1'.")
    if "@" in parts.netloc:
        raise ValueError(
            f"{name}: there are credentials before {host!a}. Give the URL without them, and the credentials as arguments."
        )
    if "?" in url or "#" in url:
        raise ValueError(f"{name}: there is a query or fragment after {host!a}. Give a URL that ends with its path.")
    if parts.scheme == "http" and not allow_insecure and not is_loopback(host):
        raise ValueError(
            f"{name}: http to {host!a} would show the credentials to the network. Give an https URL, or {allowed_by} if the "
            "network is yours."
        )
    return url.rstrip("/")


@shielded
def url_from(environ: Mapping[str, str], name: str, *, allow_insecure: bool = False) -> str | None:
    """Return the base URL in an environment variable, None if it is missing or empty; a `ValueError` shows nothing of it."""
    url = environ.get(name)
    if not url:
        return None
    try:
        return check_base_url(url, name=name, allow_insecure=allow_insecure)
    except ValueError:
        if "@" in url:
            why = "holds a user name or password. Remove them: credentials have variables of their own."
        elif url.lower().startswith("http://"):
            why = "begins with http://, which would show the credentials to the network. Use https://."
        else:
            why = "is not a base URL. Set it to one such as https://api.example.com/v1."
    raise ValueError(f"{name} {why}")


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is this machine by definition, without a look-up."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
