"""Peers: addresses behind trusted proxies, lists of networks, and per-peer quotas."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Generic, TypeVar

from attrs import frozen

from rewards_core.validation import check_iterable, check_str, shown

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

UNIX = "unix"
_MAX_ADDRESS_LENGTH = 64
_SITES = 1 << 65
_NETWORKS_PER_SITE = 4

M = TypeVar("M")


class Networks:
    """A set of networks; an IPv4 address written as IPv6 is the same address.

    Args:
        texts: Addresses or CIDR ranges such as `"10.0.0.0/8"`; `"unix"` stands for peers of a unix socket.
        name: The argument's name in error messages.

    Raises:
        TypeError: `texts` is not a list of str.
        ValueError: one of them is not a network, or has host bits set.
    """

    __slots__ = ("_networks", "unix")

    def __init__(self, texts: Iterable[str] = (), name: str = "networks") -> None:
        check_iterable(texts, name, "a list of addresses or CIDR ranges")
        stripped = [check_str(text, name).strip() for text in texts]
        self.unix = UNIX in stripped
        self._networks = tuple(_network(text, name) for text in stripped if text != UNIX)

    def __bool__(self) -> bool:
        return self.unix or bool(self._networks)

    def __contains__(self, address: Address | None) -> bool:
        if address is None:
            return self.unix
        return any(address in network for network in self._networks)


@frozen(kw_only=True)
class Client:
    """The origin of a request, behind trusted proxies.

    Attributes:
        address: The client's address; None for a unix socket, and if a trusted proxy sent no valid address.
        forwarded: Whether the request came through a trusted proxy, whose connections are not the client's.
    """

    address: Address | None
    forwarded: bool


def read_address(text: str) -> Address | None:
    """Return the address in a text, with or without a port or brackets; None if there is none."""
    text = text.strip().strip('"')
    if len(text) > _MAX_ADDRESS_LENGTH:
        return None
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def resolve_client(peer: Address | None, forwarded_for: Sequence[str], trusted: Networks) -> Client:
    """Return the origin of a request.

    Args:
        peer: The address at the other end of the connection; None for a unix socket.
        forwarded_for: All `X-Forwarded-For` headers, in order.
        trusted: The trusted proxies. The list is read from the right, because each hop appends the address before it: the first
            address that is not a trusted proxy is the client, and anything left of it may be forged.
    """
    if not trusted or peer not in trusted:
        return Client(address=peer, forwarded=False)
    hops = [hop for header in forwarded_for for hop in header.split(",")]
    address = peer
    for hop in reversed(hops):
        address = read_address(hop)
        if address is None or address not in trusted:
            break
    return Client(address=address, forwarded=True)


def quota_keys(address: Address | None) -> tuple[int, ...]:
    """Return the quotas that a peer's connections count against.

    For IPv4 that is the address; for IPv6 the /64, which one host may use in full, and the /56, which providers assign to one
    customer.
    """
    if address is None:
        return (-1,)
    if isinstance(address, IPv6Address):
        return (int(address) >> 64) + (1 << 64), (int(address) >> 72) + _SITES
    return (int(address),)


class PeerQuotas(Generic[M]):
    """Count what each peer holds; a peer that holds nothing takes no memory.

    Args:
        max_per_peer: The quota of one peer; a /56 has four times as much, for hosts in several of its networks.
    """

    __slots__ = ("_held", "_max_per_peer")

    def __init__(self, max_per_peer: int) -> None:
        self._max_per_peer = max_per_peer
        self._held: dict[int, dict[M, None]] = {}

    def __len__(self) -> int:
        return len(self._held)

    def count(self, keys: Iterable[int]) -> int:
        """Return how many members count against the first of these quotas."""
        return next((len(self._held.get(key, ())) for key in keys), 0)

    def members_if_full(self, keys: Iterable[int]) -> Iterable[M] | None:
        """Return the members of the first of these quotas that is used up, oldest first; None if none is."""
        for key in keys:
            held = self._held.get(key, ())
            if len(held) >= (self._max_per_peer if key < _SITES else self._max_per_peer * _NETWORKS_PER_SITE):
                return list(held)
        return None

    def add(self, keys: Iterable[int], member: M) -> None:
        """Count a member against each of these quotas."""
        for key in keys:
            self._held.setdefault(key, {})[member] = None

    def remove(self, keys: Iterable[int], member: M) -> None:
        """Stop counting a member, if it is counted."""
        for key in keys:
            held = self._held.get(key)
            if held is not None:
                held.pop(member, None)
                if not held:
                    del self._held[key]


def _network(text: str, name: str) -> Network:
    try:
        network = ip_network(text)
    except ValueError as problem:
        raise ValueError(f'{name}: give an address or a CIDR range such as "10.0.0.0/8", not {shown(text)}: {problem}') from None
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    if mapped is not None and network.prefixlen >= 96:
        return IPv4Network((mapped, network.prefixlen - 96))
    return network
