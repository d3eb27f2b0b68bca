"""What must hold between the parts of a topology, beyond each field's own type: checked before anything is made.

Each rule yields findings with the path of the field, why it is wrong and how to mend it; the kernel would refuse
most of them half-way through (ip-route: "Nexthop has invalid gateway", EEXIST, ENODEV) or, worse, accept them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network

from lab.route import Route
from lab.topology.model import Address, Flow, Host, Nic, Node, Topology

Path = tuple[str | int, ...]

# Names that the lab or Cilium gives to interfaces of its own (Cilium: pkg/defaults/node.go ExcludedDevicePrefixes).
_RESERVED_PREFIXES = ("cilium_", "lxc")
_RESERVED_NAMES = frozenset({"lo", "all", "default", ".", ".."})
_RESERVED_HOSTS = frozenset({"fabric", "all", "lo"})
MIN_MTU = {4: 68, 6: 1280}
"""RFC 791 and RFC 8200; the kernel drops the family from a link whose MTU is smaller."""


@dataclass(frozen=True, slots=True)
class Finding:
    path: Path
    why: str
    mend: str


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint naming the nearest known word, else all of them."""
    choices = sorted(known)
    close = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"use one of {', '.join(choices)}" if choices else "there is none to choose from"


def _sections(topology: Topology) -> Iterator[tuple[str, str, Host]]:
    for section, hosts in (("nodes", topology.nodes), ("externals", topology.externals), ("routers", topology.routers)):
        for name, host in hosts.items():
            yield section, name, host


def check(topology: Topology) -> list[Finding]:
    """Everything that is wrong with the topology, in the order of its parts."""
    return [
        *_names(topology),
        *_nics(topology),
        *_addresses(topology),
        *_pods(topology),
        *_node_ips(topology),
        *(finding for part in _sections(topology) for finding in _routes(*part)),
        *(finding for part in _sections(topology) for finding in _sysctls(*part)),
        *_flows(topology),
    ]


def _names(topology: Topology) -> Iterator[Finding]:
    seen: dict[str, str] = {}
    entries: list[tuple[Path, str]] = [((section, name), name) for section, name, _ in _sections(topology)]
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
    for section, host_name, host in _sections(topology):
        for nic_name, nic in host.nics.items():
            path: Path = (section, host_name, "nics", nic_name)
            if nic_name in _RESERVED_NAMES or nic_name.startswith(_RESERVED_PREFIXES):
                yield Finding(
                    path, f"{nic_name!r} is no name for a NIC: the kernel or Cilium uses it", "use eth0, eth1"
                )
            if nic.fabric not in topology.fabrics:
                yield Finding(
                    (*path, "fabric"), f"there is no fabric {nic.fabric!r}", nearest(nic.fabric, topology.fabrics)
                )
            for family in (4, 6):
                if nic.mtu < MIN_MTU[family] and (family == 4 or any(a.version == 6 for a in nic.addresses)):
                    yield Finding(
                        (*path, "mtu"),
                        f"MTU {nic.mtu} is below IPv{family}'s minimum of {MIN_MTU[family]} bytes",
                        "1500 is Ethernet's usual MTU",
                    )
                    break
            if nic.mac and nic.mac in macs:
                yield Finding((*path, "mac"), f"{macs[nic.mac]} has this MAC too", "a MAC belongs to one NIC")
            elif nic.mac and int(nic.mac[:2], 16) & 1:
                yield Finding((*path, "mac"), f"{nic.mac} is a group address", "use an even first byte, e.g. 02:…")
            elif nic.mac:
                macs[nic.mac] = f"{host_name}.{nic_name}"


