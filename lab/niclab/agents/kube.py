"""Kubernetes objects as the lab makes them, for Cilium on netns nodes and for kind alike. Pure: plain dictionaries.

The lab plays kubelet, controller manager and cloud provider: it fills in the status of nodes and pods, gives nodes
their pod CIDRs, writes EndpointSlices and the addresses of load balancers (`services`), and what a cloud's operator
would write (`ipam`). `niclab.agents.kubeapi` brings objects to a server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from niclab.net.route import Address, Network, ip_address

Object = dict[str, Any]

NAMESPACE = "default"
"""Where pods and services are."""
NOTHING: Mapping[str, str] = MappingProxyType({})
HOSTNAME = "kubernetes.io/hostname"
CILIUM = "cilium.io/v2"
# Conditions must say when they came about; the lab's objects are the same in every run.
_SINCE = "2000-01-01T00:00:00Z"
_NAMESPACED = ("Pod", "Service", "EndpointSlice")


def made(
    api_version: str,
    kind: str,
    name: str,
    *,
    labels: Mapping[str, str] = NOTHING,
    annotations: Mapping[str, str] = NOTHING,
    **parts: Any,
) -> Object:
    """An object; its metadata is without what is empty, `parts` are its `spec`, `status` …"""
    metadata: Object = {"name": name, **({"namespace": NAMESPACE} if kind in _NAMESPACED else {})}
    if labels:
        metadata["labels"] = dict(labels)
    if annotations:
        metadata["annotations"] = dict(annotations)
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **parts}


def about(one: Object) -> str:
    """The object in words."""
    return f"{one['kind']} {one['metadata']['name']!r}"


def node(
    name: str,
    *,
    addresses: Sequence[Address],
    pod_cidrs: Sequence[Network] = (),
    labels: Mapping[str, str] = NOTHING,
) -> Object:
    """A Node that is ready. `addresses` are its node IPs, the preferred family first."""
    spec: Object = {}
    if pod_cidrs:
        spec = {"podCIDR": str(pod_cidrs[0]), "podCIDRs": [str(cidr) for cidr in pod_cidrs]}
    status = {
        "addresses": [
            *({"type": "InternalIP", "address": str(address)} for address in addresses),
            {"type": "Hostname", "address": name},
        ],
        "conditions": [{**_condition("Ready"), "reason": "KubeletReady"}],
    }
    all_labels = {HOSTNAME: name, "kubernetes.io/os": "linux", **labels}
    return made("v1", "Node", name, labels=all_labels, spec=spec, status=status)


def node_ips(found: Object) -> list[Address]:
    """The node IPs of a Node."""
    addresses = found.get("status", {}).get("addresses") or ()
    return [ip_address(entry["address"]) for entry in addresses if entry["type"] == "InternalIP"]


def pod(
    name: str, node_name: str, *, labels: Mapping[str, str] = NOTHING, annotations: Mapping[str, str] = NOTHING
) -> Object:
    """A Pod bound to a node, as the scheduler leaves it: it has no address yet, see `pod_running`."""
    spec = {
        "nodeName": node_name,
        "hostNetwork": False,
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "pod", "image": "niclab.invalid/none"}],
    }
    return made("v1", "Pod", name, labels=labels, annotations=annotations, spec=spec)


def pod_running(name: str, addresses: Sequence[Address], *, host_addresses: Sequence[Address] = ()) -> Object:
    """What kubelet would say of a pod that runs: its status alone."""
    status: Object = {
        "phase": "Running",
        "conditions": [_condition(kind) for kind in ("Initialized", "PodScheduled", "ContainersReady", "Ready")],
        "startTime": _SINCE,
    }
    for key, found in (("pod", addresses), ("host", host_addresses)):
        if found:
            status[f"{key}IP"] = str(found[0])
            status[f"{key}IPs"] = [{"ip": str(address)} for address in found]
    return made("v1", "Pod", name, status=status)


def _condition(kind: str) -> Object:
    return {"type": kind, "status": "True", "lastTransitionTime": _SINCE}


def cni_arguments(name: str, uid: str) -> str:
    """CNI_ARGS as a container runtime passes them: whose interface is being plugged."""
    return f"IgnoreUnknown=1;K8S_POD_NAMESPACE={NAMESPACE};K8S_POD_NAME={name};K8S_POD_UID={uid}"
