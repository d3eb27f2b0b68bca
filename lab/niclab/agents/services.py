"""The topology's services as Kubernetes has them, and what an agent still lacks of them. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from niclab.agents import kube
from niclab.net.route import Address, Family, ip_address
from niclab.topology import Topology


def services(
    topology: Topology, pods: Mapping[str, tuple[Address, ...]], families: Collection[Family]
) -> Iterator[kube.Service]:
    """Every service with the backends that are plugged, in the families that the cluster has."""
    virtual, node_ports = topology.service_addresses(), topology.service_node_ports()
    for name, one in topology.services.items():
        mine = [address for address in virtual[name] if address.version in families]
        yield kube.Service(
            name=name,
            ports=(
                kube.Port(
                    port=one.port,
                    protocol="TCP" if one.protocol == "tcp" else "UDP",
                    target=one.backend_port,
                    node_port=node_ports.get(name),
                ),
            ),
            backends=tuple(
                kube.Backend(address, node=topology.pods[pod][0], pod=pod)
                for pod in one.pods
                for address in pods.get(pod, ())
                if address.version in families
            ),
            type=one.type,
            families=tuple(4 if address.version == 4 else 6 for address in mine),
            cluster_ips=tuple(mine),
            ingress=tuple(address for address in one.load_balancer_ip if address.version in families),
            external_ips=tuple(address for address in one.external_ips if address.version in families),
            external_traffic_policy=one.external_traffic_policy,
            internal_traffic_policy=one.internal_traffic_policy,
        )


def lacking(
    rows: Sequence[Mapping[str, Any]], wanted: Sequence[kube.Service], *, node: str, node_ports: bool
) -> list[str]:
    """What an agent still lacks, from its StateDB's table `frontends`: services not in its eBPF maps, or incomplete.

    `node_ports`: it also serves what comes from outside the cluster (kube-proxy replacement).
    """
    known = {str(row.get("Address")): row for row in rows}
    found = []
    for one in wanted:
        for address in _frontends(one, node_ports=node_ports):
            row = known.get(address)
            if row is None or (row.get("Status") or {}).get("kind") != "Done":
                found.append(f"{node} does not serve {one.name} at {address} yet")
        for virtual in one.cluster_ips:
            row = known.get(_address(virtual, one.ports[0].port, one.ports[0].protocol), {})
            backends = {str(backend.get("Address")) for backend in row.get("Backends") or ()}
            if row and backends != _backends(one, node, virtual.version):
                found.append(f"{node} does not have the IPv{virtual.version} backends of {one.name} yet")
    return found


def _frontends(one: kube.Service, *, node_ports: bool) -> list[str]:
    """The addresses a service has on every node, as StateDB writes them; those of single NICs follow from 0.0.0.0."""
    port = one.ports[0]
    found = [_address(address, port.port, port.protocol) for address in one.cluster_ips]
    if node_ports:
        found += [_address(address, port.port, port.protocol) for address in (*one.ingress, *one.external_ips)]
        if port.node_port is not None:
            every = [ip_address("0.0.0.0" if family == 4 else "::") for family in one.families]
            found += [_address(address, port.node_port, port.protocol) for address in every]
    return found


def _backends(one: kube.Service, node: str, family: int) -> set[str]:
    """The backends of a service's virtual address of one family on one node."""
    port = one.ports[0]
    local = one.internal_traffic_policy == "Local"
    return {
        _address(backend.address, port.target_port, port.protocol)
        for backend in one.backends
        if backend.address.version == family and (not local or backend.node == node)
    }


def _address(address: Address, port: int, protocol: str) -> str:
    host = str(address) if address.version == 4 else f"[{address}]"
    return f"{host}:{port}/{protocol}"
