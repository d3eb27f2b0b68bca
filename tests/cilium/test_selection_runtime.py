"""What an agent's devices controller makes of changes while it runs: upstream's D4, D11, D12, and x4, x5, x9."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from niclab.cilium.selection.controller import (
    AddressAdded,
    AddressRemoved,
    Controller,
    Event,
    LinkChanged,
    LinkRemoved,
    NeighbourChanged,
    Resync,
    RouteAdded,
    RouteRemoved,
)
from niclab.cilium.selection.devices import Rule
from niclab.cilium.selection.links import Link, RouteRow, route_row
from niclab.cilium.version import VERSIONS, Version
from niclab.net.route import parse_route

from tests.support.selecting import FROM_1_20, V18, V19, addresses, link, rows, view

every_version = pytest.mark.parametrize("version", VERSIONS, ids=str)
VETH = link("veth0", 2, "192.168.0.1/24", kind="veth")
DOWN = replace(VETH, up=False)
EXTRA = AddressAdded(2, addresses("192.168.0.2/24")[0])


def row(text: str, **indices: int) -> RouteRow:
    return route_row(parse_route(text), indices)


DEFAULT = row("default via 192.168.0.254 dev veth0", veth0=2)


def started(version: Version, *links: Link, routes: tuple[str, ...] = (), devices: str = "") -> Controller:
    return Controller.of(view(devices=devices), version, links, rows(links, *routes))


def on(version: Version) -> Controller:
    return started(version, VETH, routes=("default via 192.168.0.254 dev veth0",))


def rule(controller: Controller, name: str) -> Rule:
    return next(device.rule for device in controller.devices.values() if device.name == name)


@every_version
def test_a_route_event_selects_a_device_that_is_not_selected(version: Version) -> None:
    before = started(version, VETH)
    after = before.after(RouteAdded(DEFAULT))
    assert (before.selected, after.selected) == ((), ("veth0",))


@every_version
def test_x4_selection_outlives_its_route_until_the_next_address_event(version: Version) -> None:
    lost = on(version).after(RouteRemoved(DEFAULT))
    assert lost.selected == ("veth0",)
    assert lost.after(EXTRA).selected == ()
    assert rule(lost.after(EXTRA), "veth0") is Rule.VETH_WITHOUT_DEFAULT_ROUTE


@every_version
def test_x4_or_until_the_next_link_event(version: Version) -> None:
    assert on(version).after(RouteRemoved(DEFAULT)).after(LinkChanged(VETH)).selected == ()


@every_version
def test_x4_or_when_both_come_in_one_batch(version: Version) -> None:
    assert on(version).after(RouteRemoved(DEFAULT), EXTRA).selected == ()


@every_version
def test_x5_listed_devices_come_and_go(version: Version) -> None:
    """`eth0,eth9`: eth0 is a veth without default route, eth9 is not there yet, eth1 is not listed."""
    eth0 = link("eth0", 2, "10.0.0.1/24", kind="veth")
    eth1 = link("eth1", 3, "10.0.1.1/24")
    eth9 = Link("eth9", 9, "device")
    (address,) = addresses("10.0.9.1/24")
    state = started(version, eth0, eth1, devices="eth0,eth9")
    assert state.selected == ("eth0",)
    state = state.after(LinkChanged(eth9))
    bare = ("eth0", "eth9") if version >= V19 else ("eth0",)  # 1.19: without address, and down, too
    assert state.selected == bare
    state = state.after(AddressAdded(9, address))
    assert state.selected == ("eth0", "eth9")
    assert state.after(LinkChanged(replace(eth9, up=False))).selected == bare
    assert state.after(AddressRemoved(9, address)).selected == bare
    gone = state.after(LinkRemoved(9))
    assert gone.selected == ("eth0",)
    assert "eth9" not in {device.name for device in gone.devices.values()}
    assert rule(gone, "eth1") is Rule.NOT_LISTED


@every_version
def test_x9_a_stale_route_selects_a_veth_that_was_down(version: Version) -> None:
    """The kernel drops a downed link's IPv4 routes without a message; `ip route` shows no default any more."""
    down = on(version).after(LinkChanged(DOWN))
    assert down.selected == ()
    assert rule(down, "veth0") is Rule.NOT_UP
    assert down.after(LinkChanged(VETH)).selected == ("veth0",)


