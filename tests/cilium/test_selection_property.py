"""Whatever links, addresses, routes and settings there are: every NIC gets a decision, and all of it fits."""

from __future__ import annotations

from collections import Counter
from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st
from niclab.cilium.selection.addresses import node_addresses
from niclab.cilium.selection.controller import Controller
from niclab.cilium.selection.devices import Rule, select
from niclab.cilium.selection.direct_routing import direct_routing, direct_routing_address
from niclab.cilium.selection.links import Link, rows_of
from niclab.cilium.selection.mtu import device_mtu, route_mtu
from niclab.cilium.version import VERSIONS, Version
from niclab.net.route import parse_route

from tests.support.selecting import addresses, view

_NAMES = ["eth0", "eth1", "lo", "lowan0", "cilium_host", "docker0", "bond0", "br0", "vrf0", "lxc1", "nodelocaldns"]
_KINDS = ["device", "veth", "bridge", "bond", "vrf", "dummy", "vxlan", "ipoib", "macvlan"]
_ADDRESSES = [
    *("10.0.0.1/24", "10.0.0.2/24", "10.0.1.1/24", "8.8.8.8/32", "169.254.1.1/16", "127.0.0.1/8", "172.16.0.1/24"),
    *("fe80::1/64", "2001:db8::1/64", "2600::1/64", "::1/128"),
]
_ENTRIES = ["eth0", "eth+", "!eth0", "!eth+", "+", "bond0", "nope", "lo", "storage", "!"]
_ROUTES = [
    *("default via 10.0.0.254 dev eth0", "default dev eth1 metric 9", "default dev eth0 table 100"),
    *("default nexthop via 10.0.0.254 dev eth0 nexthop via 10.0.1.254 dev eth1", "local 203.0.113.5 dev eth0"),
    *("blackhole default metric 99", "10.9.0.0/16 via 10.0.1.254 dev eth1", "default via 2001:db8::fe dev eth0"),
]


@st.composite
def links(draw: st.DrawFn) -> tuple[Link, ...]:
    names = draw(st.lists(st.sampled_from(_NAMES), unique=True, max_size=6))
    return tuple(
        Link(
            name,
            index,
            draw(st.sampled_from(_KINDS)),
            up=draw(st.booleans()),
            addresses=addresses(*draw(st.lists(st.sampled_from(_ADDRESSES), unique=True, max_size=4))),
            master=draw(st.sampled_from([0, 0, 1, 2, 99])),
            loopback=name == "lo",
            slave=draw(st.booleans()),
            mtu=draw(st.sampled_from([1280, 1500, 9000])),
            altnames=draw(st.sampled_from([(), ("storage",)])),
        )
        for index, name in enumerate(names, 1)
    )


@given(
    version=st.sampled_from(VERSIONS),
    there=links(),
    routes=st.lists(st.sampled_from(_ROUTES), unique=True, max_size=4),
    entries=st.lists(st.sampled_from(_ENTRIES), max_size=3),
    drd=st.sampled_from(["", "eth0", "eth+", "!eth0", "nope"]),
    forced=st.booleans(),
    cidrs=st.sampled_from(["", "10.0.0.0/8", "2001::/16,0.0.0.0/0"]),
    node_ip=st.sampled_from([None, "10.0.0.1", "172.16.0.1", "2600::1"]),
)
def test_everything_fits(
    *,
    version: Version,
    there: tuple[Link, ...],
    routes: list[str],
    entries: list[str],
    drd: str,
    forced: bool,
    cidrs: str,
    node_ip: str | None,
) -> None:
    settings = view(
        devices=",".join(entries),
        direct_routing_device=drd,
        force_device_detection=forced,
        nodeport_addresses=cidrs,
        kube_proxy_replacement=True,
    )
    parsed = [parse_route(text) for text in routes]
    own = None if node_ip is None else ip_address(node_ip)
    devices = select(there, parsed, settings, version)
    assert [device.name for device in devices] == [link.name for link in there]
    for device in devices:
        assert device.reason
        assert device.number == device.rule.number(version)
        assert device.selected == (device.rule in (Rule.LISTED, Rule.DETECTED))
        assert bool(device.not_selected_reason) == (not device.selected and device.rule is not Rule.EXCLUDED_BY_LIST)

    # An agent that starts now comes to the same, but where it meets a port before its parent.
    controller = Controller.of(settings, version, there, rows_of(parsed, there))
    for link, device in zip(there, devices, strict=True):
        started = controller.devices[link.index]
        assert started == device or started.rule is Rule.PARENT_NOT_FOUND

    chosen = {device.name for device in devices if device.selected}
    found = direct_routing(devices, there, settings, own, version)
    assert found.device is None or found.device in chosen
    assert (found.exits is None) == (found.device is not None)
    for link in there:
        for family in (4, 6):
            address = direct_routing_address(link, 4 if family == 4 else 6, version)
            assert address is None or address in {one.ip for one in link.addresses}

    table = node_addresses(
        there, devices, settings, {} if own is None else {4 if own.version == 4 else 6: own}, version
    )
    primary = Counter((row.device, row.address.version) for row in table if row.primary)
    assert all(count == 1 for count in primary.values())
    assert len({(row.device, row.address) for row in table}) == len(table)
    assert {row.device for row in table} <= chosen | {"cilium_host", "lo", "*"} | {
        link.name for link in there if link.kind == "dummy"
    }
    mtu, why = device_mtu(there, devices, settings, version, own, routes=parsed)
    assert why and 0 < route_mtu(mtu, settings, version) <= mtu <= 65520
