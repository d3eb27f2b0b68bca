"""What should happen to a flow: its packets walked through the planned lab, without touching the kernel. Pure.

The plan says every route, rule and NAT rule of every host; the walk applies them as the kernel would. Where a multipath
route leaves the choice to a hash, each choice is an alternative.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from lab.datapath import builtin
from lab.datapath.decision import Decisions, NodeDecision
from lab.fib import Fib
from lab.operation import AddAddress, AddRoute, AddRule
from lab.route import Address, Family, NextHop, Route, Rule
from lab.topology import Flow, Host, Nic, Topology
from lab.topology.service_flows import service_of

_HOPS = 32


@dataclass(frozen=True, slots=True)
class Sent:
    """One packet leaving a host's NIC: `source` is inside any tunnel, `outer` the tunnel's address pair."""

    tap: str
    source: str
    outer: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Walk:
    """One packet's way. `arrived`: the host it ended at, or None, and then `why`; `source` as it was seen there."""

    sent: tuple[Sent, ...]
    arrived: str | None
    source: Address
    why: str = ""


@dataclass(frozen=True)
class Transmission:
    """What one NIC is predicted to send of a flow; the shape of what is observed."""

    requests: bool = False
    replies: bool = False
    inner_src: frozenset[str] = frozenset()
    outer: frozenset[tuple[str, str]] = frozenset()


@dataclass(frozen=True, slots=True)
class Prediction:
    """A flow's request and, if it arrived, its reply."""

    request: Walk
    reply: Walk | None

    @property
    def carried(self) -> bool:
        return self.reply is not None and self.reply.arrived is not None

    def transmitted_by(self, nodes: Collection[str]) -> Mapping[str, Transmission]:
        """Tap → what it sends, for the NICs of these nodes."""
        found: dict[str, Transmission] = {}
        for is_reply, walk in ((False, self.request), (True, self.reply)):
            for one in walk.sent if walk else ():
                if one.tap.partition(".")[0] not in nodes:
                    continue
                so_far = found.get(one.tap, Transmission())
                found[one.tap] = Transmission(
                    requests=so_far.requests or not is_reply,
                    replies=so_far.replies or is_reply,
                    inner_src=so_far.inner_src | {one.source},
                    outer=so_far.outer | ({one.outer} if one.outer else set()),
                )
        return found

    def __str__(self) -> str:
        way = " then ".join(one.tap + (" in a tunnel" if one.outer else "") for one in self.request.sent) or "no NIC"
        end = f"{self.request.source} seen at {self.request.arrived}" if self.request.arrived else self.request.why
        if self.reply is None:
            return f"{way}, {end}"
        back = " then ".join(one.tap for one in self.reply.sent) or "no NIC"
        return f"{way}, {end}; back by {back}" + ("" if self.reply.arrived else f", {self.reply.why}")


@dataclass(frozen=True, slots=True)
class _Packet:
    source: Address
    destination: Address
    outer: tuple[Address, Address] | None = None
    replying: bool = False


Nat = Mapping[tuple[str, Address], Address]
"""(node, address it masquerades to) → the pod behind it."""

Way = tuple[Walk, Nat]


@dataclass(frozen=True, slots=True)
class _Trip:
    """A packet under way: what was sent of it so far, and how many more hops it may take."""

    packet: _Packet
    nat: Nat
    sent: tuple[Sent, ...] = ()
    left: int = _HOPS

    def on(self, packet: _Packet) -> _Trip:
        return replace(self, packet=packet, left=self.left - 1)

    def lost(self, why: str) -> Way:
        return Walk(self.sent, None, self.packet.source, why), self.nat

    def arrived(self, where: str) -> Way:
        return Walk(self.sent, where, self.packet.source), self.nat


