"""What must hold of egress policies beyond each field's own type; Cilium would accept most of it and do nothing."""

from __future__ import annotations

from collections.abc import Iterator

from niclab.errors import Finding, nearest
from niclab.topology.model import EgressPolicy, Topology
from niclab.topology.yamlfile import Field


def check(topology: Topology) -> Iterator[Finding]:
    """What is wrong with the topology's egress policies."""
    for name, policy in topology.egress_policies.items():
        path: Field = ("egress_policies", name)
        yield from _pods(topology, policy, path)
        yield from _destinations(policy, path)
        yield from _gateways(topology, policy, path)


def _pods(topology: Topology, policy: EgressPolicy, path: Field) -> Iterator[Finding]:
    for index, pod in enumerate(policy.pods):
        if pod not in topology.pods:
            yield Finding((*path, "pods", index), f"there is no pod {pod!r}", nearest(pod, topology.pods))
    labelled = any(policy.selects_by_label(spec.labels) for _, spec in topology.pods.values())
    if not policy.pods and not policy.labels:
        yield Finding(path, "the policy says for no pod", "add pods: pod1, or labels: {app: web}")
    elif policy.labels and not labelled:
        words = ", ".join(f"{key}: {value}" for key, value in policy.labels.items())
        yield Finding((*path, "labels"), f"no pod has the labels {words}", "pods: {pod1: {labels: {app: web}}}")


def _destinations(policy: EgressPolicy, path: Field) -> Iterator[Finding]:
    families = {network.version for network in policy.destinations}
    for index, network in enumerate(policy.excluded):
        inside = any(
            network.version == whole.version and network.network_address in whole for whole in policy.destinations
        )
        if not inside:
            why = f"{network} is outside the policy's destinations"
            yield Finding((*path, "excluded", index), why, "leave it out: it is excluded already")
    if policy.egress_ip is not None and policy.egress_ip.version not in families:
        why = f"no destination is of {policy.egress_ip}'s family"
        yield Finding((*path, "egress_ip"), why, "give an address of the destinations' family")


def _gateways(topology: Topology, policy: EgressPolicy, path: Field) -> Iterator[Finding]:
    if policy.interface is not None and policy.egress_ip is not None:
        why = "a gateway has an interface or an egress IP, not both"
        yield Finding((*path, "egress_ip"), why, "leave one of them out: each follows from the other")
    for index, name in enumerate(policy.gateways):
        node = topology.nodes.get(name)
        if node is None:
            yield Finding((*path, "gateways", index), f"there is no node {name!r}", nearest(name, topology.nodes))
        elif policy.interface is not None and policy.interface not in node.interfaces:
            why = f"{name} has no NIC {policy.interface!r}"
            yield Finding((*path, "interface"), why, nearest(policy.interface, node.interfaces))
        elif policy.egress_ip is not None and policy.egress_ip not in node.addresses:
            why = f"{policy.egress_ip} is on none of {name}'s NICs"
            yield Finding((*path, "egress_ip"), why, f"use one of {', '.join(map(str, node.addresses))}")
