"""Kubernetes objects as the lab makes them, for Cilium on netns nodes and for kind alike. Pure: plain dictionaries.

The lab plays kubelet, controller manager and cloud provider: it fills in the status of nodes and pods, gives nodes
their pod CIDRs, writes EndpointSlices and the addresses of load balancers.
`niclab.agents.kubeapi` brings objects to a server.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from niclab.net.route import Address, Family, Network, ip_address

Object = dict[str, Any]

NAMESPACE = "default"
"""Where pods and services go unless told otherwise."""
NOTHING: Mapping[str, str] = MappingProxyType({})
# Conditions must say when they came about; the lab's objects are the same in every run.
_SINCE = "2000-01-01T00:00:00Z"
_NO_IMAGE = "niclab.invalid/none"
ServiceType = Literal["ClusterIP", "NodePort", "LoadBalancer"]
TrafficPolicy = Literal["Cluster", "Local"]
TransportProtocol = Literal["TCP", "UDP", "SCTP"]


def metadata(
    name: str,
    namespace: str | None = None,
    labels: Mapping[str, str] = NOTHING,
    annotations: Mapping[str, str] = NOTHING,
) -> Object:
    """An object's metadata, without what is empty."""
    found: Object = {"name": name}
    if namespace is not None:
        found["namespace"] = namespace
    if labels:
        found["labels"] = dict(labels)
    if annotations:
        found["annotations"] = dict(annotations)
    return found


def node(
    name: str, *, addresses: Sequence[Address], pod_cidrs: Sequence[Network] = (), labels: Mapping[str, str] = NOTHING
) -> Object:
    """A Node that is ready. `addresses` are its node IPs, the preferred family first."""
    spec: Object = {}
    if pod_cidrs:
        spec = {"podCIDR": str(pod_cidrs[0]), "podCIDRs": [str(cidr) for cidr in pod_cidrs]}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": metadata(name, None, {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", **labels}),
        "spec": spec,
        "status": {
            "addresses": [
                *({"type": "InternalIP", "address": str(address)} for address in addresses),
                {"type": "Hostname", "address": name},
            ],
            "conditions": [_condition("Ready", reason="KubeletReady")],
        },
    }


def node_ips(found: Object) -> list[Address]:
    """The node IPs of a Node."""
    addresses = found.get("status", {}).get("addresses") or ()
    return [ip_address(one["address"]) for one in addresses if one["type"] == "InternalIP"]


def pod(
    name: str,
    node_name: str,
    *,
    namespace: str = NAMESPACE,
    labels: Mapping[str, str] = NOTHING,
    annotations: Mapping[str, str] = NOTHING,
    host_network: bool = False,
) -> Object:
    """A Pod bound to a node, as the scheduler leaves it: it has no address yet, see `pod_running`."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata(name, namespace, labels, annotations),
        "spec": {
            "nodeName": node_name,
            "hostNetwork": host_network,
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "pod", "image": _NO_IMAGE}],
        },
    }


def pod_running(
    name: str, addresses: Sequence[Address], *, namespace: str = NAMESPACE, host_addresses: Sequence[Address] = ()
) -> Object:
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
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata(name, namespace), "status": status}


def _condition(kind: str, *, reason: str = "") -> Object:
    condition: Object = {"type": kind, "status": "True", "lastTransitionTime": _SINCE}
    if reason:
        condition["reason"] = reason
    return condition


def cni_arguments(name: str, uid: str, *, namespace: str = NAMESPACE) -> str:
    """CNI_ARGS as a container runtime passes them: whose interface is being plugged."""
    return f"IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_UID={uid}"


@dataclass(frozen=True, slots=True)
class Port:
    """A port of a service; `target` (default: the same) is the backends' port, `node_port` is opened on nodes."""

    port: int
    protocol: TransportProtocol = "TCP"
    target: int | None = None
    node_port: int | None = None
    name: str = ""

    @property
    def target_port(self) -> int:
        return self.target if self.target is not None else self.port

    @property
    def full_name(self) -> str:
        return self.name or f"{self.protocol.lower()}-{self.port}"


