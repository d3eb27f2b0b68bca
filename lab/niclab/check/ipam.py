"""What must hold of pod addresses: pod CIDRs, pools and NICs' own, beyond each field's own type."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from ipaddress import IPv4Interface, IPv4Network

from niclab.errors import Finding, nearest
from niclab.net.route import Address, Network
from niclab.topology.fields import Interface
from niclab.topology.model import DEFAULT_POOL, Host, Node, Topology, pod_hosts
from niclab.topology.yamlfile import Field

Seen = dict[Address, str]


def check(topology: Topology, seen: Seen) -> Iterator[Finding]:
    """What is wrong with the topology's pod addresses. `seen`: the NICs' addresses, to which the pods' are added."""
    yield from _cidrs(topology, seen)
    for name, node in topology.nodes.items():
        yield from _enis(topology, name, node)
        yield from _pods(name, node, seen)
    yield from _pools(topology)
    yield from _vpc(topology)


def addresses(topology: Topology) -> Iterator[tuple[Field, Host, str, Interface]]:
    """Every address of a NIC or link: its field's path, the host, and the name of the NIC or link."""
    for section, host_name, host in topology.sections():
        for name, device in host.interfaces.items():
            kind = "nics" if name in host.nics else "links"
            for index, interface in enumerate(device.addresses):
                yield (section, host_name, kind, name, "addresses", index), host, name, interface


def pod_networks(name: str, node: Node) -> Iterator[tuple[Field, Network]]:
    """Every CIDR of a node's pods, with the path of its field."""
    for index, cidr in enumerate(node.pod_cidrs):
        yield ("nodes", name, "pod_cidrs", index), cidr
    for pool, cidrs in node.pools.items():
        for index, cidr in enumerate(cidrs):
            yield ("nodes", name, "pools", pool, index), cidr
    for nic_name, nic in node.nics.items():
        for index, cidr in enumerate(nic.pod_addresses):
            yield ("nodes", name, "nics", nic_name, "pod_addresses", index), cidr


def _cidrs(topology: Topology, nics: Seen) -> Iterator[Finding]:
    seen: list[tuple[int, int, int]] = []  # version, first and last address: a lab of a thousand nodes is compared
    owners: list[tuple[str, Field, Network]] = []
    taken = sorted((address.version, int(address), order) for order, address in enumerate(nics))
    addresses = list(nics)
    for name, node in topology.nodes.items():
        families = [cidr.version for cidr in node.pod_cidrs]
        if len(set(families)) != len(families):
            why = "more than one pod CIDR of a family"
            yield Finding(
                ("nodes", name, "pod_cidrs"), why, "give one IPv4 and one IPv6 CIDR; more are pools: {a: 10.245.1.0/24}"
            )
        for path, cidr in pod_networks(name, node):
            same, mine = path[:-1], (cidr.version, int(cidr.network_address), int(cidr.broadcast_address))
            version, first, last = mine
            alike = [i for i, (v, low, high) in enumerate(seen) if low <= last and first <= high and v == version]
            if overlapped := next((owners[i] for i in alike if owners[i][:2] != (name, same)), None):
                why = f"pod CIDR {cidr} overlaps {overlapped[0]}'s {overlapped[2]}"
                yield Finding(path, why, "each node needs pod CIDRs of its own")
            seen.append(mine)
            owners.append((name, same, cidr))
            inside = taken[bisect_left(taken, (version, first, 0)) : bisect_left(taken, (version, last + 1, 0))]
            if inside:
                address = addresses[min(order for _, _, order in inside)]
                why = f"pod CIDR {cidr} holds {address} of {nics[address]}"
                yield Finding(path, why, "keep the addresses of pods and NICs apart")
            pods = [pod for pod in node.pods.values() if cidr in node.pod_cidrs_of(pod)[:2]]
            if len(pods) > pod_hosts(cidr):
                why = f"{cidr} has room for {pod_hosts(cidr)} pods, not {len(pods)}"
                yield Finding(path, why, "use a larger pod CIDR")


