"""The table of node addresses, by version: upstream's cases (node_address_test.go) and more; the MTU beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_address, ip_interface

import pytest
from niclab.cilium.selection.addresses import NodeAddress, is_public, node_addresses
from niclab.cilium.selection.devices import select
from niclab.cilium.selection.links import Link, LinkAddress, link_addresses, links_of
from niclab.cilium.selection.mtu import device_mtu, route_mtu
from niclab.cilium.version import VERSIONS, Version
from niclab.net.route import Address, Family, Scope, parse_route
from niclab.settings import Friendly, NodeView
from niclab.settings.flags import Values
from niclab.topology.model import Nic, Node

from tests.support.selecting import (
    FROM_1_19,
    FROM_1_20,
    UP_TO_1_18,
    V16,
    V17,
    V18,
    V19,
    V20,
    V21,
    addresses,
    link,
    lo,
    view,
)

every_version = pytest.mark.parametrize("version", VERSIONS, ids=str)
NODE_IPS: Mapping[Family, Address] = {4: ip_address("172.16.0.1"), 6: ip_address("2222::1")}
HOST = Link(
    "cilium_host",
    2,
    "veth",
    addresses=(LinkAddress(ip_interface("9.9.9.9/32")), LinkAddress(ip_interface("9.9.9.8/32"), "link")),
)


def one(text: str, scope: Scope = "global", *, secondary: bool = False) -> LinkAddress:
    return LinkAddress(ip_interface(text), scope, secondary)


def table(
    version: Version,
    links: Sequence[Link],
    *,
    node_ips: Mapping[Family, Address] = NODE_IPS,
    routes: Sequence[str] = (),
    **friendly: Friendly,
) -> list[NodeAddress]:
    """The table with the link `test` selected."""
    settings = view(**{"devices": "test", **friendly})
    devices = select(links, (), settings, version)
    parsed = [parse_route(text) for text in routes]
    return list(node_addresses(links, devices, settings, node_ips, version, routes=parsed))


def of(rows: Iterable[NodeAddress], device: str, flag: str = "") -> set[str]:
    return {str(row.address) for row in rows if row.device == device and (not flag or getattr(row, flag))}


def with_own(version: Version, *own: LinkAddress, node_ips: Mapping[Family, Address] = NODE_IPS) -> list[NodeAddress]:
    return table(version, [lo(), HOST, Link("test", 3, "device", addresses=own)], node_ips=node_ips)


@every_version
@pytest.mark.parametrize(
    ("own", "primary", "node_port"),
    [
        ([one("10.0.0.1/24", "site")], {"10.0.0.1"}, {"10.0.0.1"}),
        ([one("2001:db8::1/64", "site")], {"2001:db8::1"}, {"2001:db8::1"}),
        (
            [one("10.0.0.1/24", "site"), one("2001:db8::1/64")],
            {"10.0.0.1", "2001:db8::1"},
            {"10.0.0.1", "2001:db8::1"},
        ),
        ([one("10.0.0.1/24"), one("10.0.0.2/24", secondary=True), one("1.1.1.1/24")], {"1.1.1.1"}, {"10.0.0.1"}),
        (
            [one("2600:beef::2/64", "site"), one("2600:beef::3/64"), one("2001:db8::1/64")],
            {"2600:beef::3"},
            {"2001:db8::1"},
        ),
    ],
    ids=["ipv4", "ipv6", "both", "multiple", "ipv6-multiple"],
)
def test_upstreams_table(own: list[LinkAddress], primary: set[str], node_port: set[str], version: Version) -> None:
    """Primary prefers public addresses, NodePort private ones; secondary and narrower ones come later."""
    for order in (own, own[::-1]):
        rows = with_own(version, *order)
        assert of(rows, "test") == {str(address.ip) for address in own}
        assert of(rows, "test", "primary") == primary
        assert of(rows, "test", "node_port") == node_port


@every_version
def test_a_narrow_scope_is_left_out_up_to_1_18(version: Version) -> None:
    """10.0.2.2 of scope link, 10.0.3.3 of scope host; from 1.19 on both are node addresses."""
    own = [one("10.0.1.1/24"), one("10.0.2.2/24", "link"), one("10.0.3.3/24", "host", secondary=True)]
    rows = with_own(version, *own)
    assert of(rows, "test") == ({"10.0.1.1"} if version < V19 else {"10.0.1.1", "10.0.2.2", "10.0.3.3"})
    assert of(rows, "test", "primary") == of(rows, "test", "node_port") == {"10.0.1.1"}


@every_version
@pytest.mark.parametrize(
    ("scope", "there"),
    [("global", {"10.0.1.1"}), ("link", {"10.0.1.1", "10.0.2.2"}), ("254", {"10.0.1.1", "10.0.2.2", "10.0.3.3"})],
)
def test_the_narrowest_scope_can_be_set(scope: str, there: set[str], version: Version) -> None:
    own = [one("10.0.1.1/24"), one("10.0.2.2/24", "link"), one("10.0.3.3/24", "host")]
    found = Link("test", 3, "device", addresses=tuple(own))
    settings = NodeView("node1", Values({"devices": "test", "local-max-addr-scope": scope}))  # a hidden flag
    devices = select([found], (), settings, version)
    assert of(node_addresses([found], devices, settings, {}, version), "test") == there


OWN_AND_NODE_IPS = ["10.0.0.1/24", "1.1.1.1/24", "172.16.0.1/24", "2001:db8::1/64", "2600:beef::1/64", "2222::1/64"]


@pytest.mark.parametrize("version", [*UP_TO_1_18, V19], ids=str)
def test_the_node_ip_is_preferred(version: Version) -> None:
    rows = with_own(version, *map(one, OWN_AND_NODE_IPS))
    assert of(rows, "test", "primary") == of(rows, "test", "node_port") == {"172.16.0.1", "2222::1"}


@pytest.mark.parametrize("version", FROM_1_20, ids=str)
def test_the_node_ip_is_preferred_within_its_class_from_1_20_on(version: Version) -> None:
    rows = with_own(version, *map(one, OWN_AND_NODE_IPS))
    assert of(rows, "test", "primary") == {"1.1.1.1", "2222::1"}
    assert of(rows, "test", "node_port") == {"172.16.0.1", "2001:db8::1"}


@every_version
def test_a_node_ip_that_changes_is_followed(version: Version) -> None:
    rows = with_own(version, one("10.0.0.1/24"), one("10.0.0.2/24"), node_ips={4: ip_address("10.0.0.2")})
    assert of(rows, "test", "primary") == of(rows, "test", "node_port") == {"10.0.0.2"}
    rows = with_own(version, one("10.0.0.1/24"), one("10.0.0.2/24"), node_ips={})
    assert of(rows, "test", "primary") == {"10.0.0.1"}


@every_version
def test_a_link_local_address(version: Version) -> None:
    """Not there up to 1.18; in 1.19 the private one that NodePort prefers; from 1.20 on there, and never chosen."""
    rows = with_own(version, one("2600:beef::1/64"), one("fe80::1/64", "link"))
    assert of(rows, "test", "primary") == {"2600:beef::1"}
    assert of(rows, "test", "node_port") == ({"fe80::1"} if version == V19 else {"2600:beef::1"})
    assert ("fe80::1" in of(rows, "test")) == (version >= V19)
    alone = with_own(version, one("fe80::1/64", "link"))
    assert of(alone, "test", "primary") == ({"fe80::1"} if version == V19 else set())


@every_version
@pytest.mark.parametrize(
    ("cidrs", "own", "node_port", "fallback"),
    [
        ("10.0.0.0/8", ["10.0.0.1/24", "11.0.0.1/24"], {"10.0.0.1"}, {"11.0.0.1"}),
        ("2001::/16", ["2001:db8::1/64", "2600:beef::2/64"], {"2001:db8::1"}, {"2600:beef::2"}),
        (
            *("2001::/16,10.0.0.0/8", ["10.0.0.1/24", "11.0.0.1/24", "2001:db8::1/64", "2600:beef::2/64"]),
            *({"10.0.0.1", "2001:db8::1"}, {"11.0.0.1", "2600:beef::2"}),
        ),
        ("10.0.0.0/8", ["10.0.0.1/24", "10.0.0.2/24"], {"10.0.0.1", "10.0.0.2"}, {"10.0.0.1"}),
        ("192.168.0.0/16", ["10.0.0.1/24"], set(), {"10.0.0.1"}),
        ("0.0.0.0/0", ["10.0.0.1/24"], {"10.0.0.1"}, {"10.0.0.1"}),
    ],
)
def test_nodeport_addresses(
    cidrs: str, own: list[str], node_port: set[str], fallback: set[str], version: Version
) -> None:
    """Every address in the CIDRs, and only those; never those of `cilium_host`."""
    links = [HOST, Link("test", 3, "device", addresses=tuple(map(one, own)))]
    rows = table(version, links, nodeport_addresses=cidrs)
    assert of(rows, "test", "node_port") == node_port
    assert of(rows, "*", "primary") == fallback
    assert of(rows, "*", "node_port") == of(rows, "cilium_host", "node_port") == set()


@every_version
def test_an_address_on_lo_is_a_node_address(version: Version) -> None:
    loopback = replace(lo(), addresses=(*lo().addresses, one("10.0.0.1/32"), one("2001::1/128")))
    rows = table(version, [loopback])
    assert of(rows, "lo") == of(rows, "lo", "primary") == of(rows, "lo", "node_port") == {"10.0.0.1", "2001::1"}
    assert of(rows, "*") == {"10.0.0.1", "2001::1"}


@every_version
def test_cilium_host_keeps_its_link_scope(version: Version) -> None:
    """Whatever `local-max-addr-scope`: kept, not primary, never for NodePort, and no fallback."""
    host = replace(HOST, addresses=(*HOST.addresses, one("10.0.0.1/32", "host")))
    rows = table(version, [host, lo()])
    assert of(rows, "cilium_host") >= {"9.9.9.9", "9.9.9.8"}
    assert ("10.0.0.1" in of(rows, "cilium_host")) == (version >= V19)
    assert of(rows, "cilium_host", "primary") == {"9.9.9.9"}
    assert of(rows, "cilium_host", "node_port") == set()
    assert of(rows, "*") == {"127.0.0.1", "::1"}


@every_version
@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
def test_dummies_count_whether_selected_and_up_or_not_from_1_17_on(up: bool, version: Version) -> None:
    dummy = link("nodelocaldns", 4, "169.254.20.10/32", kind="dummy", up=up)
    rows = table(version, [dummy])
    assert of(rows, "nodelocaldns") == ({"169.254.20.10"} if version >= V17 else set())
    assert of(rows, "nodelocaldns", "node_port") == ({"169.254.20.10"} if version >= V17 and up else set())


@every_version
def test_other_devices_count_when_selected_and_up(version: Version) -> None:
    links = [link("test", 3, "10.0.0.1/24", up=False), link("eth1", 4, "10.0.1.1/24")]
    assert {row.device for row in table(version, links)} <= {"*"}


@every_version
def test_the_fallback_is_of_any_device_up_to_1_18(version: Version) -> None:
    """A selected device first, then public, wider, the lower index; no lxc, not cilium_host."""
    links = [
        *(HOST, Link("test", 3, "device"), link("eth1", 4, "10.0.1.1/24"), link("eth2", 5, "8.8.8.8/24")),
        link("lxc1", 6, "1.2.3.4/32"),
    ]
    # From 1.19 on only of devices in the table: an interface that is not selected is none.
    assert of(table(version, links), "*") == ({"8.8.8.8"} if version < V19 else set())
    chosen = table(version, [*links, link("test2", 9, "10.0.9.1/24")], devices="test,test2")
    assert of(chosen, "*") == {"10.0.9.1"}


ROUTE = "local 203.0.113.5 dev test"


@every_version
def test_a_local_route_without_a_source_is_an_address_from_1_19_on(version: Version) -> None:
    bare = [Link("test", 10, "device")]
    own = [link("test", 10, "10.0.0.1/24")]
    assert of(table(version, bare, routes=[ROUTE]), "test", "primary") == ({"203.0.113.5"} if version >= V19 else set())
    rows = table(version, own, routes=[ROUTE], node_ips={})
    both = {"10.0.0.1", "203.0.113.5"}
    assert of(rows, "test") == (both if version >= V19 else {"10.0.0.1"})
    # From 1.21 on it is primary only where the device has none.
    assert of(rows, "test", "primary") == (both if version in (V19, V20) else {"10.0.0.1"})
    assert "203.0.113.5" not in of(rows, "test", "node_port") | of(rows, "*")


@pytest.mark.parametrize("version", FROM_1_19, ids=str)
def test_a_local_route_that_is_none_or_already_there(version: Version) -> None:
    bare = [Link("test", 10, "device"), link("eth1", 11, "10.0.1.1/24")]
    for route in ("local 203.0.113.5 dev test src 10.0.0.1", "local 203.0.113.5 dev eth1", "local 127.0.0.9 dev test"):
        assert of(table(version, bare, routes=[route]), "test") == set()
    there = [link("test", 10, "203.0.113.5/24")]
    rows = table(version, there, routes=[ROUTE])
    assert [str(row) for row in rows if row.device == "test"] == ["203.0.113.5 on test (primary, nodeport)"]
    rows = table(version, bare, routes=[ROUTE], nodeport_addresses="203.0.113.0/24")
    assert of(rows, "test", "node_port") == {"203.0.113.5"}


@every_version
def test_rows_in_the_agents_words(version: Version) -> None:
    rows = table(version, [link("test", 3, "10.0.0.1/24", "8.8.8.8/24")], node_ips={})
    assert [str(row) for row in rows] == [
        "8.8.8.8 on test (primary)",
        "10.0.0.1 on test (nodeport)",
        "8.8.8.8 on * (primary)",
    ]


@pytest.mark.parametrize(
    ("address", "public"),
    [
        *(("100.64.0.1", False), ("192.168.1.1", False), ("172.31.9.9", False), ("172.32.0.1", True)),
        *(("240.0.0.1", True), ("169.254.1.1", False), ("198.19.0.1", False), ("224.0.0.1", False)),
        *(("2001:db8::1", False), ("2001:db8:1::1", True), ("fd00::1", False), ("2600::1", True), ("fe80::1", False)),
    ],
)
def test_public_is_what_cilium_calls_so(address: str, public: bool) -> None:
    assert is_public(ip_address(address)) is public


def test_the_kernels_order_of_addresses() -> None:
    """IPv4: secondary ones last. IPv6: the newest of a scope first, link-local ones last."""
    texts = ["10.0.0.1/24", "10.0.0.2/24", "10.1.0.1/24", "fe80::1/64", "fd00::1/64", "fd00::2/64"]
    found = link_addresses([ip_interface(text) for text in texts])
    assert [str(address.ip) for address in found] == [
        *("10.0.0.1", "10.1.0.1", "10.0.0.2", "fd00::2", "fd00::1", "fe80::1")
    ]
    assert [str(address.ip) for address in found if address.secondary] == ["10.0.0.2"]
    assert [address.scope for address in addresses("127.0.0.1/8", "::1/128")] == ["host", "host"]


def test_a_lab_nodes_links() -> None:
    node = Node(
        nics={"eth0": Nic(fabric="f0", addresses=(ip_interface("10.0.0.1/24"),)), "eth1": Nic(fabric="f1", up=False)}
    )
    by_name = {found.name: found for found in links_of(node)}
    assert [str(address.ip) for address in by_name["eth0"].addresses] == ["10.0.0.1", "fe80::1"]
    assert by_name["eth1"].addresses == ()
    assert by_name["lo"].raw_flags == 0x10049
    assert (by_name["eth0"].raw_flags, by_name["eth1"].raw_flags) == (0x11043, 0x1002)


# --- MTU (pkg/mtu/manager.go, pkg/mtu/mtu.go) ---


def mtu(version: Version, links: Sequence[Link], node_ip: str = "10.0.1.1", **friendly: Friendly) -> int:
    settings = view(**friendly)
    devices = select(links, (), settings, version)
    return device_mtu(links, devices, settings, version, ip_address(node_ip))[0]


NICS = [
    replace(link("eth0", 2, "10.0.0.1/24"), mtu=1400),
    replace(link("eth1", 3, "10.0.1.1/24"), mtu=9000),
    replace(link("dummy0", 4, "10.0.2.1/24", kind="dummy"), mtu=1280),
    replace(link("eth3", 5, "10.0.3.1/24", up=False), mtu=1000),
]


@every_version
def test_the_smallest_mtu_of_the_selected_devices_counts_from_1_17_on(version: Version) -> None:
    assert mtu(version, NICS) == (1400 if version >= V17 else 9000)
    assert mtu(version, NICS, devices="eth1") == 9000
    assert mtu(version, NICS, devices="eth0,eth1") == (1400 if version >= V17 else 9000)
    assert mtu(version, NICS, mtu="1350") == 1350


@every_version
def test_with_no_selected_device_it_is_the_largest(version: Version) -> None:
    assert mtu(version, NICS, devices="nope") == (65520 if version >= V17 else 9000)


@every_version
def test_of_enis_only_the_primary_one_counts(version: Version) -> None:
    assert mtu(version, NICS, ipam="eni") == 9000


def test_1_16_without_a_node_ip_goes_by_the_default_route() -> None:
    settings = view()
    routes = [parse_route("default via 10.0.0.254 dev eth0")]
    assert device_mtu(NICS, (), settings, V16, None, routes=routes) == (1400, "eth0, with the default route")
    assert device_mtu(NICS, (), settings, V16, None) == (1500, "there is no default route")
    assert device_mtu(NICS, (), settings, V16, ip_address("10.9.9.9")) == (1500, "no device has the node IP")


def test_which_device_sets_the_mtu() -> None:
    def why(*names: str, **more: Friendly) -> str:
        settings = view(devices=",".join(names), **more)
        devices = select(NICS, (), settings, V17)
        return device_mtu(NICS, devices, settings, V17, ip_address("10.0.1.1"))[1]

    assert why("eth0", "eth1") == "eth0, the lowest of the devices"
    assert why("eth1") == "eth1, the only one of the devices that counts"
    assert why("eth0", "eth1", ipam="eni") == "eth1, with the node IP"
    assert why("nope") == "no device counts"
    assert why("eth0", mtu="1350") == "as `mtu` says"


@pytest.mark.parametrize(
    ("version", "told", "expected"),
    [
        (V18, {"routing": "native"}, 1500),
        (V18, {"routing": "tunnel"}, 1450),
        (V17, {"routing": "tunnel", "enable_ipv4": False}, 1450),
        (V18, {"routing": "tunnel", "enable_ipv4": False}, 1430),
        (V19, {"routing": "tunnel", "enable_ipv4": False}, 1450),
        (V19, {"routing": "tunnel", "underlay_protocol": "ipv6"}, 1430),
        (V20, {"routing": "tunnel", "enable_ipv4": False}, 1430),
        (V19, {"routing": "native", "enable_wireguard": True}, 1420),
        (V20, {"routing": "native", "enable_wireguard": True}, 1405),
        (V21, {"routing": "tunnel", "enable_wireguard": True}, 1355),
        (V18, {"routing": "tunnel", "enable_ipsec": True}, 1373),
        (V18, {"routing": "native", "enable_ipsec": True}, 1423),
    ],
)
def test_what_routes_lose(version: Version, told: dict[str, Friendly], expected: int) -> None:
    assert route_mtu(1500, view(**told), version) == expected
