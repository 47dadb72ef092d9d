"""Say that a proxy stands in front which the listener was not told of, before its clients cut each other off at its share."""

from __future__ import annotations

import logging
from collections.abc import Container

from webhooks.ingress.peers import UNIX, Address

logger = logging.getLogger("webhooks.listener")

WRITTEN_BY_PROXIES = ("X-Forwarded-For", "Forwarded", "X-Real-IP", "Via")
"""Headers of a request that came through a proxy."""

_MAX_TOLD = 8
_MAX_LIKELY = 64
"""Of peers on this machine, and of those that hold half of their share: no crowd of neighbours keeps these from being named."""

_BEYOND = "beyond that, each new connection cuts off another of this address"


class UntoldProxies:
    """Look at requests of peers that are not trusted, and warn once about each that looks like a proxy.

    Two of three must hold: it is on this machine or in a private network; its request carries what proxies write; it holds half
    of what one address may hold. Strangers write what they like.

    Args:
        limit: How many connections one address may hold.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._told: set[Address | None] = set()

    def look(self, peer: Address | None, held: int, headers: Container[str] = ()) -> None:
        """Look at a peer that has connected, or that sent a request.

        Args:
            peer: Its address, None over a unix socket.
            held: How many connections it has now.
            headers: Those of the request.
        """
        crowded = 2 * held >= self._limit
        likely = crowded or peer is None or peer.is_loopback
        if peer in self._told or len(self._told) >= (_MAX_LIKELY if likely else _MAX_TOLD):
            return
        header = next((name for name in WRITTEN_BY_PROXIES if name in headers), None)
        near = peer is None or peer.is_private
        if near + crowded + (header is not None) >= 2:
            self._told.add(peer)
            logger.warning("%s", self._words(peer, header, held))

    def _words(self, peer: Address | None, header: str | None, held: int) -> str:
        if peer is None:
            return (
                f"Requests over the unix socket carry {header}, so a proxy is in front. Its clients cannot be told apart. "
                f"Restart with --trusted-proxy {UNIX} to hold each of them to --allow and --max-per-peer."
            )
        share = f"the {self._limit} connections that one address may have"
        restart = f"Restart with --trusted-proxy {peer}"
        if header is None:
            return f"{peer} holds {held} of {share}; {_BEYOND}. {restart} if it is a proxy, or raise --max-per-peer."
        if peer.is_loopback:
            return (
                f"Requests from {peer} carry {header}, so it is a proxy, and all its clients together share {share}; "
                f"{_BEYOND}. {restart} to count its clients one by one."
            )
        if peer.is_private:
            return (
                f"Requests from {peer} carry {header}, as those of a proxy do. If it is one, all its clients together share "
                f"{share}; {_BEYOND}. {restart} if it is your proxy, not otherwise."
            )
        return (
            f"{peer} holds {held} of {share}, and its requests carry {header}; {_BEYOND}. "
            f"{restart} if it is your proxy, not otherwise."
        )
