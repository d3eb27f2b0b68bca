"""Where real agents' pods get their addresses: what the lab tells them in the place of Kubernetes or a cloud.

`multi-pool` and `eni` have an operator that writes down in every CiliumNode what the node's pods may have; which that
is the topology says, so the lab writes it. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from niclab.agents.kube import CILIUM, HOSTNAME, Object, made
from niclab.cilium.decisions import Decisions
from niclab.kernel.plan import Cable, cables
from niclab.net.route import FAMILIES, Address, Network
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


def objects(decisions: Decisions, ipam: str) -> Iterator[Object]:
    """The objects that must be there before agents start: pools, and every node's CiliumNode."""
    topology = decisions.topology
    if ipam == "multi-pool":
        pools: dict[str, list[Network]] = {}
        for node in topology.nodes.values():
            for pool, cidrs in {DEFAULT_POOL: node.pod_cidrs, **node.pools}.items():
                pools.setdefault(pool, []).extend(cidrs)
        for pool, given in pools.items():
            yield made("cilium.io/v2alpha1", "CiliumPodIPPool", pool, spec=_pool(given))
    if ipam in ALLOCATED:
        plugged = cables(topology)
        for name in decisions.nodes:
            yield _cilium_node(decisions, name, ipam, [cable for cable in plugged if cable.host == name])


def _pool(cidrs: list[Network]) -> Object:
    """A pool hands out just these CIDRs, of one length per family."""
    of_family = {family: [cidr for cidr in cidrs if cidr.version == family] for family in FAMILIES}
    return {
        f"ipv{family}": {"cidrs": [str(cidr) for cidr in mine], "maskSize": mine[0].prefixlen}
        for family, mine in of_family.items()
        if mine
    }


def _cilium_node(decisions: Decisions, name: str, ipam: str, plugged: list[Cable]) -> Object:
    """A CiliumNode with what the operator has allocated to it: CIDRs of pools, or the addresses of its ENIs."""
    topology, node = decisions.topology, decisions.topology.nodes[name]
    addresses = [("InternalIP", address) for address in decisions.nodes[name].node_ips.values()]
    allocated: Object = {}
    if ipam == "multi-pool":
        pools = {DEFAULT_POOL: node.pod_cidrs, **node.pools}
        given = [{"pool": pool, "cidrs": [str(cidr) for cidr in cidrs]} for pool, cidrs in pools.items()]
        allocated = {"pools": {"allocated": given}}
    elif router := topology.router_address(name, 4):
        # The address of `cilium_host`, as an earlier agent would have left it behind.
        addresses.append(("CiliumInternalIP", router))
    spec = {"addresses": [{"type": kind, "ip": str(address)} for kind, address in addresses], "ipam": allocated}
    found = made(CILIUM, "CiliumNode", name, labels={HOSTNAME: name, **node.labels}, spec=spec)
    # A cloud numbers an instance's NICs in the order they are attached.
    enis = [_eni(topology, cable, number) for number, cable in enumerate(plugged) if cable.nic_name in node.enis]
    if enis:
        allocated["pool"] = {address: {"resource": eni["id"]} for eni in enis for address in eni["addresses"]}
        found["status"] = {"eni": {"enis": {eni["id"]: eni for eni in enis}}}
    return found


def _eni(topology: Topology, cable: Cable, number: int) -> Object:
    """A NIC that pods' addresses belong to, in CiliumNode's `status.eni.enis` (pkg/aws/eni/types/types.go ENI)."""
    first = cable.nic.addresses_of(4)[0]
    primary, *others = map(str, topology.vpc_cidrs)
    return {
        "id": f"eni-{cable.host}-{cable.nic_name}",
        "number": number,
        "mac": cable.mac,
        "ip": str(first.ip),
        "addresses": [str(address) for cidr in cable.nic.pod_addresses for address in hosts(cidr)],
        "subnet": {"id": f"subnet-{number}", "cidr": str(first.network)},
        "vpc": {"id": "vpc-niclab", "primary-cidr": primary, **({"cidrs": others} if others else {})},
    }


def hosts(cidr: Network) -> Iterator[Address]:
    """The addresses of a CIDR that agents may use: the router's, then the pods'."""
    return (cidr.network_address + number for number in range(1, 2 + pod_hosts(cidr)))


def pod_annotations(topology: Topology, pod: str) -> dict[str, str]:
    """A pod's annotations: the pool it asks for (pkg/annotation/k8s.go IPAMPoolKey)."""
    pool = topology.pods[pod][1].pool
    return {} if pool is None else {"ipam.cilium.io/ip-pool": pool}


def claimed(topology: Topology, node: str) -> tuple[Address, ...]:
    """What no pod of the node may get until it is its turn: an agent with ENIs takes any address of any of them."""
    return tuple(a for cidr in topology.nodes[node].every_pod_cidr for a in hosts(cidr))
