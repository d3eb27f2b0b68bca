"""What must hold between the parts of a topology, beyond each field's own type: checked before anything is made.

The kernel would refuse most of it half-way through or, worse, accept it. Each rule yields findings: the path of the
field, why it is wrong and how to fix it.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path

from niclab.check import ipam, links, sections
from niclab.check.links import RESERVED
from niclab.errors import Finding, nearest
from niclab.kernel import routing, sysctl
from niclab.net.route import FAMILIES, Address
from niclab.topology.fields import Interface
from niclab.topology.file import find, parse
from niclab.topology.model import Fabric, Flow, Host, Topology, check_service_flow
from niclab.topology.stacking import segment
from niclab.topology.yamlfile import Field, read_text

_RESERVED_NAMES = frozenset({"lo", "all", "default"})
_RESERVED_HOSTS = frozenset({"fabric", "control", "all"})
MIN_MTU = {4: 68, 6: 1280}
"""RFC 791 and RFC 8200; the kernel drops the family from a link whose MTU is smaller."""

Seen = dict[Address, str]


def load(name: str | Path) -> Topology:
    """A topology by name or path. Raises InputError with every problem found, LabError when there is no such file."""
    path = find(str(name))
    return loads(read_text(path), str(path))


def loads(text: str, name: str) -> Topology:
    """A topology from YAML text; `name` is the file's name in errors. Raises InputError."""
    return parse(text, name, check)


def check(topology: Topology) -> Iterator[Finding]:
    """Everything that is wrong with the topology, in the order of its parts, found as it is asked for."""
    yield from _names(topology)
    yield from _nics(topology)
    stacks = [finding for part in topology.sections() for finding in links.check(*part)]
    yield from stacks
    if stacks:  # the fabric that a link is on is then not known
        return
    yield from _addresses(topology)
    yield from _node_ips(topology)
    for check_host in (routing.routes, routing.rules, _sysctls):
        for part in topology.sections():
            yield from check_host(*part)
    for check_part in (
        sections.services,
        sections.egress,
        sections.announcements,
        sections.redirects,
        sections.bgp,
        _flows,
    ):
        yield from check_part(topology)


def _names(topology: Topology) -> Iterator[Finding]:
    for fabric in topology.fabrics:
        if fabric in _RESERVED_NAMES or len(fabric) > 15:
            yield Finding(("fabrics", fabric), f"no interface can be named {fabric!r}", "at most 15 letters, e.g. f0")
    seen: dict[str, str] = {}
    entries: list[tuple[Field, str]] = [((section, name), name) for section, name, _ in topology.sections()]
    for node_name, node in topology.nodes.items():
        entries += [(("nodes", node_name, "pods", pod), pod) for pod in node.pods]
    for path, name in entries:
        if name in _RESERVED_HOSTS:
            yield Finding(path, f"the name {name!r} is the lab's own", "choose another name")
        if name in seen:
            yield Finding(path, f"{name!r} is already the name of {seen[name]}", "give every host and pod its own name")
        seen.setdefault(name, ".".join(map(str, path)))


def _nics(topology: Topology) -> Iterator[Finding]:
    macs: dict[str, str] = {}
    for section, host_name, host in topology.sections():
        for name, nic in host.nics.items():
            path: Field = (section, host_name, "nics", name)
            if name in _RESERVED_NAMES or RESERVED.match(name):
                yield Finding(path, f"the kernel, Cilium or the lab uses the name {name!r}", "name NICs eth0, eth1, …")
            if nic.fabric not in topology.fabrics:
                fix = nearest(nic.fabric, topology.fabrics)
                yield Finding((*path, "fabric"), f"there is no fabric {nic.fabric!r}", fix)
            family = 6 if any(interface.version == 6 for interface in nic.addresses) else 4
            if nic.mtu < MIN_MTU[family]:
                why = f"MTU {nic.mtu} is below IPv{family}'s minimum of {MIN_MTU[family]} bytes"
                yield Finding((*path, "mtu"), why, "1500 is Ethernet's usual MTU")
            if nic.mac is None:
                continue
            if nic.mac in macs:
                yield Finding((*path, "mac"), f"{macs[nic.mac]} has this MAC too", "a MAC belongs to one NIC")
            elif int(nic.mac[:2], 16) & 1 or nic.mac == "00:00:00:00:00:00":
                why = f"{nic.mac} is not the address of one NIC"
                yield Finding((*path, "mac"), why, "use an even first byte, e.g. 02:…")
            macs.setdefault(nic.mac, f"{host_name}.{name}")


def _addresses(topology: Topology) -> Iterator[Finding]:
    seen: Seen = {}
    near: dict[tuple[object, Address], str] = {}
    for path, host, name, interface in ipam.addresses(topology):
        place = segment(host, name)
        fabric = topology.fabrics.get(place.fabric) if place and place.vlan is None else None
        # A host may have fe80::1 on each of its NICs.
        where, owner = (place or path[1], *(() if interface.ip.is_link_local else path[1:2])), f"{path[1]}.{name}"
        taken = next((near[at, interface.ip] for at in where if (at, interface.ip) in near), None)
        if taken is not None:
            why = f"{interface.ip} is already used by {taken}"
            yield Finding(path, why, "an address belongs to one NIC of a host, and of a fabric or VLAN")
        near.update(dict.fromkeys(((at, interface.ip) for at in where), owner))
        seen.setdefault(interface.ip, owner)
        yield from _address(interface, place.fabric if place else "", fabric, path)
    yield from ipam.check(topology, seen)


