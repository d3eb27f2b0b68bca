"""Links and settings in few words, for tests of selection."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from niclab.cilium.selection.devices import Device, select
from niclab.cilium.selection.links import Link, LinkAddress, RouteRow, link_addresses, rows_of
from niclab.cilium.version import VERSIONS, Version
from niclab.net.route import parse_route
from niclab.settings import Friendly, NodeView, Settings

V16, V17, V18, V19, V20, V21 = VERSIONS
UP_TO_1_18 = (V16, V17, V18)
FROM_1_19 = (V19, V20, V21)
FROM_1_20 = (V20, V21)


def view(**friendly: Friendly) -> NodeView:
    """The agent's flags: these settings, else Cilium's defaults."""
    return Settings.of(**friendly).for_node("node1")


def addresses(*texts: str) -> tuple[LinkAddress, ...]:
    """As the kernel has them after `ip address add` of each in turn."""
    return link_addresses([ipaddress.ip_interface(text) for text in texts])


def link(name: str, index: int, *texts: str, kind: str = "device", up: bool = True, master: int = 0) -> Link:
    return Link(name, index, kind, up=up, addresses=addresses(*texts), master=master)


def lo(index: int = 1) -> Link:
    return Link("lo", index, "device", loopback=True, addresses=addresses("127.0.0.1/8", "::1/128"))


def rows(links: Sequence[Link], *routes: str) -> frozenset[RouteRow]:
    """These routes, in iproute2's words, with those of the links' own addresses."""
    return rows_of([parse_route(text) for text in routes], links)


def decisions(
    links: Sequence[Link], version: Version, *, routes: Sequence[str] = (), **friendly: Friendly
) -> dict[str, Device]:
    """Name → what is decided about the interface."""
    devices = select(links, [parse_route(text) for text in routes], view(**friendly), version)
    return {device.name: device for device in devices}


def selected(links: Sequence[Link], version: Version, *, routes: Sequence[str] = (), **friendly: Friendly) -> set[str]:
    devices = decisions(links, version, routes=routes, **friendly)
    return {name for name, device in devices.items() if device.selected}
