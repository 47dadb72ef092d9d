"""Who is at the other end: addresses through trusted proxies, allow-lists, and what each peer holds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Generic, TypeVar

from attrs import frozen

from rewards_core.validation import check_iterable, check_str, shown

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

UNIX = "unix"
_LONGEST_ADDRESS = 64
_SITES = 1 << 65
_HOSTS_OF_A_SITE = 4

M = TypeVar("M")


class Networks:
    """Hold a set of networks; an IPv4 address written as IPv6 is the same address.

    Args:
        texts: Addresses or CIDR ranges such as `"10.0.0.0/8"`; `"unix"` stands for peers of a unix socket.
        name: What the caller calls them, for messages.

    Raises:
        TypeError: `texts` is no list of str.
        ValueError: one of them is no network, or has host bits set.
    """

    __slots__ = ("_networks", "unix")

    def __init__(self, texts: Iterable[str] = (), name: str = "networks") -> None:
        check_iterable(texts, name, "a list of addresses or CIDR ranges")
        wanted = [check_str(text, name).strip() for text in texts]
        self.unix = UNIX in wanted
        self._networks = tuple(_network(text, name) for text in wanted if text != UNIX)

    def __bool__(self) -> bool:
        return self.unix or bool(self._networks)

    def __contains__(self, address: Address | None) -> bool:
        if address is None:
            return self.unix
        return any(address in network for network in self._networks)


@frozen(kw_only=True)
class Client:
    """Where a request comes from, after trusted proxies.

    Attributes:
        address: The client's address; None for a unix socket, and where a trusted proxy named none that can be read.
        forwarded: Whether a trusted proxy stands between, so that its connections are not the client's own.
    """

    address: Address | None
    forwarded: bool


def read_address(text: str) -> Address | None:
    """Return the address in a text, with or without a port or brackets, or None where there is none."""
    text = text.strip().strip('"')
    if len(text) > _LONGEST_ADDRESS:
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
    """Return where a request comes from.

    Args:
        peer: The address at the other end of the connection, None for a unix socket.
        forwarded_for: Every `X-Forwarded-For` header, in the order of arrival.
        trusted: The proxies whose word is taken. It is read from the right, because each hop wrote who came before it: the first
            address that is no trusted proxy is the client, and what stands left of it may be invented.
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


def peer_keys(address: Address | None) -> tuple[int, ...]:
    """Return the shares that a peer's connections count in.

    That is its address; for IPv6 its /64, in which a single host may roam, and its /56, which a provider gives to one customer.
    """
    if address is None:
        return (-1,)
    if isinstance(address, IPv6Address):
        return (int(address) >> 64) + (1 << 64), (int(address) >> 72) + _SITES
    return (int(address),)


class Shares(Generic[M]):
    """Know what each peer holds at present; a peer that holds nothing takes no memory.

    Args:
        most: What one peer may hold; a /56 may hold four times as much, for the hosts of several networks in it.
    """

    __slots__ = ("_held", "_most")

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: dict[int, dict[M, None]] = {}

    def __len__(self) -> int:
        return len(self._held)

    def held(self, keys: Iterable[int]) -> int:
        """Return how much is held in the first of these shares."""
        return next((len(self._held.get(key, ())) for key in keys), 0)

    def crowd(self, keys: Iterable[int]) -> Iterable[M] | None:
        """Return what is held in the first of these shares that is full, the oldest first; None if there is room in all."""
        for key in keys:
            held = self._held.get(key, ())
            if len(held) >= (self._most if key < _SITES else self._most * _HOSTS_OF_A_SITE):
                return list(held)
        return None

    def enter(self, keys: Iterable[int], member: M) -> None:
        """Count one more in each of these shares."""
        for key in keys:
            self._held.setdefault(key, {})[member] = None

    def leave(self, keys: Iterable[int], member: M) -> None:
        """Count one less in each of these shares; nothing happens where it is not counted."""
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