@every_version
def test_an_ipv6_route_does_go_with_a_message(version: Version) -> None:
    six = link("veth0", 2, "2001:db8::1/64", kind="veth")
    default = row("-6 default via fe80::1 dev veth0", veth0=2)
    state = started(version, six).after(RouteAdded(default))
    assert state.selected == ("veth0",)
    assert (
        state.after(LinkChanged(replace(six, up=False)), RouteRemoved(default)).after(LinkChanged(six)).selected == ()
    )


@every_version
def test_d3_d4_the_port_of_a_bond_that_goes(version: Version) -> None:
    """D4 passes upstream because of the stale row: the kernel has no default route any more."""
    bond = link("bond0", 4, kind="bond")
    (address,) = addresses("192.168.2.1/24")
    port = replace(VETH, master=4, slave=True)
    state = on(version).after(LinkChanged(replace(VETH, up=False)), LinkChanged(port), LinkChanged(bond))
    state = state.after(AddressAdded(4, address), RouteAdded(row("192.168.2.0/24 dev bond0", bond0=4)))
    assert state.selected == ("bond0",)
    assert rule(state, "veth0") is Rule.EXCLUDED_FLAG
    state = state.after(LinkRemoved(4), LinkChanged(replace(VETH, up=False))).after(LinkChanged(VETH))
    assert state.selected == ("veth0",)


@every_version
def test_d5_the_port_of_a_bridge(version: Version) -> None:
    bridge = link("br0", 4, kind="bridge")
    state = on(version).after(
        LinkChanged(bridge),
        AddressAdded(4, addresses("192.168.3.1/24")[0]),
        LinkChanged(replace(VETH, kind="device", master=4)),
    )
    assert state.selected == ()
    assert (rule(state, "br0"), rule(state, "veth0")) == (Rule.BRIDGE_LIKE, Rule.BRIDGED_OR_BONDED)


@every_version
def test_d11_a_removed_link_takes_its_rows_along(version: Version) -> None:
    """Late messages about it are dropped; a new link of the same index starts anew."""
    gone = on(version).after(LinkRemoved(2))
    assert (gone.devices, gone.rows) == ({}, frozenset())
    late = gone.after(RouteAdded(DEFAULT), AddressAdded(2, VETH.addresses[0]))
    assert (late.rows, late.selected) == (frozenset(), ())
    again = late.after(LinkChanged(VETH))
    assert rule(again, "veth0") is Rule.NO_ADDRESSES


@every_version
def test_d12_a_restart_forgets_what_is_stale(version: Version) -> None:
    state = on(version).after(RouteRemoved(DEFAULT), LinkChanged(link("gone", 7)))
    state = state.after(Resync((VETH,), rows([VETH])))
    assert state.selected == ()
    assert [device.name for device in state.devices.values()] == ["veth0"]


@every_version
def test_an_address_may_come_before_its_link(version: Version) -> None:
    early = started(version).after(AddressAdded(2, VETH.addresses[0]))
    assert rule(early, "") is Rule.LINK_NOT_SEEN
    own = RouteAdded(row("local 192.168.0.1 dev veth0", veth0=2))
    assert early.after(LinkChanged(VETH), own, RouteAdded(DEFAULT)).selected == ("veth0",)


@every_version
def test_routes_of_several_hops_are_filed_under_a_link_that_nobody_has(version: Version) -> None:
    both = row("default nexthop via 192.168.0.254 dev veth0 nexthop via 10.0.0.254 dev eth0", veth0=2, eth0=3)
    assert both.link == 0
    state = started(version, VETH).after(RouteAdded(both))
    assert state.selected == ()
    assert rule(state, "veth0") is Rule.VETH_WITHOUT_DEFAULT_ROUTE


