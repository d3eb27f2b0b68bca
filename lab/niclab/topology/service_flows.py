"""Flows to services: which service a flow goes to, at which address, and by which protocol and port. Pure."""

from __future__ import annotations

from niclab.net.route import Address
from niclab.topology.flow import Flow
from niclab.topology.model import Topology


def service_of(topology: Topology, flow: Flow) -> str | None:
    """The service a flow goes to: named, or behind a node's NIC and the flow's port. None for every other flow."""
    if flow.destination in topology.services:
        return flow.destination
    host, dot, _ = flow.destination.partition(".")
    if not dot or host not in topology.nodes or flow.port is None:
        return None
    ports = topology.service_node_ports()
    return next(
        (
            name
            for name, port in ports.items()
            if (topology.services[name].protocol, port) == (flow.protocol, flow.port)
        ),
        None,
    )


def check_flow(topology: Topology, flow: Flow) -> tuple[str, str] | None:
    """Why a flow to a service's name cannot be sent, and how to fix it; or None. Its source is known to be right."""
    name = flow.destination
    service = topology.services[name]
    if flow.port is not None and (flow.protocol, flow.port) != (service.protocol, service.port):
        return (
            f"service {name!r} is {service.protocol} port {service.port}, not {flow.protocol} port {flow.port}",
            f"write {flow.source} -> {name}: the service's own protocol and port are used",
        )
    if _inside(topology, flow.source) or service.outside:
        return None
    if not service.has_node_port:
        return (
            f"nothing outside the cluster reaches service {name!r}: it has a cluster IP only",
            "give it external_ips, or type: NodePort or LoadBalancer",
        )
    node = next(iter(topology.nodes))
    nic = next(iter(topology.nodes[node].nics))
    port = topology.service_node_ports()[name]
    return (
        f"service {name!r} has no address for clients outside the cluster, only node ports",
        f"write {flow.source} -> {node}.{nic}:{service.protocol}:{port}",
    )


def _inside(topology: Topology, end: str) -> bool:
    """Is a flow's end a pod or a node's NIC?"""
    return end in topology.pods or end.partition(".")[0] in topology.nodes


def targets(topology: Topology, flow: Flow) -> tuple[Address, ...]:
    """The addresses of the service that a flow names: virtual ones within the cluster, else those for outside."""
    if _inside(topology, flow.source):
        return topology.service_addresses()[flow.destination]
    return topology.services[flow.destination].outside


def as_sent(topology: Topology, flow: Flow) -> Flow:
    """The flow with the protocol and port its packets have: a service's own where a service is named."""
    service = topology.services.get(flow.destination)
    if service is None:
        return flow
    return flow.model_copy(update={"protocol": service.protocol, "port": service.port})
