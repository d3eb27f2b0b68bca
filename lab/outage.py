"""Outages, made and mended: a NIC that goes down for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lab.deployment import Deployment
from lab.errors import LabError
from lab.operation import AddAddress, AddRoute, Operation, SetLink
from lab.substrate import readiness
from lab.topology import Host
from lab.topology.routing import kept


@contextmanager
def link_down(deployment: Deployment, tap: str) -> Iterator[None]:
    """Run the block while the NIC `host.nic` is down, then restore what the kernel forgot of it, and what BGP taught.

    Not for nodes: what a datapath has put on their NICs would be lost as well. Raises LabError.
    """
    name, _, nic = tap.partition(".")
    substrate, topology = deployment.substrate, deployment.plan.topology
    host = {**topology.routers, **topology.externals}.get(name)
    if host is None or nic not in host.nics:
        raise LabError(f"{tap!r} is no NIC of a router or an external", mend="e.g. tor0.down")
    substrate.apply([SetLink(name, nic, up=False)])
    try:
        yield
    finally:
        substrate.apply(_restoring(name, host, nic))
        readiness.wait(substrate)
        if deployment.speakers is not None:
            deployment.speakers.settle()


def _restoring(name: str, host: Host, nic: str) -> list[Operation]:
    """[kernel] a NIC that goes down loses its IPv6 addresses, and the host every route by it."""
    addresses = [AddAddress(name, nic, interface) for interface in host.nics[nic].addresses_of(6)]
    routes = [AddRoute(name, route, replace=True) for route in kept(host, host.routes) if nic in route.devices]
    return [SetLink(name, nic), *addresses, *routes]