def _address(interface: Interface, name: str, fabric: Fabric | None, path: Field) -> Iterator[Finding]:
    ip, network = interface.ip, interface.network
    if ip.is_multicast or ip.is_loopback or ip.is_unspecified or str(ip) == "255.255.255.255":
        yield Finding(path, f"{ip} is not an address that a NIC can have", "use a private one, e.g. 10.0.0.1/24")
        return
    if (
        isinstance(network, IPv4Network)
        and network.prefixlen < 31
        and ip in (network.network_address, network.broadcast_address)
    ):
        why = f"{ip} is the network's or the broadcast address of {network}"
        yield Finding(path, why, f"use {network.network_address + 1} to {network.broadcast_address - 1}")
    subnets = fabric.subnets if fabric else ()
    if subnets and not any(ip in subnet for subnet in subnets):
        why = f"{ip} is outside fabric {name}'s subnets ({', '.join(map(str, subnets))})"
        yield Finding(path, why, "move the NIC to another fabric, or correct the address")


def same_node_ips(topology: Topology) -> Iterator[str]:
    """What agents make of nodes that have one node IP: each is its own peer. NICs behind NATs are often alike."""
    owners: dict[Address, list[str]] = {}
    for name, node in topology.nodes.items():
        for family in FAMILIES:
            if (address := node.node_ip_of(family)) is not None:
                owners.setdefault(address, []).append(name)
    for address, names in owners.items():
        if len(names) > 1:
            which = " and ".join(names)
            yield f"{which} have one node IP, {address}: agents take each other's tunnels and routes for their own"


def _node_ips(topology: Topology) -> Iterator[Finding]:
    for name, node in topology.nodes.items():
        path: Field = ("nodes", name, "node_ip")
        if not node.addresses:
            yield Finding(("nodes", name, "nics"), "no NIC of the node has an address", "a node needs a node IP")
            continue
        if len({address.version for address in node.node_ip}) != len(node.node_ip):
            yield Finding(path, "more than one node IP of a family", "give one IPv4 and one IPv6 address")
        for index, address in enumerate(node.node_ip):
            if address not in node.addresses:
                why = f"node IP {address} is on none of {name}'s NICs"
                yield Finding((*path, index), why, f"use one of {', '.join(map(str, dict.fromkeys(node.addresses)))}")


def _sysctls(section: str, name: str, host: Host) -> Iterator[Finding]:
    for key in host.sysctls:
        if problem := sysctl.refusal(key, host.interfaces):
            yield Finding((section, name, "sysctls", key), *problem)


def end_exists(topology: Topology, end: str) -> bool:
    """Is `end` a pod, an external, or a NIC written host.nic?"""
    if end in topology.pods or end in topology.externals:
        return True
    host, _, nic = end.partition(".")
    return host in topology.hosts and nic in topology.hosts[host].interfaces


def ends(topology: Topology) -> list[str]:
    """Every name a flow may begin or end with."""
    return [
        *topology.pods,
        *topology.externals,
        *topology.services,
        *(f"{host}.{name}" for host, name, _ in topology.interface_pairs()),
    ]


def check_flow(topology: Topology, flow: Flow) -> tuple[str, str] | None:
    """Why a flow cannot be sent in this topology and how to fix it, or None."""
    for end in (flow.source, flow.destination):
        if end in topology.hosts and end not in topology.externals:
            return (
                f"{end!r} is a host: a flow ends at one of its NICs",
                f"write {end}.{next(iter(topology.hosts[end].nics))}",
            )
        if end_exists(topology, end) or (end == flow.destination and end in topology.services):
            continue
        if end == flow.destination and flow.address is not None:
            if problem := _check_address(topology, flow, flow.address):
                return problem
            continue
        if end in topology.services:
            return f"{end!r} is a service: it sends nothing by itself", "begin at a pod, an external or a NIC"
        kinds = "a pod, an external, a service" if topology.services else "a pod, an external"
        return f"{end!r} is neither {kinds} nor a NIC", nearest(end, ends(topology))
    if flow.source == flow.destination:
        return f"{flow.source!r} would talk to itself", "a flow has two ends"
    return check_service_flow(topology, flow) if flow.destination in topology.services else None


def _check_address(topology: Topology, flow: Flow, address: Address) -> tuple[str, str] | None:
    """Nobody need have it: then the flow shows how far it gets."""
    if address.is_multicast or address.is_unspecified or address.is_loopback or str(address) == "255.255.255.255":
        return f"{address} is not an address that one host has", "name another, e.g. 10.0.0.11"
    if not flow.nic:
        return None
    host, _, name = flow.nic.partition(".")
    if host not in topology.hosts or name not in topology.hosts[host].interfaces:
        return f"{flow.nic!r} is no NIC", nearest(flow.nic, ends(topology))
    own = [str(interface.ip) for interface in topology.hosts[host].interfaces[name].addresses]
    if str(address) not in own:
        return f"{flow.nic} has no address {address}", f"it has {', '.join(own) or 'none'}"
    return None


def _flows(topology: Topology) -> Iterator[Finding]:
    for index, flow in enumerate(topology.flows):
        problem = check_flow(topology, flow)
        if problem:
            yield Finding(("flows", index), *problem)
