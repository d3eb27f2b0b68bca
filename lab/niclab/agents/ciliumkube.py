"""Cilium's own objects as the lab makes them. Pure: plain dictionaries, as in `niclab.agents.kube`.

Where a cloud's operator would write them, the lab does: which addresses a node's pods may have is known beforehand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from niclab.agents.kube import NOTHING, Object, metadata
from niclab.net.route import FAMILIES, Address, Network

POOL_ANNOTATION = "ipam.cilium.io/ip-pool"
"""Of a pod: the pool it takes its address from (pkg/annotation/k8s.go IPAMPoolKey)."""


def egress_policy(
    name: str,
    *,
    pod_selectors: Sequence[Mapping[str, Any]],
    destinations: Sequence[Network],
    excluded: Sequence[Network] = (),
    gateways: Sequence[str],
    interface: str | None = None,
    egress_ip: Address | None = None,
) -> Object:
    """A CiliumEgressGatewayPolicy: the pods that any selector matches leave by gateways, which are named nodes."""
    gateway: Object = {}
    if interface is not None:
        gateway["interface"] = interface
    if egress_ip is not None:
        gateway["egressIP"] = str(egress_ip)
    entries = [{"nodeSelector": {"matchLabels": {"kubernetes.io/hostname": node}}, **gateway} for node in gateways]
    spec: Object = {
        "selectors": [{"podSelector": dict(selector)} for selector in pod_selectors],
        "destinationCIDRs": [str(network) for network in destinations],
        # Required even where `egressGateways` (1.18 and later) has several.
        "egressGateway": entries[0],
    }
    if excluded:
        spec["excludedCIDRs"] = [str(network) for network in excluded]
    if len(entries) > 1:
        spec["egressGateways"] = entries
    return _object("cilium.io/v2", "CiliumEgressGatewayPolicy", metadata(name), spec)


def pod_ip_pool(name: str, cidrs: Sequence[Network]) -> Object:
    """A CiliumPodIPPool that hands out just these CIDRs, of one length per family."""
    spec: Object = {}
    for family in FAMILIES:
        mine = [cidr for cidr in cidrs if cidr.version == family]
        if mine:
            spec[f"ipv{family}"] = {"cidrs": [str(cidr) for cidr in mine], "maskSize": mine[0].prefixlen}
    return _object("cilium.io/v2alpha1", "CiliumPodIPPool", metadata(name), spec)


@dataclass(frozen=True, slots=True)
class Eni:
    """A NIC that pods' addresses belong to, as a cloud describes it. `number`: its place on the instance, from 0."""

    id: str
    number: int
    mac: str
    address: Address
    subnet: Network
    vpc: tuple[Network, ...]
    """The primary CIDR first."""
    pod_addresses: tuple[Address, ...]

    def status(self) -> Object:
        """Its entry in CiliumNode's `status.eni.enis` (pkg/aws/eni/types/types.go ENI)."""
        primary, *others = map(str, self.vpc)
        return {
            "id": self.id,
            "number": self.number,
            "mac": self.mac,
            "ip": str(self.address),
            "addresses": [str(address) for address in self.pod_addresses],
            "subnet": {"id": f"subnet-{self.number}", "cidr": str(self.subnet)},
            "vpc": {"id": "vpc-niclab", "primary-cidr": primary, **({"cidrs": others} if others else {})},
        }


def cilium_node(
    name: str,
    *,
    addresses: Sequence[Address],
    router: Address | None = None,
    labels: Mapping[str, str] = NOTHING,
    pools: Mapping[str, Sequence[Network]] | None = None,
    enis: Sequence[Eni] = (),
) -> Object:
    """A CiliumNode with what the operator has allocated to it: CIDRs of pools, or the addresses of its ENIs.

    `router` is the address of `cilium_host`, as an earlier agent would have left it behind.
    """
    ipam: Object = {}
    if pools:
        allocated = [{"pool": pool, "cidrs": [str(cidr) for cidr in cidrs]} for pool, cidrs in pools.items()]
        ipam["pools"] = {"allocated": allocated}
    named = [("InternalIP", address) for address in addresses]
    if router is not None:
        named.append(("CiliumInternalIP", router))
    spec: Object = {"addresses": [{"type": kind, "ip": str(address)} for kind, address in named], "ipam": ipam}
    about = metadata(name, labels={"kubernetes.io/hostname": name, **labels})
    found = _object("cilium.io/v2", "CiliumNode", about, spec)
    if enis:
        ipam["pool"] = {str(address): {"resource": eni.id} for eni in enis for address in eni.pod_addresses}
        found["status"] = {"eni": {"enis": {eni.id: eni.status() for eni in enis}}}
    return found


def _object(version: str, kind: str, about: Object, spec: Object) -> Object:
    return {"apiVersion": version, "kind": kind, "metadata": about, "spec": spec}
