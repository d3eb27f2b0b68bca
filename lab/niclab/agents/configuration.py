"""What real agents and their operator are told, as keys of the ConfigMap. Pure."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from niclab.agents import kube
from niclab.cilium.bgp import SWITCH
from niclab.cilium.decisions import Decisions

LIBRARY = "/run/cilium/lib"
"""The parent of a node's eBPF sources, in its sandbox: the same in every lab, for it gets into what is compiled."""
IMAGE_LIBRARY = "/var/lib/cilium"
EGRESS_GATEWAY_KEYS = ("enable-egress-gateway", "enable-ipv4-egress-gateway")
"""Two names for one thing: 1.18 releases and later, and before."""
_OPERATOR_SETTINGS = ("ipam", "cluster-pool-ipv4-cidr", "cluster-pool-ipv4-mask-size")


@functools.cache
def given(part: str) -> Any:
    """A part of programs.yaml."""
    return yaml.safe_load(Path(__file__).with_name("programs.yaml").read_text())[part]


def arguments(program: str, **values: object) -> list[str]:
    """A program's arguments, with these values filled in."""
    return [argument.format(**values) for argument in given(program)]


def of_agent(decisions: Decisions, node: str, *, plane: Mapping[str, str], library: str) -> dict[str, str]:
    """What one node's agent is told: what the lab and its control plane need, and over it what the user says."""
    decision = decisions.nodes[node]
    view = decision.settings
    values = {**given("lean agent settings"), **given("agent settings"), **plane, "lib-dir": library}
    values.update(kube.ipam_settings(decisions.topology, view.ipam))
    if "kvstore" in plane:
        for key, own in (("node", decision.node_ips), ("range", decision.pod_cidrs)):
            families = [family for family in own if family == 4 or view.enable_ipv6]
            values.update({f"ipv{family}-{key}": str(own[family]) for family in families})
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
