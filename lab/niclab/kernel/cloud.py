"""What a cloud does for its instances: it brings what is for a pod's address to the NIC that it belongs to. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from niclab.net.operation import AddNeighbour
from niclab.topology import Topology

if TYPE_CHECKING:
    from niclab.kernel.plan import Cable


def neighbours(topology: Topology, cables: Sequence[Cable]) -> Iterator[AddNeighbour]:
    """Every other host of a subnet knows whose a pod's address is: on real ones nobody asks by ARP, nobody answers."""
    owners = {cable.tap: cable for cable in cables}
    addresses = topology.pod_addresses()
    for pod, (node, spec) in topology.pods.items():
        name = topology.nodes[node].nic_of(spec)
        if name is None:
            continue
        owner = owners[f"{node}.{name}"]
        for cable in cables:
            if cable.nic.fabric == owner.nic.fabric and cable.host != node and cable.nic.up:
                for address in addresses[pod]:
                    yield AddNeighbour(cable.host, cable.nic_name, address, owner.mac)