def _enis(topology: Topology, name: str, node: Node) -> Iterator[Finding]:
    """A cloud's subnet has its router at the first address, and Cilium takes it to be there."""
    if node.enis and (node.pod_cidrs or node.pools):
        field, nic_name = "pod_cidrs" if node.pod_cidrs else "pools", next(iter(node.enis))
        why = f"the pods' addresses belong to {nic_name} (pod_addresses): there are no pod CIDRs beside them"
        yield Finding(("nodes", name, field), why, f"leave {field} out, or the NIC's pod_addresses")
    elif node.pods and not node.every_pod_cidr:
        yield Finding(("nodes", name, "pods"), "the node has pods but no pod CIDR", "add pod_cidrs: 10.244.1.0/24")
    for nic_name, nic in node.enis.items():
        path: Field = ("nodes", name, "nics", nic_name, "pod_addresses")
        for index, cidr in enumerate(nic.pod_addresses):
            if not isinstance(cidr, IPv4Network):
                yield Finding((*path, index), "only IPv4 addresses belong to ENIs", "leave the IPv6 ones out")
            elif not any(isinstance(own, IPv4Interface) and cidr.subnet_of(own.network) for own in nic.addresses):
                why = f"{cidr} is outside {nic_name}'s subnet"
                yield Finding((*path, index), why, "an ENI's pods have addresses of its own subnet")
        for subnet in [interface.network for interface in nic.addresses_of(4)[:1]]:
            gateway = subnet.network_address + 1
            if gateway not in {interface.ip for _, _, other in topology.nic_pairs() for interface in other.addresses}:
                why = f"nobody has {gateway}, where Cilium takes the gateway of {subnet} to be"
                fix = f"give a router's NIC on {nic.fabric} the address {gateway}/{subnet.prefixlen}"
                yield Finding(path, why, fix)


def _pods(node_name: str, node: Node, seen: Seen) -> Iterator[Finding]:
    if not node.every_pod_cidr:
        return
    for name, pod in node.pods.items():
        start: Field = ("nodes", node_name, "pods", name)
        path = (*start, "addresses")
        if pod.pool not in (None, DEFAULT_POOL) and pod.pool not in node.pools:
            why = f"{node_name} has no pool {pod.pool!r}"
            yield Finding((*start, "pool"), why, nearest(str(pod.pool), [DEFAULT_POOL, *node.pools]))
            continue
        if pod.nic is not None and pod.nic not in node.enis:
            fix = nearest(pod.nic, node.enis) if node.enis else "give the NIC pod_addresses: 10.0.1.16/28"
            yield Finding((*start, "nic"), f"no pod addresses belong to {pod.nic!r} of {node_name}", fix)
            continue
        if len({address.version for address in pod.addresses}) != len(pod.addresses):
            yield Finding(path, "more than one address of a family", "a pod has one IPv4 and one IPv6 address at most")
        cidrs = node.pod_cidrs_of(pod)
        for index, address in enumerate(pod.addresses):
            cidr = next((cidr for cidr in cidrs if address in cidr), None)
            if cidr is None:
                why = f"{address} is outside {node_name}'s pod CIDRs ({', '.join(map(str, cidrs))})"
                yield Finding((*path, index), why, "peers route pod CIDRs to nodes: use an address inside")
            elif not 2 <= int(address) - int(cidr.network_address) < 2 + pod_hosts(cidr):
                why = f"{address} is the network's, the router's or the broadcast address of {cidr}"
                yield Finding((*path, index), why, f"use {cidr.network_address + 2} or a later one")
            if address in seen:
                why = f"{address} is already used by {seen[address]}"
                yield Finding((*path, index), why, "give the pod its own address")
            seen.setdefault(address, name)


def _pools(topology: Topology) -> Iterator[Finding]:
    """A CiliumPodIPPool has one mask size per family: it hands out CIDRs of one length."""
    lengths: dict[tuple[str, int], tuple[int, str]] = {}
    for name, node in topology.nodes.items():
        if DEFAULT_POOL in node.pools:
            path: Field = ("nodes", name, "pools", DEFAULT_POOL)
            yield Finding(path, "the CIDRs of the default pool are the pod CIDRs", "write them in pod_cidrs")
        for pool, cidrs in {DEFAULT_POOL: node.pod_cidrs, **node.pools}.items():
            for index, cidr in enumerate(cidrs):
                first = lengths.setdefault((pool, cidr.version), (cidr.prefixlen, name))
                if node.pools and first[0] != cidr.prefixlen:
                    place = ("pod_cidrs",) if pool == DEFAULT_POOL else ("pools", pool)
                    why = f"pool {pool} hands out /{first[0]} networks: {first[1]} has one"
                    yield Finding(("nodes", name, *place, index), why, "use one length in all of a pool's CIDRs")


def _vpc(topology: Topology) -> Iterator[Finding]:
    enis = [(name, nic_name, nic) for name, node in topology.nodes.items() for nic_name, nic in node.enis.items()]
    if topology.vpc and not enis:
        yield Finding(("vpc",), "no NIC has pod_addresses: nothing asks for the cloud's network", "leave vpc out")
    for name, nic_name, nic in enis if topology.vpc else ():
        for index, interface in enumerate(nic.addresses):
            if interface.version == 4 and not any(interface.ip in cidr for cidr in topology.vpc):
                path: Field = ("nodes", name, "nics", nic_name, "addresses", index)
                why = f"{interface.ip} is outside the vpc ({', '.join(map(str, topology.vpc))})"
                yield Finding(path, why, "an ENI's subnet is part of the cloud's network: correct vpc or the address")
