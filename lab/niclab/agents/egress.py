"""The topology's egress policies as Kubernetes has them, and what an agent still lacks of them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from niclab.agents.kube import CILIUM, HOSTNAME, Object, made
from niclab.net.route import Address
from niclab.topology import Topology

POD_LABEL = "niclab.io/pod"
"""Policies select pods by labels: one that is to be found by its name has it in this label."""


def pod_labels(topology: Topology, pod: str) -> dict[str, str]:
    """The labels a pod has in Kubernetes: those given, and its name where a policy asks for it."""
    named = any(pod in policy.pods for policy in topology.egress_policies.values())
    return {**topology.pods[pod][1].labels, **({POD_LABEL: pod} if named else {})}


def policies(topology: Topology) -> Iterator[Object]:
    """Every CiliumEgressGatewayPolicy: the pods that any selector matches leave by gateways, which are named nodes."""
    for name, policy in topology.egress_policies.items():
        selectors: list[Object] = [{"matchLabels": dict(policy.labels)}] if policy.labels else []
        if policy.pods:
            by_name = {"key": POD_LABEL, "operator": "In", "values": list(policy.pods)}
            selectors.append({"matchExpressions": [by_name]})
        leaving = {"interface": policy.interface, "egressIP": policy.egress_ip and str(policy.egress_ip)}
        gateways = [
            {
                "nodeSelector": {"matchLabels": {HOSTNAME: node}},
                **{key: value for key, value in leaving.items() if value is not None},
            }
            for node in policy.gateways
        ]
        spec: Object = {
            "selectors": [{"podSelector": selector} for selector in selectors],
            "destinationCIDRs": [str(network) for network in policy.destinations],
            # Required even where `egressGateways` (1.18 and later) has several.
            "egressGateway": gateways[0],
        }
        if policy.excluded:
            spec["excludedCIDRs"] = [str(network) for network in policy.excluded]
        if len(gateways) > 1:
            spec["egressGateways"] = gateways
        yield made(CILIUM, "CiliumEgressGatewayPolicy", name, spec=spec)


def lacking(
    listed: Sequence[Mapping[str, Any]],
    topology: Topology,
    pods: Mapping[str, tuple[Address, ...]],
    *,
    node: str,
    ipv6: bool,
) -> list[str]:
    """What is not in an agent's policy map yet; `listed` are the rows of `cilium-dbg bpf egress list -o json`."""
    known = {(row["SourceIP"], row["DestCIDR"]) for row in listed}
    found = []
    for name, policy in topology.egress_policies.items():
        for pod, (_, spec) in topology.pods.items():
            if not policy.selects(pod, spec.labels):
                continue
            for address in pods.get(pod, ()):
                for network in (*policy.destinations, *policy.excluded):
                    same = address.version == network.version and (ipv6 or network.version == 4)
                    if same and (str(address), str(network)) not in known:
                        found.append(f"{node} does not know egress policy {name} of {pod}")
    return sorted(set(found))
