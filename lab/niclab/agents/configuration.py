"""What real agents and their operator are told, as keys of the ConfigMap. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from niclab.agents import kube
from niclab.agents.controlplane import Kind
from niclab.cilium.bgp import SWITCH
from niclab.cilium.decisions import Decisions

LIBRARY = "/run/cilium/lib"
"""The parent of a node's eBPF sources, in its sandbox: the same in every lab, for it gets into what is compiled."""
IMAGE_LIBRARY = "/var/lib/cilium"
EGRESS_GATEWAY_KEYS = ("enable-egress-gateway", "enable-ipv4-egress-gateway")
"""Two names for one thing: 1.18 releases and later, and before."""
_OPERATOR_SETTINGS = ("ipam", "cluster-pool-ipv4-cidr", "cluster-pool-ipv4-mask-size")

# What a node of the lab needs to run at all: everything else is the user's settings, or the agent's own default.
_NODE_SETTINGS: Mapping[str, str] = {
    "cgroup-root": "/run/cilium/cgroupv2",
    "bpf-root": "/sys/fs/bpf",
    "preallocate-bpf-maps": "false",
    "enable-gops": "false",
    "write-cni-conf-when-ready": "",
    "cni-exclusive": "false",
    "agent-liveness-update-interval": "1s",
}
_LEAN: Mapping[str, str] = {
    "enable-l7-proxy": "false",
    "enable-hubble": "false",
    "enable-health-checking": "false",
    "enable-endpoint-health-checking": "false",
    "enable-policy": "never",
}
"""Said where the user says nothing: parts that need programs the lab has not, or that send packets of their own."""


def of_agent(
    decisions: Decisions, node: str, *, plane: Kind, plane_settings: Mapping[str, str], library: str
) -> dict[str, str]:
    """What one node's agent is told: what the lab and its control plane need, and over it what the user says."""
    decision = decisions.nodes[node]
    view = decision.settings
    values = {**_LEAN, **_NODE_SETTINGS, **plane_settings, "lib-dir": library}
    values.update(kube.ipam_settings(decisions.topology, view.ipam))
    if plane == "kvstore":
        for key, given in (("node", decision.node_ips), ("range", decision.pod_cidrs)):
            families = [family for family in given if family == 4 or view.enable_ipv6]
            values.update({f"ipv{family}-{key}": str(given[family]) for family in families})
    if decisions.topology.bgp is not None:
        values[SWITCH] = "true"
    values.update(view.values)
    if view.egress_gateway:
        values.update(dict.fromkeys(EGRESS_GATEWAY_KEYS, "true"))
    return values


def of_operator(values: Mapping[str, str]) -> dict[str, str]:
    """What of the agents' settings the operator is told too; where the lab allocates addresses, it has not to."""
    lab_allocates = values.get("ipam") in kube.ALLOCATED
    wanted = [key for key in _OPERATOR_SETTINGS if not (lab_allocates and key == "ipam")]
    return {key: values[key] for key in wanted if key in values}


def features_of(decisions: Decisions) -> list[str]:
    """Settings for which the operator makes definitions of their own, as it calls them."""
    settings = decisions.settings
    spoken = str(decisions.topology.bgp is not None).lower()
    found = [SWITCH] if settings.values.get(SWITCH, spoken) == "true" else []
    if any(settings.values.get(key) == "true" for key in EGRESS_GATEWAY_KEYS):
        found += EGRESS_GATEWAY_KEYS
    return found