@every_version
def test_two_routes_that_differ_by_metric_are_one_row(version: Version) -> None:
    """RouteID is (table, link, destination): the first to go takes the row of both along."""
    first = row("default via 192.168.0.254 dev veth0 metric 100", veth0=2)
    second = row("default via 192.168.0.253 dev veth0 metric 200", veth0=2)
    state = started(version, VETH).after(RouteAdded(first), RouteAdded(second))
    assert state.after(RouteRemoved(first)).after(EXTRA).selected == ()


@every_version
def test_a_neighbour_makes_the_agent_look_again_from_1_18_on(version: Version) -> None:
    """Shown by a parent that is found late: with its port's own messages first, 1.20 does not know the VRF."""
    port = link("eth0", 2, "10.0.0.1/24", master=3)
    vrf = link("vrf0", 3, kind="vrf")
    state = started(version, port, vrf)
    first = Rule.PARENT_NOT_FOUND if version in FROM_1_20 else Rule.BRIDGED_OR_BONDED
    assert rule(state, "eth0") is first
    again = state.after(NeighbourChanged(2))
    assert rule(again, "eth0") is (Rule.DETECTED if version in FROM_1_20 else first)
    if version < V18:
        assert again == state


@every_version
def test_a_neighbour_does_not_unselect(version: Version) -> None:
    assert on(version).after(RouteRemoved(DEFAULT)).after(NeighbourChanged(2)).selected == ("veth0",)


@pytest.mark.parametrize("version", FROM_1_20, ids=str)
def test_a_tentative_address_counts_once_its_detection_has_ended(version: Version) -> None:
    bare = Link("eth0", 2, "device")
    (address,) = addresses("2001:db8::1/64")
    state = started(version, bare).after(AddressAdded(2, replace(address, tentative=True)))
    assert rule(state, "eth0") is Rule.NO_ADDRESSES
    state = state.after(AddressAdded(2, address), RouteAdded(row("local 2001:db8::1 dev eth0", eth0=2)))
    assert state.selected == ("eth0",)


_LINKS = [VETH, DOWN, link("eth1", 3, "10.0.1.1/24"), link("br0", 4, kind="bridge"), replace(VETH, master=4)]
_ADDRESSES = [one for text in ("192.168.0.1/24", "10.0.1.1/24", "fe80::1/64") for one in addresses(text)]
_ROWS = [DEFAULT, row("10.0.1.0/24 dev eth1", eth1=3), row("192.168.0.0/24 dev veth0", veth0=2)]
_indices = st.sampled_from([2, 3, 4])
_events: st.SearchStrategy[Event] = st.one_of(
    st.builds(LinkChanged, st.sampled_from(_LINKS)),
    st.builds(LinkRemoved, _indices),
    st.builds(AddressAdded, _indices, st.sampled_from(_ADDRESSES)),
    st.builds(AddressRemoved, _indices, st.sampled_from(_ADDRESSES)),
    st.builds(RouteAdded, st.sampled_from(_ROWS)),
    st.builds(RouteRemoved, st.sampled_from(_ROWS)),
    st.builds(NeighbourChanged, _indices),
)


@given(st.sampled_from(VERSIONS), st.lists(st.lists(_events, max_size=3), max_size=8))
def test_a_restart_agrees_with_a_start(version: Version, batches: list[list[Event]]) -> None:
    """Whatever happened before, after a restart the tables are those of an agent that starts now."""
    state = started(version, VETH)
    for batch in batches:
        state = state.after(*batch)
    there = (VETH, link("eth1", 3, "10.0.1.1/24"))
    fresh = started(version, *there)
    again = state.after(Resync(there, rows(there)))
    assert (again.links, again.rows) == (fresh.links, fresh.rows)
    assert again.devices == fresh.devices


@given(st.sampled_from(VERSIONS), st.lists(_events, max_size=12))
def test_a_link_event_for_everything_leaves_nothing_sticky(version: Version, events: list[Event]) -> None:
    """After a link event each device is what the rules say of the tables as they are."""
    state = started(version, VETH, link("eth1", 3, "10.0.1.1/24"))
    for event in events:
        state = state.after(event)
    once = state.after(*(LinkChanged(one) for one in state.links.values() if one.name))
    assert once == once.after(*(LinkChanged(one) for one in once.links.values() if one.name))
