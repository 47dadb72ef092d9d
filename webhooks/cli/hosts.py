"""Which requests to the admin port mean that port, by what their headers say of where they go and where they come from.

A page on a stranger's site can make the name of that site lead to an address in here (DNS rebinding). The reader's browser then
lets the page read what is answered under that name. The name still stands in `Host`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_address

from webhooks.ingress.peers import Address, read_address

_HTTP = 80
_LONGEST = 261  # the longest name of the domain name system with a port
_NAMED = re.compile(r"(?:\[([0-9A-Fa-f:.]{2,45})\]|([A-Za-z0-9._-]{1,254}))(?::([0-9]{1,5}))?")
_OWN_SITE = frozenset({"same-origin", "none"})

Named = tuple[str | Address, int | None]


class Hosts:
    """The names and addresses that a port is asked by.

    Args:
        bound: The host it listens on.
        allowed: Further names or addresses, each alone, for whatever port, or with one.

    Raises:
        ValueError: one of `allowed` cannot stand in a `Host` header.
    """

    def __init__(self, bound: str, allowed: Iterable[str] = ()) -> None:
        self._names = {"localhost", ip_address("127.0.0.1"), ip_address("::1")}
        own = _read(f"[{bound}]" if ":" in bound else bound)
        if own is not None:
            self._names.add(own[0])
        self._allowed = {_checked(each) for each in allowed}

    def hold(self, host: str, local: object) -> bool:
        """Return whether a `Host` header means this port.

        Args:
            host: The header.
            local: The address at this end of the connection, as the socket tells it.
        """
        named = _read(host)
        if named is None:
            return False
        name, port = named
        if (name, port) in self._allowed or (name, None) in self._allowed:
            return True
        if not isinstance(local, tuple):
            return False
        return (name in self._names or name == read_address(local[0])) and (_HTTP if port is None else port) == local[1]


def is_address(host: str) -> bool:
    """Return whether a `Host` header is an address and no name: only a name can be rebound."""
    named = _read(host)
    return named is not None and not isinstance(named[0], str)


def from_another_site(fetch_site: str | None) -> bool:
    """Return whether a `Sec-Fetch-Site` header tells that a page of another site asks; what is no browser sends none."""
    return fetch_site is not None and fetch_site.strip().lower() not in _OWN_SITE


def _read(host: str) -> Named | None:
    found = _NAMED.fullmatch(host) if len(host) <= _LONGEST else None
    if found is None:
        return None
    address = read_address(f"[{found[1]}]") if found[1] else read_address(found[2])
    if found[1] and address is None:
        return None
    name = address if address is not None else found[2].lower().removesuffix(".")
    return name, None if found[3] is None else int(found[3])


def _checked(text: str) -> Named:
    named = _read(text)
    if named is None:
        raise ValueError(f"--admin-allow-host: {text[:80]!a} is no name of a host. Give one such as admin.internal.")
    return named
