"""The MTU an agent gives to pods and routes (pkg/mtu/manager.go, pkg/mtu/mtu.go). Pure. All in bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from niclab.cilium.selection.devices import Device
from niclab.cilium.selection.links import Link
from niclab.cilium.version import Version
from niclab.net.route import Address, Family, Route
from niclab.settings import NodeView

ETHERNET = 1500
LARGEST = 65520
"""What is left when no selected device counts (MaxMTU)."""

TUNNEL_OVERHEAD = {4: 50, 6: 70}
"""Outer IP header 20 or 40, UDP 8, VXLAN 8, inner Ethernet 14 (TunnelOverheadIPv4, TunnelOverheadIPv6)."""

IPSEC_OVERHEAD = 77
"""With a key of 128 bits (EncryptionIPsecOverhead)."""

_OWN = ("cilium_vxlan", "cilium_geneve", "cilium_ipip4", "cilium_ipip6")
"""Devices whose MTU the agent sets itself (excludedDevices)."""


def device_mtu(
    links: Sequence[Link],
    devices: Sequence[Device],
    settings: NodeView,
    version: Version,
    node_ip: Address | None = None,
    *,
    routes: Iterable[Route] = (),
) -> tuple[int, str]:
    """What pods' devices get, and why: `mtu` if set, else the smallest MTU of the selected devices.

    Those of kind `dummy` and Cilium's own tunnels do not count; with IPAM mode `eni` only the NIC with the node IP
    does, once the CiliumNode is known. 1.16 takes the MTU of the device that has the node IP, and without a node IP
    that of the default route (pkg/mtu/detect_linux.go).
    """
    if settings.mtu:
        return settings.mtu, "as `mtu` says"
    if not version.has("mtu-of-selected"):
        return _detected(links, node_ip, routes)
    names = {device.name for device in devices if device.selected}
    counted = [link for link in links if link.name in names and link.name not in _OWN and link.kind != "dummy"]
    if settings.ipam == "eni" and node_ip is not None:
        counted = [link for link in counted if node_ip in {address.ip for address in link.addresses}]
    if not counted:
        return LARGEST, "no device counts"
    lowest = min(counted, key=lambda link: link.mtu)
    alone = "with the node IP" if settings.ipam == "eni" else "the only one of the devices that counts"
    return lowest.mtu, f"{lowest.name}, {alone if len(counted) == 1 else 'the lowest of the devices'}"


def _detected(links: Sequence[Link], node_ip: Address | None, routes: Iterable[Route]) -> tuple[int, str]:
    if node_ip is not None:
        link = next((link for link in links if node_ip in {address.ip for address in link.addresses}), None)
        return (link.mtu, f"{link.name}, with the node IP") if link else (ETHERNET, "no device has the node IP")
    by_name = {link.name: link for link in links}
    for route in routes:
        hop = route.nexthops[0] if route.is_default and route.nexthops else None
        if hop is not None and hop.via is not None and hop.dev in by_name:
            return by_name[hop.dev].mtu, f"{hop.dev}, with the default route"
    return ETHERNET, "there is no default route"


def route_mtu(device: int, settings: NodeView, version: Version) -> int:
    """What routes to other nodes' pods get: without what the tunnel and the encryption add (getRouteMTU)."""
    # What egress gateways are for goes through the tunnel in native routing too (pkg/egressgateway, tunnel.NewEnabler).
    tunnelled = settings.routing_mode == "tunnel" or settings.egress_gateway
    tunnel = TUNNEL_OVERHEAD[_counted(settings, version)] if tunnelled else 0
    if settings.wireguard:
        return device - tunnel - (95 if version.has("wireguard-95") else 80)
    return device - tunnel - (IPSEC_OVERHEAD if settings.ipsec else 0)


def underlay(settings: NodeView, version: Version) -> Family:
    """The family of the outer packets (pkg/datapath/tunnel/tunnel.go): up to 1.17 always IPv4, then as
    `underlay-protocol` says; its default is IPv4, from 1.20 on the first family that is enabled."""
    given = settings.get("underlay-protocol") if version.has("underlay-protocol") else "ipv4"
    if given in ("", "auto") and version.has("underlay-follows-families"):
        return 4 if settings.enable_ipv4 else 6
    return 6 if given == "ipv6" else 4


def _counted(settings: NodeView, version: Version) -> Family:
    """The same as it is counted (pkg/mtu/cell.go): in 1.18 as IPv6 only where IPv4 is off."""
    if version.has("underlay-counted"):
        return 4 if settings.enable_ipv4 else 6
    return underlay(settings, version)
