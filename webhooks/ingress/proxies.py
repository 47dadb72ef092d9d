"""Detection of proxies that are not configured as trusted, before their clients evict each other at the proxy's quota."""

from __future__ import annotations

import logging
from collections.abc import Container

from webhooks.ingress.peers import UNIX, Address

logger = logging.getLogger("webhooks.listener")

PROXY_HEADERS = ("X-Forwarded-For", "Forwarded", "X-Real-IP", "Via")
"""Headers that proxies add to a request."""

_MAX_WARNINGS = 8
_MAX_LIKELY_WARNINGS = 64
"""For local peers, and peers that hold half of their quota: other peers cannot use up these warnings."""

_BEYOND = "beyond that, each new connection closes another connection of this address"


class ProxyDetector:
    """Warn once about each untrusted peer that looks like a proxy.

    Two of three conditions must hold: the peer is local or in a private network; its request carries headers that proxies add; it
    holds half of the `max_per_peer` connections of one address. One is not enough, because strangers can send any header.
    `instead` replaces advice to give options of `webhook-listener`.
    """

    def __init__(self, max_per_peer: int, instead: str = "") -> None:
        self._max_per_peer = max_per_peer
        self._instead = instead
        self._warned: set[Address | None] = set()

    def check(self, peer: Address | None, held: int, headers: Container[str] = ()) -> None:
        """Check a peer that has connected or sent a request, and holds this many connections; None is a unix socket."""
        crowded = 2 * held >= self._max_per_peer
        likely = crowded or peer is None or peer.is_loopback
        if peer in self._warned or len(self._warned) >= (_MAX_LIKELY_WARNINGS if likely else _MAX_WARNINGS):
            return
        header = next((name for name in PROXY_HEADERS if name in headers), None)
        near = peer is None or peer.is_private
        if near + crowded + (header is not None) >= 2:
            self._warned.add(peer)
            logger.warning("%s", self._warning(peer, header, held))

    def _warning(self, peer: Address | None, header: str | None, held: int) -> str:
        what, cure = self._told(peer, header, held)
        return f"{what} {self._instead or f'Restart with --trusted-proxy {UNIX if peer is None else peer} {cure}'}"

    def _told(self, peer: Address | None, header: str | None, held: int) -> tuple[str, str]:
        if peer is None:
            what = f"Requests over the unix socket carry {header}, so a proxy is in front. Its clients cannot be told apart."
            return what, "to apply --allow and --max-per-peer to each of them."
        quota = f"the {self._max_per_peer} connections that one address may have"
        if header is None:
            return f"{peer} holds {held} of {quota}; {_BEYOND}.", "if it is a proxy, or raise --max-per-peer."
        if peer.is_loopback:
            what = (
                f"Requests from {peer} carry {header}, so it is a proxy, and all its clients together share {quota}; {_BEYOND}."
            )
            return what, "to count its clients one by one."
        if peer.is_private:
            what = f"Requests from {peer} carry {header}, as those of a proxy do. If it is one, all its clients together share"
            return f"{what} {quota}; {_BEYOND}.", "if it is your proxy, not otherwise."
        what = f"{peer} holds {held} of {quota}, and its requests carry {header}; {_BEYOND}."
        return what, "if it is your proxy, not otherwise."
