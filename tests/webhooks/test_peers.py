"""Addresses behind proxies, networks, and quotas."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webhooks.ingress.peers import Networks, PeerQuotas, quota_keys, read_address, resolve_client

PROXY = ip_address("10.0.0.1")
TRUSTED = Networks(["10.0.0.0/8"])


def test_without_trusted_proxies_the_forwarded_address_is_ignored() -> None:
    client = resolve_client(ip_address("203.0.113.9"), ["198.51.100.7"], Networks())
    assert (str(client.address), client.forwarded) == ("203.0.113.9", False)


def test_a_stranger_cannot_forward_even_where_proxies_are_trusted() -> None:
    client = resolve_client(ip_address("203.0.113.9"), ["198.51.100.7"], TRUSTED)
    assert (str(client.address), client.forwarded) == ("203.0.113.9", False)


def test_the_last_hop_of_a_trusted_proxy_is_the_client_and_earlier_ones_are_ignored() -> None:
    client = resolve_client(PROXY, ["192.0.2.1, 198.51.100.7"], TRUSTED)
    assert (str(client.address), client.forwarded) == ("198.51.100.7", True)


def test_several_trusted_hops_are_walked_from_the_right_over_several_headers() -> None:
    client = resolve_client(PROXY, ["192.0.2.1, 198.51.100.7", "10.9.9.9", "10.8.8.8, 10.7.7.7"], TRUSTED)
    assert str(client.address) == "198.51.100.7"


def test_only_trusted_hops_leave_the_leftmost_of_them() -> None:
    assert str(resolve_client(PROXY, ["10.3.3.3, 10.2.2.2"], TRUSTED).address) == "10.3.3.3"


def test_a_trusted_proxy_that_forwards_no_address_is_the_client() -> None:
    assert resolve_client(PROXY, [], TRUSTED).address == PROXY


def test_an_invalid_hop_leaves_the_client_unknown() -> None:
    assert resolve_client(PROXY, ["198.51.100.7, unknown"], TRUSTED).address is None


def test_a_unix_socket_is_trusted_only_by_name() -> None:
    assert resolve_client(None, ["198.51.100.7"], Networks()).address is None
    assert not resolve_client(None, ["198.51.100.7"], TRUSTED).forwarded
    assert str(resolve_client(None, ["198.51.100.7"], Networks(["unix"])).address) == "198.51.100.7"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        (" 192.0.2.1:443 ", "192.0.2.1"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ('"[2001:db8::1]"', "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
    ],
)
def test_addresses_are_read_with_and_without_ports(text: str, address: str) -> None:
    assert read_address(text) == ip_address(address)


def test_a_text_too_long_for_an_address_is_not_one() -> None:
    assert read_address("1" * 65) is None


@pytest.mark.slow
@given(st.lists(st.text(max_size=80), max_size=5))
def test_any_forwarded_header_gives_a_client(headers: list[str]) -> None:
    assert resolve_client(PROXY, headers, TRUSTED).forwarded


def test_networks_hold_both_spellings_of_an_ipv4_address() -> None:
    networks = Networks(["192.0.2.0/24", "::ffff:198.51.100.0/120", "2001:db8::/32"])
    for inside in ("192.0.2.77", "198.51.100.7", "2001:db8::9"):
        assert ip_address(inside) in networks
    for outside in ("192.0.3.1", "198.51.101.7", "2001:db9::9"):
        assert ip_address(outside) not in networks


def test_no_networks_are_false_and_contain_no_address() -> None:
    assert not Networks()
    assert Networks(["unix"])
    assert ip_address("192.0.2.1") not in Networks()


@pytest.mark.parametrize("text", ["", "10.0.0.1/8", "example.com", "10.0.0.0/33"])
def test_an_invalid_network_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^networks: "):
        Networks([text])


def test_ipv6_neighbours_count_as_one_peer_and_ipv4_addresses_do_not() -> None:
    assert quota_keys(ip_address("2001:db8::1")) == quota_keys(ip_address("2001:db8::2"))
    assert quota_keys(ip_address("2001:db8:0:1::1"))[0] != quota_keys(ip_address("2001:db8::1"))[0]
    keys = [key for text in ("192.0.2.1", "192.0.2.2", "::1", "::2:0:0:0:1") for key in quota_keys(ip_address(text))[:1]]
    assert len({*keys, *quota_keys(None)}) == 5


def test_the_networks_of_a_site_count_together_too_and_sites_apart() -> None:
    one, other, elsewhere = (quota_keys(ip_address(text)) for text in ("2001:db8::1", "2001:db8:0:ff::1", "2001:db8:0:100::1"))
    assert one[0] != other[0]
    assert one[1] == other[1] != elsewhere[1]
    assert {*one, *elsewhere}.isdisjoint(quota_keys(ip_address("255.255.255.255")))


def test_a_quota_is_full_at_its_limit_and_forgets_removed_members() -> None:
    quotas: PeerQuotas[str] = PeerQuotas(2)
    for member in ("first", "second"):
        assert quotas.members_if_full([7]) is None
        quotas.add([7], member)
    assert list(quotas.members_if_full([7]) or ()) == ["first", "second"]
    assert quotas.members_if_full([8]) is None
    quotas.remove([7], "first")
    quotas.remove([7], "first")
    assert quotas.members_if_full([7]) is None
    quotas.remove([7, 8], "second")
    assert len(quotas) == 0


def test_a_site_has_four_times_the_quota_of_a_network() -> None:
    quotas: PeerQuotas[int] = PeerQuotas(2)
    for number in range(8):
        keys = quota_keys(ip_address(f"2001:db8:0:{number}::1"))
        assert quotas.members_if_full(keys) is None
        quotas.add(keys, number)
    assert list(quotas.members_if_full(quota_keys(ip_address("2001:db8:0:9::1"))) or ()) == list(range(8))
