"""The topology's egress policies as Kubernetes has them, and what an agent still lacks of them. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from niclab.agents import ciliumkube, kube
from niclab.net.route import Address
from niclab.topology import Topology

POD_LABEL = "niclab.io/pod"
"""Policies select pods by labels: one that is to be found by its name has it in this label."""


def pod_labels(topology: Topology, pod: str) -> dict[str, str]:
    """The labels a pod has in Kubernetes: those given, and its name where a policy asks for it."""
    named = any(pod in policy.pods for policy in topology.egress_policies.values())
    return {**topology.pods[pod][1].labels, **({POD_LABEL: pod} if named else {})}


def policies(topology: Topology) -> Iterator[kube.Object]:
    """Every CiliumEgressGatewayPolicy."""
    for name, policy in topology.egress_policies.items():
        selectors: list[Mapping[str, object]] = [{"matchLabels": dict(policy.labels)}] if policy.labels else []
        if policy.pods:
            by_name = {"key": POD_LABEL, "operator": "In", "values": list(policy.pods)}
            selectors.append({"matchExpressions": [by_name]})
        yield ciliumkube.egress_policy(
            name,
            pod_selectors=selectors,
            destinations=policy.destinations,
            excluded=policy.excluded,
            gateways=policy.gateways,
            interface=policy.interface,
            egress_ip=policy.egress_ip,
        )


def lacking(
    listed: str, topology: Topology, pods: Mapping[str, tuple[Address, ...]], *, node: str, ipv6: bool
) -> list[str]:
    """What is not in an agent's policy map yet; `listed` is what `cilium-dbg bpf egress list -o json` prints."""
    known = {(row["SourceIP"], row["DestCIDR"]) for row in (json.loads(listed or "[]") or ())}
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