@dataclass(frozen=True, slots=True)
class Backend:
    """One endpoint of a service: an address, and the node it is on (for `Local` traffic policies)."""

    address: Address
    node: str | None = None
    pod: str | None = None
    ready: bool = True


@dataclass(frozen=True, slots=True)
class Service:
    """A service with its backends. `cluster_ips` fixes its virtual addresses; else the API server chooses."""

    name: str
    ports: tuple[Port, ...]
    backends: tuple[Backend, ...] = ()
    type: ServiceType = "ClusterIP"
    namespace: str = NAMESPACE
    families: tuple[Family, ...] = (4,)
    cluster_ips: tuple[Address, ...] = ()
    ingress: tuple[Address, ...] = ()
    """The addresses of a LoadBalancer, as a cloud provider would fill them in."""
    external_ips: tuple[Address, ...] = ()
    external_traffic_policy: TrafficPolicy | None = None
    internal_traffic_policy: TrafficPolicy | None = None
    labels: Mapping[str, str] = field(default_factory=lambda: NOTHING, hash=False)
    annotations: Mapping[str, str] = field(default_factory=lambda: NOTHING, hash=False)

    def objects(self) -> tuple[Object, ...]:
        """The Service, then one EndpointSlice per family that has backends."""
        return (service(self), *endpoint_slices(self))


def service(one: Service) -> Object:
    """The Service object. It has no selector: its EndpointSlices are written beside it."""
    spec: Object = {
        "type": one.type,
        "ipFamilies": [f"IPv{family}" for family in one.families],
        "ipFamilyPolicy": "RequireDualStack" if len(one.families) > 1 else "SingleStack",
        "ports": [_service_port(port) for port in one.ports],
    }
    if one.cluster_ips:
        spec |= {"clusterIP": str(one.cluster_ips[0]), "clusterIPs": [str(address) for address in one.cluster_ips]}
    if one.external_ips:
        spec["externalIPs"] = [str(address) for address in one.external_ips]
    if one.external_traffic_policy:
        spec["externalTrafficPolicy"] = one.external_traffic_policy
    if one.internal_traffic_policy:
        spec["internalTrafficPolicy"] = one.internal_traffic_policy
    about = metadata(one.name, one.namespace, one.labels, one.annotations)
    found: Object = {"apiVersion": "v1", "kind": "Service", "metadata": about, "spec": spec}
    if one.ingress:
        entries = [{"ip": str(address), "ipMode": "VIP"} for address in one.ingress]
        found["status"] = {"loadBalancer": {"ingress": entries}}
    return found


def _service_port(port: Port) -> Object:
    found: Object = {
        "name": port.full_name,
        "port": port.port,
        "protocol": port.protocol,
        "targetPort": port.target_port,
    }
    if port.node_port is not None:
        found["nodePort"] = port.node_port
    return found


def endpoint_slices(one: Service) -> list[Object]:
    """The EndpointSlices of a service, as the endpoint slice controller would write them."""
    return [
        _endpoint_slice(one, family, [backend for backend in one.backends if backend.address.version == family])
        for family in one.families
    ]


def _endpoint_slice(one: Service, family: Family, backends: Iterable[Backend]) -> Object:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": metadata(f"{one.name}-v{family}", one.namespace, {"kubernetes.io/service-name": one.name}),
        "addressType": f"IPv{family}",
        "ports": [{"name": port.full_name, "port": port.target_port, "protocol": port.protocol} for port in one.ports],
        "endpoints": [_endpoint(one, backend) for backend in backends],
    }


def _endpoint(one: Service, backend: Backend) -> Object:
    ready = backend.ready
    found: Object = {
        "addresses": [str(backend.address)],
        "conditions": {"ready": ready, "serving": ready, "terminating": False},
    }
    if backend.node:
        found["nodeName"] = backend.node
    if backend.pod:
        found["targetRef"] = {"kind": "Pod", "name": backend.pod, "namespace": one.namespace}
    return found