@dataclass(frozen=True)
class World:
    """The planned lab as the walk sees it."""

    decisions: Decisions

    @property
    def topology(self) -> Topology:
        return self.decisions.topology

    @cached_property
    def _planned(self) -> Mapping[str, tuple[tuple[Route, ...], tuple[Rule, ...], frozenset[Address]]]:
        """Role → the routes, rules and addresses that the datapath adds."""
        routes: dict[str, dict[object, Route]] = {}
        rules: dict[str, list[Rule]] = {}
        addresses: dict[str, set[Address]] = {}
        for operation in builtin.operations(self.decisions):
            if isinstance(operation, AddRoute):
                route = operation.route
                key = (route.destination, route.table, route.effective_metric)
                routes.setdefault(operation.namespace, {})[key] = route
            elif isinstance(operation, AddRule):
                rules.setdefault(operation.namespace, []).append(operation.rule)
            elif isinstance(operation, AddAddress):
                addresses.setdefault(operation.namespace, set()).add(operation.interface.ip)
        names = {*routes, *rules, *addresses}
        return {
            name: (tuple(routes.get(name, {}).values()), tuple(rules.get(name, ())), frozenset(addresses.get(name, ())))
            for name in names
        }

    def _fib(self, host: str) -> Fib:
        return self._fibs[host]

    @cached_property
    def _fibs(self) -> Mapping[str, Fib]:
        found: dict[str, Fib] = {}
        for name, host in self.topology.hosts.items():
            routes, rules, _ = self._planned.get(name, ((), (), frozenset()))
            taken = {(route.destination, route.table, route.effective_metric) for route in routes}
            own = Fib.of(host)
            kept = [r for r in own.routes if (r.destination, r.table, r.effective_metric) not in taken]
            found[name] = Fib((*kept, *routes), (*own.rules, *rules))
        return found

    @cached_property
    def _local(self) -> Mapping[str, frozenset[Address]]:
        """Host or pod → the addresses it takes packets for."""
        found = {
            name: frozenset(i.ip for nic in host.nics.values() if nic.up for i in nic.addresses)
            | self._planned.get(name, ((), (), frozenset()))[2]
            for name, host in self.topology.hosts.items()
        }
        for pod in self.topology.pods:
            found[pod] = self._planned.get(pod, ((), (), frozenset()))[2]
        return found

    @cached_property
    def _pod_of(self) -> Mapping[tuple[str, str], str]:
        """(node, interface) → the pod behind it."""
        return {(node, builtin.pod_interface(pod)): pod for pod, (node, _) in self.topology.pods.items()}

    def predict(self, flow: Flow) -> tuple[Prediction, ...]:
        """Every way a flow may go; more than one only where a hash decides. Empty when it cannot be sent at all, and
        for flows to services, which are not modelled."""
        if service_of(self.topology, flow) is not None:
            return ()
        ends = self._ends(flow)
        if ends is None:
            return ()
        start, source, target = ends
        found: list[Prediction] = []
        for request, nat in self._walks(start, _Packet(source, target), {}):
            if request.arrived is None:
                found.append(Prediction(request, None))
                continue
            back = _Packet(target, request.source, replying=True)
            found += [Prediction(request, reply) for reply, _ in self._walks(request.arrived, back, nat)]
        return tuple(dict.fromkeys(found))

    def _ends(self, flow: Flow) -> tuple[str, Address, Address] | None:
        source, target = self._addresses(flow.source), self._addresses(flow.destination)
        wanted: tuple[Family, ...] = (flow.family,) if flow.family else (4, 6)
        for family in wanted:
            mine = [address for address in source if address.version == family]
            theirs = [address for address in target if address.version == family]
            if mine and theirs:
                return flow.source.partition(".")[0], mine[0], theirs[0]
        return None

    def _addresses(self, end: str) -> tuple[Address, ...]:
        host, _, nic = end.partition(".")
        if nic:
            return tuple(i.ip for i in self.topology.hosts[host].nics[nic].addresses)
        if end in self.topology.pods:
            up = self._local[end]
            return tuple(address for address in self.topology.pod_addresses()[end] if address in up)
        return tuple(i.ip for one in self.topology.hosts[end].nics.values() for i in one.addresses)

    def _walks(self, start: str, packet: _Packet, nat: Nat) -> Iterator[Way]:
        """Walk one packet from a host or pod; a reply is translated back by the `nat` its request left behind."""
        iif: str | None = None
        host = start
        if start in self.topology.pods:
            host = self.topology.pods[start][0]
            iif = builtin.pod_interface(start)
        yield from self._at(host, iif, _Trip(packet, nat))

    def _at(self, host: str, iif: str | None, trip: _Trip) -> Iterator[Way]:
        """The packet is at a host, come in by `iif` or made there."""
        packet = trip.packet
        if trip.left == 0:
            yield trip.lost("the packet goes round in a loop")
            return
        if packet.outer is None and iif is not None and (host, packet.destination) in trip.nat:
            packet = replace(packet, destination=trip.nat[host, packet.destination])
        target = packet.outer[1] if packet.outer else packet.destination
        if target in self._local[host]:
            if packet.outer is None:
                yield replace(trip, packet=packet).arrived(host)
            else:
                yield from self._at(host, "cilium_vxlan", trip.on(replace(packet, outer=None)))
            return
        forwards = iif is None or host not in self.topology.externals
        found = self._fib(host).lookup(target, source=packet.outer[0] if packet.outer else packet.source, iif=iif)
        if not forwards or found is None or not found.hops:
            yield trip.lost(f"{host} has no route to {target}" if forwards else f"{host} does not forward")
            return
        if found.route.encap is not None and packet.outer is None:
            outer = self._outer(host, found.route.encap.remote)
            if outer is None:
                yield trip.lost(f"{host} has no route to the tunnel's end {found.route.encap.remote}")
            else:
                yield from self._at(host, None, trip.on(replace(packet, outer=outer)))
            return
        for hop in found.hops:
            yield from self._through(host, hop, replace(trip, packet=packet))

    def _outer(self, host: str, remote: Address) -> tuple[Address, Address] | None:
        found = self._fib(host).lookup(remote)
        source = self._fib(host).source_for(remote, found, self.topology.hosts[host]) if found else None
        return (source, remote) if source is not None else None

    def _through(self, host: str, hop: NextHop, trip: _Trip) -> Iterator[Way]:
        """The packet leaves a host by one hop of the route that was chosen."""
        packet, device = trip.packet, hop.dev or ""
        pod = self._pod_of.get((host, device))
        if pod is not None:
            yield trip.arrived(pod)
            return
        nic = self.topology.hosts[host].nics.get(device)
        if nic is None:
            yield trip.lost(f"{device} of {host} leads nowhere")
            return
        node = self.decisions.nodes.get(host)
        address = self._masqueraded(node, device, packet) if node is not None and packet.outer is None else None
        if address is not None:
            trip = replace(trip, nat={**trip.nat, (host, address): packet.source})
            packet = replace(packet, source=address)
        wanted = hop.via or (packet.outer[1] if packet.outer else packet.destination)
        neighbour = self._neighbour(nic, host, wanted)
        if neighbour is None:
            yield replace(trip, packet=packet).lost(f"nobody on {nic.fabric} has {wanted}")
            return
        outer = (str(packet.outer[0]), str(packet.outer[1])) if packet.outer else None
        here = Sent(f"{host}.{device}", str(packet.source), outer)
        yield from self._at(*neighbour, replace(trip.on(packet), sent=(*trip.sent, here)))

    def _neighbour(self, nic: Nic, host: str, address: Address) -> tuple[str, str] | None:
        """Who answers for an address on a fabric. [kernel] ARP is answered for any of the host's addresses, ND not."""
        if not nic.up:
            return None
        for name, other in self.topology.hosts.items():
            for other_name, other_nic in other.nics.items():
                if name == host or other_nic.fabric != nic.fabric or not other_nic.up:
                    continue
                on_nic = any(interface.ip == address for interface in other_nic.addresses)
                if on_nic or (address.version == 4 and address in self._local[name]):
                    return name, other_name
        return None

    def _masqueraded(self, node: NodeDecision, device: str, packet: _Packet) -> Address | None:
        """The address a pod's packet gets as it leaves a device, or None. Replies are not masqueraded (conntrack)."""
        family: Family = 4 if packet.source.version == 4 else 6
        pods = node.pod_cidrs.get(family)
        if node.agent_exits is not None or family not in node.families or not node.masquerades(family):
            return None
        if packet.replying:
            return None
        excluded = node.exclusion(family)
        if excluded is not None and packet.destination in excluded:
            return None
        if not node.tunnels and any(
            p.node_ips.get(family) == packet.destination for p in self.decisions.peers(node.node)
        ):
            return None
        if node.settings.bpf_masquerade:
            if pods is None or packet.source not in pods or device not in node.selected:
                return None
            return node.masquerade_address(device, family)
        return self._by_iptables(node, device, packet, family)

    def _by_iptables(self, node: NodeDecision, device: str, packet: _Packet, family: Family) -> Address | None:
        from lab.selection import matches

        listed = node.settings.egress_masquerade_interfaces
        pods = node.pod_cidrs.get(family)
        if listed:
            if not any(matches(entry, device) for entry in listed):
                return None
        elif pods is None or packet.source not in pods:
            return None
        host: Host = self.topology.hosts[node.node]
        found = self._fib(node.node).lookup(packet.destination, oif=device)
        near = host.nics[device].addresses_of(family)
        for hop in found.hops if found else ():
            gateway = hop.via or packet.destination
            inside = [interface.ip for interface in near if gateway in interface.network]
            if inside:
                return inside[0]
        return near[0].ip if near else None
