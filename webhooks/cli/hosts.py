"""Host and origin checks of the admin port.

A page on a stranger's site can make the name of that site resolve to an internal address (DNS rebinding). The browser then lets
the page read responses under that name. But the name still stands in `Host`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_address

from webhooks.ingress.peers import Address, read_address

_HTTP = 80
_MAX_HOST = 261  # the longest DNS name with a port
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]{2,45})\]|([A-Za-z0-9._-]{1,254}))(?::([0-9]{1,5}))?")
_OWN_SITE = frozenset({"same-origin", "none"})

Host = tuple[str | Address, int | None]


class AllowedHosts:
    """The host names and addresses of a port.

    Args:
        bound: The host it listens on.
        allowed: Further names or addresses, with a port, or without for any port.

    Raises:
        ValueError: one of `allowed` is not a valid `Host` header.
    """

    def __init__(self, bound: str, allowed: Iterable[str] = ()) -> None:
        self._own = {"localhost", ip_address("127.0.0.1"), ip_address("::1")}
        own = _parse(f"[{bound}]" if ":" in bound else bound)
        if own is not None:
            self._own.add(own[0])
        self._allowed = {_checked(each) for each in allowed}

    def allow(self, host: str, local: object) -> bool:
        """Return whether a `Host` header names this port; `local` is the socket's own address as the socket returns it."""
        parsed = _parse(host)
        if parsed is None:
            return False
        name, port = parsed
        if (name, port) in self._allowed or (name, None) in self._allowed:
            return True
        if not isinstance(local, tuple):
            return False
        return (name in self._own or name == read_address(local[0])) and (_HTTP if port is None else port) == local[1]


def is_address(host: str) -> bool:
    """Return whether a `Host` header is an address: only names can be rebound."""
    parsed = _parse(host)
    return parsed is not None and not isinstance(parsed[0], str)


def from_another_site(fetch_site: str | None) -> bool:
    """Return whether a `Sec-Fetch-Site` header is that of another site's page; clients other than browsers send none."""
    return fetch_site is not None and fetch_site.strip().lower() not in _OWN_SITE


def _parse(host: str) -> Host | None:
    found = _HOST.fullmatch(host) if len(host) <= _MAX_HOST else None
    if found is None:
        return None
    address = read_address(f"[{found[1]}]") if found[1] else read_address(found[2])
    if found[1] and address is None:
        return None
    name = address if address is not None else found[2].lower().removesuffix(".")
    return name, None if found[3] is None else int(found[3])


def _checked(text: str) -> Host:
    parsed = _parse(text)
    if parsed is None:
        raise ValueError(f"--admin-allow-host: {text[:80]!a} is not a host name. Give one such as admin.internal.")
    return parsed
