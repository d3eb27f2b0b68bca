"""From a flow to an order: which addresses its packets have, and who answers them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from niclab.flow.predict.world import between
from niclab.flow.verdict import Served
from niclab.net.route import Address
from niclab.topology.model import Flow, Topology, answering, as_sent, service_at, service_of
from niclab.wire.measure import Answer, Order


@dataclass(frozen=True)
class Ordering:
    """What there is to send between. `cgroup`: node → the cgroup of its programs, where its agent looks at sockets."""

    topology: Topology
    addresses: Mapping[str, tuple[Address, ...]]
    """Pod, external or host name → its addresses; none for a pod that is not plugged."""
    cgroup: Callable[[str], Path | None] | None = None
    exits: Mapping[str, str] = field(default_factory=dict)
    """Node → its agent's last words, where it refused to run."""

    def order(
        self,
        flow: Flow,
        *,
        count: int = 5,
        size: int | None = None,
        vary_ports: bool = False,
        vary_addresses: bool = False,
    ) -> Order | str:
        """What to send for a flow, or why nothing can be."""
        ends = between(self.topology, flow, self.addresses.__getitem__, self.exits)
        if isinstance(ends, str):
            return ends
        (source, *_), destinations = ends
        served = self.served(flow)
        ending = () if served else self._ending(flow)
        if why := self._unseen(flow, served) if served else self._inside(flow, ending):
            return why
        return Order(
            flow=as_sent(self.topology, flow),
            source=source,
            destination=destinations[0],
            source_host=flow.source.partition(".")[0],
            destination_host=ending[0] if ending else "",
            count=count,
            size=size,
            vary_ports=vary_ports,
            destinations=tuple(destinations) if vary_addresses else (),
            answers=self._answers(served) if served else tuple(Answer(name, flow.port) for name in ending),
            cgroup=self._cgroup(flow.source) if served else None,
        )

    def served(self, flow: Flow) -> Served | None:
        """The service that a flow goes to and its backends that are plugged; None for every other flow."""
        name = service_of(self.topology, flow)
        if name is None:
            return None
        sent = as_sent(self.topology, flow)
        pods = tuple(pod for pod in answering(self.topology, name) if self.addresses.get(pod))
        return Served(name, sent.protocol, sent.port, pods)

    def _ending(self, flow: Flow) -> tuple[str, ...]:
        """The pods and hosts that answer a flow: whoever has its address. A service's on another port is nobody's."""
        if service_at(self.topology, flow):
            return ()
        if flow.address is None:
            return (flow.destination.partition(".")[0],)
        pods = (name for name in self.topology.pods if flow.address in self.addresses.get(name, ()))
        hosts = (name for name in self.topology.hosts if flow.address in self.topology.own_addresses(name))
        return *pods, *hosts

    def _unseen(self, flow: Flow, served: Served) -> str | None:
        """Why a flow may be answered where no tap is: Cilium may choose a backend beside the sender."""
        host = flow.source.partition(".")[0]
        for pod in served.pods:
            if pod == host:
                return f"{pod} is a backend of {served.service} itself: what it sends to itself passes no tap"
            if self.topology.pods[pod][0] == host:
                return f"{pod} is a backend of {served.service} on {host} itself: its answers to {host} pass no tap"
        return None

    def _inside(self, flow: Flow, ending: Collection[str]) -> str | None:
        """Why a flow is answered where no tap is: its ends are two addresses of one host.

        An address in a VRF is not local outside of it: such a packet may leave the host.
        """
        host = flow.source.partition(".")[0]
        links = self.topology.hosts[host].links if host in self.topology.hosts else {}
        if host not in ending or any(link.vrf for link in links.values()):
            return None
        return f"what {host} sends to itself passes no tap"

    def _answers(self, served: Served) -> tuple[Answer, ...]:
        """Only the backends: a server on a node would answer on NICs where no agent serves the node port."""
        ports = answering(self.topology, served.service)
        return tuple(Answer(pod, ports[pod]) for pod in served.pods)

    def _cgroup(self, end: str) -> Path | None:
        """Programs on nodes and in pods meet Cilium at their sockets; a raw packet would not."""
        host = end.partition(".")[0]
        node = self.topology.pods[host][0] if host in self.topology.pods else host
        return self.cgroup(node) if self.cgroup is not None and node in self.topology.nodes else None