def _addresses(topology: Topology) -> Iterator[Finding]:
    owner: dict[Address, str] = {}
    for section, host_name, host in _sections(topology):
        for nic_name, nic in host.nics.items():
            for index, interface in enumerate(nic.addresses):
                path: Path = (section, host_name, "nics", nic_name, "addresses", index)
                network = interface.network
                if interface.ip in owner:
                    yield Finding(
                        path,
                        f"{interface.ip} is already used by {owner[interface.ip]}",
                        "an address belongs to one NIC",
                    )
                owner.setdefault(interface.ip, f"{host_name}.{nic_name}")
                if isinstance(network, IPv4Network) and network.prefixlen < 31:
                    if interface.ip in (network.network_address, network.broadcast_address):
                        yield Finding(
                            path,
                            f"{interface.ip} is the network's or broadcast address of {network}",
                            f"use {network.network_address + 1} … {network.broadcast_address - 1}",
                        )
                fabric = topology.fabrics.get(nic.fabric)
                if fabric and fabric.subnets and not any(interface.ip in subnet for subnet in fabric.subnets):
                    yield Finding(
                        path,
                        f"{interface.ip} is outside fabric {nic.fabric}'s subnets "
                        f"({', '.join(map(str, fabric.subnets))})",
                        "move the NIC to another fabric, or correct the address",
                    )
    yield from _pod_addresses(topology, owner)


def _pod_addresses(topology: Topology, owner: dict[Address, str]) -> Iterator[Finding]:
    for node_name, node in topology.nodes.items():
        for pod_name, pod in node.pods.items():
            for address in pod.addresses:
                path: Path = ("nodes", node_name, "pods", pod_name, "addresses")
                if address in owner:
                    yield Finding(
                        path, f"{address} is already used by {owner[address]}", "give the pod its own address"
                    )
                owner.setdefault(address, pod_name)
        for index, cidr in enumerate(node.pod_cidrs):
            for address, user in owner.items():
                if address in cidr and user not in node.pods:
                    yield Finding(
                        ("nodes", node_name, "pod_cidrs", index),
                        f"pod CIDR {cidr} holds {address}, an address of {user}",
                        "pod CIDRs must not overlap the networks of NICs or other nodes' pods",
                    )


def _pods(topology: Topology) -> Iterator[Finding]:
    seen: list[tuple[str, int, object]] = []
    for node_name, node in topology.nodes.items():
        families = [cidr.version for cidr in node.pod_cidrs]
        if len(set(families)) != len(families):
            yield Finding(
                ("nodes", node_name, "pod_cidrs"),
                "more than one pod CIDR of a family",
                "give one IPv4 and one IPv6 CIDR",
            )
        for index, cidr in enumerate(node.pod_cidrs):
            path: Path = ("nodes", node_name, "pod_cidrs", index)
            for other_node, _, other in seen:
                if cidr.version == other.version and cidr.overlaps(other):  # type: ignore[attr-defined]  # a Network
                    yield Finding(
                        path, f"pod CIDR {cidr} overlaps {other_node}'s {other}", "each node needs pod CIDRs of its own"
                    )
            seen.append((node_name, index, cidr))
            if len(node.pods) + 2 > cidr.num_addresses:
                yield Finding(path, f"{cidr} is too small for {len(node.pods)} pods", "use a larger pod CIDR")
        if node.pods and not node.pod_cidrs:
            yield Finding(
                ("nodes", node_name, "pods"), "the node has pods but no pod CIDR", "add pod_cidrs: [10.244.1.0/24]"
            )


def _node_ips(topology: Topology) -> Iterator[Finding]:
    for node_name, node in topology.nodes.items():
        mine = {interface.ip for nic in node.nics.values() for interface in nic.addresses}
        families = [address.version for address in node.node_ip]
        if len(set(families)) != len(families):
            yield Finding(
                ("nodes", node_name, "node_ip"), "more than one node IP of a family", "give one IPv4 and one IPv6"
            )
        for address in node.node_ip:
            if address not in mine:
                yield Finding(
                    ("nodes", node_name, "node_ip"),
                    f"node IP {address} is on none of {node_name}'s NICs",
                    f"use one of {', '.join(sorted(map(str, mine))) or 'its addresses (it has none)'}",
                )


