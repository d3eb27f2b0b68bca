"""Between which addresses a flow's packets go. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from niclab.net.route import FAMILIES, Address
from niclab.topology import Flow, Topology
from niclab.topology.model import targets

Ends = tuple[list[Address], list[Address]]
"""The source's and the destination's addresses, all of one family and at least one each."""


def between(
    topology: Topology, flow: Flow, addresses: Callable[[str], Sequence[Address]], exits: Mapping[str, str]
) -> Ends | str:
    """The addresses of a flow's ends, or why it cannot be sent.

    `addresses`: those of a pod or host, none for a pod that is not plugged. `exits`: node → its agent's last words.
    """
    for end in (flow.source, flow.destination):
        node = topology.pods[end][0] if end in topology.pods else ""
        if node in exits:
            return f"{end} is not plugged: the agent on {node} exits: {exits[node]}"

    def of(end: str) -> Sequence[Address]:
        host, _, nic = end.partition(".")
        if nic:
            return [interface.ip for interface in topology.hosts[host].interfaces[nic].addresses]
        return targets(topology, flow) if end in topology.services else addresses(end)

    source, destination = of(flow.source), of(flow.destination)
    for family in (flow.family,) if flow.family else FAMILIES:
        pair = [[address for address in end if address.version == family] for end in (source, destination)]
        if all(pair):
            return pair[0], pair[1]
    return f"{flow.source} and {flow.destination} share no address family"
