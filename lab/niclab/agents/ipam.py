"""Where real agents' pods get their addresses: what the lab tells them in the place of Kubernetes or a cloud.

`multi-pool` and `eni` have an operator that writes down in every CiliumNode what the node's pods may have; which that
is the topology says, so the lab writes it. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from niclab.agents import ciliumkube, kube
from niclab.cilium.decisions import Decisions
from niclab.kernel.plan import Cable, cables
from niclab.net.route import Address, Network
from niclab.topology import Topology
from niclab.topology.model import DEFAULT_POOL, pod_hosts

_AGENT_SETTINGS: Mapping[str, Mapping[str, str]] = {
    # Else the agent gives back the CIDRs of pools that no pod has asked for yet (pkg/ipam/multipool_manager.go).
    "multi-pool": {"ipam-multi-pool-pre-allocation": ""},
    # The agent would ask the cloud's metadata service about its instance before it writes its CiliumNode
    # (pkg/nodediscovery); without that it takes the one that the lab has written.
    "eni": {"auto-create-cilium-node-resource": "false"},
}
ALLOCATED = frozenset(_AGENT_SETTINGS)
"""IPAM modes in which the lab allocates, and no operator has to."""


def agent_settings(topology: Topology, ipam: str) -> dict[str, str]:
    """What every agent is told besides what the user says."""
    found = dict(_AGENT_SETTINGS.get(ipam, {}))
    if ipam == "multi-pool":
        pools = {DEFAULT_POOL, *(pool for node in topology.nodes.values() for pool in node.pools)}
        found["ipam-multi-pool-pre-allocation"] = ",".join(f"{pool}=1" for pool in sorted(pools))
    return found


def objects(decisions: Decisions, ipam: str) -> Iterator[kube.Object]:
    """The objects that must be there before agents start: pools, and every node's CiliumNode."""
    topology = decisions.topology
    if ipam == "multi-pool":
        for pool, cidrs in _pools(topology).items():
            yield ciliumkube.pod_ip_pool(pool, cidrs)
    if ipam not in _AGENT_SETTINGS:
        return
    plugged = cables(topology)
    for name, decision in decisions.nodes.items():
        node = topology.nodes[name]
        pools = {DEFAULT_POOL: node.pod_cidrs, **node.pools} if ipam == "multi-pool" else None
        yield ciliumkube.cilium_node(
            name,
            addresses=tuple(decision.node_ips.values()),
            router=topology.router_address(name, 4) if ipam == "eni" else None,
            labels=node.labels,
            pools=pools,
            enis=[_eni(topology, cable, number) for number, cable in _enis(topology, plugged, name)],
        )


def _pools(topology: Topology) -> dict[str, list[Network]]:
    found: dict[str, list[Network]] = {}
    for node in topology.nodes.values():
        for pool, cidrs in {DEFAULT_POOL: node.pod_cidrs, **node.pools}.items():
            found.setdefault(pool, []).extend(cidrs)
    return found


def _enis(topology: Topology, plugged: tuple[Cable, ...], node: str) -> list[tuple[int, Cable]]:
    """(number, cable) of a node's ENIs; a cloud numbers an instance's NICs in the order they are attached."""
    mine = [cable for cable in plugged if cable.host == node]
    return [(number, cable) for number, cable in enumerate(mine) if cable.nic_name in topology.nodes[node].enis]


def _eni(topology: Topology, cable: Cable, number: int) -> ciliumkube.Eni:
    first = cable.nic.addresses_of(4)[0]
    return ciliumkube.Eni(
        id=f"eni-{cable.host}-{cable.nic_name}",
        number=number,
        mac=cable.mac,
        address=first.ip,
        subnet=first.network,
        vpc=topology.vpc_cidrs,
        pod_addresses=tuple(address for cidr in cable.nic.pod_addresses for address in hosts(cidr)),
    )


def hosts(cidr: Network) -> Iterator[Address]:
    """The addresses of a CIDR that agents may use: the router's, then the pods'."""
    return (cidr.network_address + number for number in range(1, 2 + pod_hosts(cidr)))


def pod_annotations(topology: Topology, pod: str) -> dict[str, str]:
    """A pod's annotations: the pool it asks for."""
    pool = topology.pods[pod][1].pool
    return {} if pool is None else {ciliumkube.POOL_ANNOTATION: pool}


def claimed(topology: Topology, node: str) -> tuple[Address, ...]:
    """What no pod of the node may get until it is its turn: an agent with ENIs takes any address of any of them."""
    return tuple(a for cidr in topology.nodes[node].every_pod_cidr for a in hosts(cidr))
