"""Services: an address and a port that Cilium turns into those of a backend pod. The model, and what it leaves open.

What a cluster would choose at random, virtual addresses and node ports, is the same in every lab of a topology.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, StringConstraints

from niclab.net.route import Address, Family, Network
from niclab.topology.fields import IpAddress, Model, one_or_many

ServiceType = Literal["ClusterIP", "NodePort", "LoadBalancer"]
TrafficPolicy = Literal["Cluster", "Local"]

SERVICE_CIDRS: Mapping[Family, Network] = MappingProxyType(
    {4: ipaddress.ip_network("10.96.0.0/16"), 6: ipaddress.ip_network("fd00:10:96::/112")}
)
"""Where virtual addresses are: the range the lab's API server is started with."""
NODE_PORTS = range(30000, 32768)
"""kube-apiserver's --service-node-port-range, and Cilium's `node-port-range`."""
# [kubernetes] the first address is the service `kubernetes`; those up to here are left to other fixed ones.
_FIRST_ADDRESS = 10

# RFC 1035: unlike other names, a service's begins with a letter.
ServiceName = Annotated[str, StringConstraints(pattern=r"^[a-z]([a-z0-9-]{0,30}[a-z0-9])?$")]
_Port = Annotated[int, Field(strict=True, ge=1, le=65535)]


class Service(Model):
    """One port of a Kubernetes service and the pods behind it. `port` is the service's own, `target_port` the pods'."""

    type: ServiceType = "ClusterIP"
    port: _Port
    target_port: Annotated[_Port | None, Field(description="the pods' port; default: the same as `port`")] = None
    protocol: Literal["tcp", "udp"] = "tcp"
    node_port: Annotated[
        int | None, Field(strict=True, description="30000 to 32767, open on every node; default: the next free one")
    ] = None
    cluster_ip: Annotated[
        tuple[IpAddress, ...],
        BeforeValidator(one_or_many),
        Field(description="one of each family at most; default: the next free ones of the service CIDR"),
    ] = ()
    external_ips: Annotated[tuple[IpAddress, ...], BeforeValidator(one_or_many)] = ()
    load_balancer_ip: Annotated[
        tuple[IpAddress, ...],
        BeforeValidator(one_or_many),
        Field(description="what a cloud provider would assign to a LoadBalancer; clients need a route to it"),
    ] = ()
    external_traffic_policy: TrafficPolicy | None = None
    internal_traffic_policy: TrafficPolicy | None = None
    pods: Annotated[tuple[str, ...], BeforeValidator(one_or_many), Field(description="the backends")] = ()

    @property
    def backend_port(self) -> int:
        return self.port if self.target_port is None else self.target_port

    @property
    def has_node_port(self) -> bool:
        return self.type in ("NodePort", "LoadBalancer")

    @property
    def outside(self) -> tuple[Address, ...]:
        """The addresses for clients outside the cluster: the load balancer's, then the external IPs."""
        return (*self.load_balancer_ip, *self.external_ips)


def cluster_ips(services: Mapping[str, Service], families: Iterable[Family]) -> Mapping[str, tuple[Address, ...]]:
    """Service → its virtual addresses: as given, else one of each of these families."""
    taken = {address for service in services.values() for address in service.cluster_ip}
    free = {
        family: (address for address in _from_tenth(SERVICE_CIDRS[family]) if address not in taken)
        for family in families
    }
    return {
        name: service.cluster_ip or tuple(next(addresses) for addresses in free.values())
        for name, service in services.items()
    }


def _from_tenth(cidr: Network) -> Iterable[Address]:
    return (cidr.network_address + number for number in range(_FIRST_ADDRESS, cidr.num_addresses - 1))


def node_ports(services: Mapping[str, Service]) -> Mapping[str, int]:
    """Service → its node port, for those that have one; the next free one where none is given."""
    taken = {service.node_port for service in services.values()}
    free = (port for port in NODE_PORTS if port not in taken)
    return {
        name: service.node_port if service.node_port is not None else next(free)
        for name, service in services.items()
        if service.has_node_port
    }