def check_route(host: Host, route: Route) -> str | None:
    """Why the kernel would refuse this route on this host, or None."""
    for hop in route.nexthops:
        if hop.dev is not None and hop.dev != "lo" and hop.dev not in host.nics:
            return f"there is no NIC {hop.dev!r} here"
        nics = [nic for name, nic in host.nics.items() if hop.dev in (None, name)]
        if hop.dev in host.nics and not host.nics[hop.dev].up:
            return f"NIC {hop.dev!r} is down: the kernel refuses routes on it"
        if hop.via is None or hop.onlink or hop.via.is_link_local:
            continue
        if any(hop.via == interface.ip for nic in host.nics.values() for interface in nic.addresses):
            return f"gateway {hop.via} is the host's own address"
        if not any(hop.via in interface.network for nic in nics if nic.up for interface in nic.addresses):
            on_link = any(
                hop.via in r.destination and any(h.via is None and hop.dev in (None, h.dev) for h in r.nexthops)
                for r in host.routes
                if r is not route
            )
            if not on_link:
                return f"gateway {hop.via} is on no network of {hop.dev or 'any NIC'}: not reachable without `onlink`"
    if route.source is not None and route.source not in {i.ip for nic in host.nics.values() for i in nic.addresses}:
        return f"src {route.source} is not an address of the host"
    return None


def _routes(section: str, name: str, host: Host) -> Iterator[Finding]:
    seen: dict[tuple[object, int, int], int] = {}
    for index, route in enumerate(host.routes):
        path: Path = (section, name, "routes", index)
        why = check_route(host, route)
        if why:
            unknown = [hop.dev for hop in route.nexthops if hop.dev and hop.dev not in host.nics]
            mend = nearest(unknown[0], host.nics) if unknown else "correct the gateway or the device"
            yield Finding(path, f"route {str(route)!r}: {why}", mend)
        key = (route.destination, route.table, route.effective_metric)
        if key in seen and route.family == 4:
            yield Finding(
                path,
                f"route {str(route)!r} repeats entry {seen[key]}",
                "give it another metric, or use nexthops for ECMP",
            )
        seen.setdefault(key, index)


def _sysctls(section: str, name: str, host: Host) -> Iterator[Finding]:
    for key in host.sysctls:
        if not key.replace("/", ".").startswith("net."):
            yield Finding(
                (section, name, "sysctls", key),
                f"{key} does not belong to a network namespace",
                "only net.* keys are a host's own; others would change the machine",
            )


def end_exists(topology: Topology, end: str) -> bool:
    """Is `end` a pod, an external, or a NIC written host.nic?"""
    if end in topology.pods or end in topology.externals:
        return True
    host, _, nic = end.partition(".")
    return host in topology.hosts and nic in topology.hosts[host].nics


def ends(topology: Topology) -> list[str]:
    """Every name a flow may begin or end with."""
    return [*topology.pods, *topology.externals, *(f"{host}.{nic}" for host, nic, _ in topology.nic_pairs())]


def check_flow(topology: Topology, flow: Flow) -> tuple[str, str] | None:
    """Why a flow cannot be sent in this topology and how to mend it, or None."""
    for end in (flow.source, flow.destination):
        if not end_exists(topology, end):
            return f"{end!r} is neither a pod, an external nor a NIC", nearest(end, ends(topology))
    if flow.source == flow.destination:
        return f"{flow.source!r} would talk to itself", "a flow has two ends"
    return None


def _flows(topology: Topology) -> Iterator[Finding]:
    for index, flow in enumerate(topology.flows):
        problem = check_flow(topology, flow)
        if problem:
            yield Finding(("flows", index), *problem)


__all__ = ["MIN_MTU", "Finding", "Nic", "Node", "check", "check_flow", "check_route", "end_exists", "ends", "nearest"]
