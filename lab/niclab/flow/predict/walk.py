"""A packet's walk through the planned lab: routes, hooks, tunnels and neighbours, host by host. Pure."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from niclab.cilium import wireguard
from niclab.cilium.decisions import Decisions
from niclab.cilium.l2 import Announced, announced
from niclab.cilium.node import pod_interface
from niclab.cilium.selection.mtu import TUNNEL_OVERHEAD
from niclab.cilium.tables import reason
from niclab.cilium.vlanfilter import Dropped, dropped
from niclab.cilium.wireguard import Keys
from niclab.flow.predict.machine import Between, Machine
from niclab.flow.predict.trip import NOTHING, Ended, Sealed, Trip
from niclab.flow.trace import Decided, Trace
from niclab.kernel.fib import Lookup
from niclab.net.packetrules import Packet
from niclab.net.route import TABLES, Address, NextHop, Why
from niclab.topology.stacking import Segment, carriers, is_up, listening, mtu_of, segment, sends_by_all

_TUNNEL_SOURCE_PORT = 50000


@dataclass(frozen=True, slots=True)
class Egress:
    """The route that was chosen for a packet, and the one of its hops that it takes."""

    lookup: Lookup
    hop: NextHop
    iif: str | None = None


@dataclass(frozen=True, slots=True)
class Onto:
    """Where a packet leaves a host: what it is on then, the interface, its NICs, and whose address is asked for."""

    place: Segment
    device: str
    nics: tuple[str, ...]
    to: Address


Ends = tuple[tuple[str, str], ...]
"""Hosts with an interface each."""


@dataclass(frozen=True)
class Walker:
    """Walks packets. `machines`: the lab's hosts by name; `home`: pod → its node."""

    decisions: Decisions
    machines: Mapping[str, Machine]
    home: Mapping[str, str]
    encrypts: bool = True
    """Does WireGuard encrypt? Not in the built-in datapath's labs."""

    def exchange(
        self, start: str, packet: Packet, answers: Collection[str] | None = None, *, size: int = 0
    ) -> Iterator[Trace]:
        """Every trace of a packet from a host or pod and of its answer. `answers`: who has a server for it; None for
        everybody. `size`: its bytes, which must not be fragmented; the answer's may be, by who makes it."""
        for ended in self._walks(start, Trip(packet, NOTHING, size=size)):
            request = ended if answers is None else _answered(ended, answers)
            if request.path.arrived is None:
                yield Trace(request.path, None)
                continue
            back = _answer(request.trip.seen)
            # [kernel] icmpv6_echo_reply asks for a route by the interface that the request came in by; IPv4 does not.
            prefer = request.trip.iif if back.family == 6 and back.protocol == "icmp" else None
            for reply in self._walks(
                request.path.arrived, Trip(back, request.trip.tracked, prefer=prefer, heard=request.trip.heard)
            ):
                yield Trace(request.path, reply.path)

    def _walks(self, start: str, trip: Trip) -> Iterator[Ended]:
        """Walk one packet from a host or pod."""
        if start in self.home:
            node = self.decisions.nodes[self.home[start]]
            if trip.size > node.route_mtu:
                noted = trip.noting(start, "mtu.pod", size=trip.size, mtu=node.route_mtu, pod=start, why=node.mtu_why)
                yield noted.ended(None, f"Message too long: {trip.size} > {node.route_mtu}, the MTU of {start}'s route")
                return
            yield from self._arrives(self.home[start], pod_interface(start), trip)
        else:
            yield from self._leaves(start, trip)

    def _leaves(self, host: str, trip: Trip) -> Iterator[Ended]:
        """A packet that the host itself made: it is routed, meets the output hook, and is routed again if changed."""
        machine = self.machines[host]
        for routed, egress in self._routed(machine, None, machine.tracked(trip)):
            if egress is None:
                yield routed.ended(None, routed.dropped)
                continue
            for after in machine.through("output", routed, Between(oif=egress.hop.dev)):
                same = (after.packet.destination, after.packet.mark) == (routed.packet.destination, routed.packet.mark)
                again = [(after, egress)] if same or after.dropped else self._routed(machine, None, after)
                for rerouted, next_egress in again:
                    yield from self._out(machine, next_egress, rerouted)

    def _arrives(self, host: str, iif: str, trip: Trip) -> Iterator[Ended]:
        """A packet came in by an interface: to the host itself, out of a tunnel, or on its way."""
        machine = self.machines[host]
        here = (host, iif, trip.packet, trip.inner)
        if trip.left == 0 or here in trip.been:
            # What comes back as it was goes the same way again, until its TTL ends.
            yield trip.noting(host, "loop").ended(None, "the packet goes round in a loop")
            return
        trip = replace(trip, iif=iif, prefer=None, been=trip.been | {here})
        for taken in machine.through("prerouting", machine.tracked(trip), Between(iif=iif)):
            if taken.dropped:
                yield taken.ended(None, taken.dropped)
                continue
            for routed, egress in self._routed(machine, iif, taken):
                if egress is None or egress.lookup.is_local:
                    yield from self._out(machine, egress, routed)
                    continue
                for after in machine.through("forward", routed, Between(iif=iif, oif=egress.hop.dev)):
                    yield from self._out(machine, egress, after)

    def _routed(self, machine: Machine, iif: str | None, trip: Trip) -> Iterator[tuple[Trip, Egress | None]]:
        """The routes out of a host for a packet that came in by `iif` or was made there; None where it ends."""
        packet, host = trip.packet, machine.name
        lookup = machine.fib.lookup(
            packet.destination, source=packet.source, iif=iif, mark=packet.mark, prefer=trip.prefer
        )
        if iif is not None and packet.family == 4 and packet.source in machine.own:
            noted = trip.noting(host, "source.own", source=packet.source)
            yield replace(noted, dropped=f"{packet.source} is {host}'s own address: nobody else may send from it"), None
        elif iif is not None and not machine.forwards and not (lookup and lookup.is_local):
            yield replace(trip.noting(host, "forward.none"), dropped=f"{host} does not forward"), None
        elif lookup is None or not lookup.hops:
            why = (lookup.route.why or "route.refused") if lookup else "route.none"
            noted = trip.noting(host, why, destination=packet.destination, route=lookup.route if lookup else None)
            yield replace(noted, dropped=f"{host} has no route to {packet.destination}"), None
        else:
            for hop in lookup.hops:
                oif = None if lookup.is_local else hop.dev
                if iif is None or machine.believes(packet, iif, oif):
                    yield self._noted(machine, trip, lookup, hop), Egress(lookup, hop, iif)
                else:
                    yield _disbelieved(machine, trip, iif, oif), None

    def _noted(self, machine: Machine, trip: Trip, lookup: Lookup, hop: NextHop) -> Trip:
        """With the step that says which route was chosen, and why it is there."""
        route, host, to = lookup.route, machine.name, trip.packet.destination
        why = _reason_of_route(lookup)
        return trip.noting(
            host,
            why,
            destination=to,
            cidr=route.destination,
            route=route,
            table=route.table,
            metric=route.effective_metric,
            rule=lookup.rule,
            hops=tuple(each.words() for each in lookup.hops),
            hop=hop.words(),
            device=hop.dev,
            remote=route.encap.remote if route.encap else None,
        )

    def _out(self, machine: Machine, egress: Egress | None, trip: Trip) -> Iterator[Ended]:
        """The packet was routed: to the host itself, into the tunnel, to a pod, or out of a NIC."""
        if egress is None or trip.dropped:
            yield trip.ended(None, trip.dropped)
        elif egress.lookup.is_local:
            yield from self._taken(machine, trip)
        elif (limit := self._limit(machine, egress, trip)) is not None:
            noted = trip.noting(machine.name, "mtu.too-long", size=trip.size, mtu=limit, device=egress.hop.dev)
            yield noted.ended(None, f"{trip.size} bytes are too long for {machine.name}'s {egress.hop.dev} ({limit})")
        elif egress.lookup.route.encap is not None and trip.inner is None:
            for after in self._post(machine, trip, Between(iif=egress.iif, oif=egress.hop.dev)):
                yield from self._encapsulated(machine, egress.lookup.route.encap.remote, after)
        else:
            to, device = egress.hop.via or trip.packet.destination, egress.hop.dev or ""
            leaving = self._leaving(machine, device, trip)
            # [kernel] rt_nexthop: to IPv4's masquerading an IPv6 gateway is none.
            neighbour = to if to.version == trip.packet.family else trip.packet.destination
            for after in self._post(machine, leaving, Between(iif=egress.iif, oif=device, neighbour=neighbour)):
                yield from self._through(machine, device, to, after)

    def _limit(self, machine: Machine, egress: Egress, trip: Trip) -> int | None:
        """The MTU of the route or its device, where the packet is longer. [kernel] ip_forward, ip_finish_output

        A tunnel's packets have no DF bit: they are fragmented. What agents themselves put into a tunnel is not asked
        for its size [measured on 1.20.0-dev].
        """
        route, device = egress.lookup.route, egress.hop.dev or ""
        if not trip.size or trip.inner is not None or (route.encap is not None and egress.iif is not None):
            return None
        node = self.decisions.nodes.get(machine.name)
        own = mtu_of(machine.host, device) if device in machine.host.interfaces else node.mtu if node else None
        limit = min((mtu for mtu in (route.mtu, own) if mtu is not None), default=trip.size)
        return limit if trip.size > limit else None

    def _post(self, machine: Machine, trip: Trip, between: Between) -> Iterator[Trip]:
        """The packet after postrouting, and after what is asked once it is translated."""
        for after in machine.through("postrouting", trip, between):
            if after.dropped:
                yield after
            else:
                yield from machine.through("leaving", after, between)

    def _taken(self, machine: Machine, trip: Trip) -> Iterator[Ended]:
        """The packet is for the host itself; a tunnel's comes out of the tunnel's device."""
        for after in machine.through("input", trip, Between()):
            if after.dropped:
                yield after.ended(None, after.dropped)
            elif after.inner is None:
                yield self._seen(machine.name, after).ended(machine.name)
            elif after.sealed is not None and machine.name in self._keys.nodes:
                held = after.sealed
                ends = {"source": held.packet.source, "destination": held.packet.destination}
                noted = after.noting(machine.name, "wireguard.opened", **ends)
                opened = replace(noted.on(replace(held.packet, mark=0), held.inner), tunnel=held.tunnel, sealed=None)
                yield from self._arrives(machine.name, wireguard.DEVICE, opened)
            elif machine.name not in self._running:
                port, why = after.packet.port, f"{machine.name} is no end of this tunnel"
                inputs = {"destination": after.packet.destination, "port": port}
                yield after.noting(machine.name, "arrived.no-server", **inputs).ended(None, why)
            else:
                inner, tunnel = after.inner, self.decisions.nodes[machine.name].tunnel_device
                noted = after.noting(machine.name, "tunnel.end", source=inner.source, destination=inner.destination)
                yield from self._arrives(machine.name, tunnel, noted.on(replace(inner, mark=0), None))

    def _encapsulated(self, machine: Machine, remote: Address, trip: Trip) -> Iterator[Ended]:
        """[kernel] one lookup without a source chooses the outer packet's NIC, and then its source address."""
        if trip.dropped:
            yield trip.ended(None, trip.dropped)
            return
        node = self.decisions.nodes[machine.name]
        lookup = machine.fib.lookup(remote, mark=trip.packet.mark)
        if lookup is not None and lookup.is_local:
            noted = trip.noting(machine.name, "tunnel.own-end", remote=remote)
            yield noted.ended(None, f"the tunnel's end {remote} is {machine.name}'s own address")
            return
        for hop in lookup.hops if lookup else ():
            assert lookup is not None
            source = machine.fib.source_for(remote, replace(lookup, hops=(hop,)), machine.host)
            if source is None:
                noted = trip.noting(machine.name, "tunnel.no-source", remote=remote)
                yield noted.ended(None, f"{machine.name} has no address for the tunnel to {remote}")
                continue
            outer = Packet(source, remote, "udp", _TUNNEL_SOURCE_PORT, node.settings.tunnel_port, mark=trip.packet.mark)
            tunnelled = replace(trip.on(outer, trip.packet), tunnel=node.settings.tunnel_protocol)
            noted = self._noted(machine, tunnelled, lookup, hop).noting(
                machine.name,
                "tunnel.outer",
                protocol=node.settings.tunnel_protocol,
                source=source,
                remote=remote,
            )
            for after in machine.through("output", machine.tracked(noted), Between(oif=hop.dev)):
                yield from self._out(machine, Egress(lookup, hop), after)
        if lookup is None or not lookup.hops:
            noted = trip.noting(machine.name, "route.none", destination=remote)
            yield noted.ended(None, f"{machine.name} has no route to the tunnel's end {remote}")

    def _through(self, machine: Machine, device: str, to: Address, trip: Trip) -> Iterator[Ended]:
        """The packet leaves a host by an interface, to the neighbour who has the address `to`."""
        host = machine.name
        if trip.dropped:
            yield trip.ended(None, trip.dropped)
            return
        pod = machine.pods.get(device)
        if pod is not None:
            yield self._seen(pod, trip.plugged_into(pod)).ended(pod)
            return
        encrypts = self.encrypts and trip.sealed is None and bool(self._keys.nodes)
        peer = self._keys.peer(host, trip.packet, tunnelled=trip.inner is not None) if encrypts else None
        if peer is not None and device in self.decisions.nodes[host].selected:
            yield from self._sealed(machine, peer, trip)
            return
        if peer is not None:
            trip = trip.noting(host, "wireguard.clear", device=device)
        place = segment(machine.host, device)
        if place is None:
            yield trip.noting(host, "device.nowhere", device=device).ended(None, f"{device} of {host} leads nowhere")
            return
        every = carriers(machine.host, device) if is_up(machine.host, device) else ()
        nics = tuple(nic for nic in every if self._filtered(host, device, nic) is None)
        if len(nics) < len(every):
            blocked = next(nic for nic in every if nic not in nics)
            yield self._ended_by_filter(trip, host, device, blocked)
            if not nics:
                return
        onto = Onto(place, device, nics, to)
        neighbours = self._neighbours(onto, host, trip) if nics else ()
        if nics and not neighbours and to in self._announced:
            yield from self._to_announcer(machine, onto, trip)
        else:
            yield from self._handed_over(machine, onto, neighbours, trip)

    @cached_property
    def _keys(self) -> Keys:
        return Keys(self.decisions)

    def _sealed(self, machine: Machine, peer: str, trip: Trip) -> Iterator[Ended]:
        """Encrypted for a peer: a packet of the kernel's own, by its route to the peer's node IP."""
        remote = self._keys.end(machine.name, peer)
        lookup = machine.fib.lookup(remote) if remote is not None else None
        if remote is None or lookup is None or not lookup.hops or lookup.is_local:
            noted = trip.noting(machine.name, "route.none", destination=remote)
            yield noted.ended(None, f"{machine.name} has no route to {peer}'s end of WireGuard, {remote}")
            return
        for hop in lookup.hops:
            source = machine.fib.source_for(remote, replace(lookup, hops=(hop,)), machine.host)
            if source is None:
                noted = trip.noting(machine.name, "tunnel.no-source", remote=remote)
                yield noted.ended(None, f"{machine.name} has no address for WireGuard to {remote}")
                continue
            outer = Packet(source, remote, "udp", wireguard.PORT, wireguard.PORT)
            on = replace(trip.on(outer, trip.seen), tunnel=wireguard.PROTOCOL)
            held = replace(on, sealed=Sealed(trip.packet, trip.inner, trip.tunnel))
            noted = held.noting(machine.name, "wireguard.sealed", source=source, remote=remote, peer=peer)
            sent = self._noted(machine, noted, lookup, hop)
            for after in machine.through("output", machine.tracked(sent), Between(oif=hop.dev)):
                yield from self._out(machine, Egress(lookup, hop), after)

    def _to_announcer(self, machine: Machine, onto: Onto, trip: Trip) -> Iterator[Ended]:
        """To a service's address that a node's program answers for: one way for each node that may have the lease."""
        service, candidates = self._announced[onto.to]
        for node, announcing in candidates:
            there = [nic for place, nic in listening(self.machines[node].host) if place == onto.place]
            ends = tuple(
                (node, nic)
                for nic in there
                if nic in announcing
                and node != machine.name
                and not self._filtered(node, nic, self._first_nic(node, nic))
            )
            rule, nics = "neighbour.announced" if ends else "neighbour.silent", tuple(nic for _, nic in ends)
            noted = trip.noting(machine.name, rule, address=onto.to, service=service, node=node, interfaces=nics)
            if ends:
                yield from self._crossing(machine, onto, ends, noted)
            else:
                yield noted.ended(None, f"{node} has the lease of {service}, and does not answer for {onto.to} here")

    def _handed_over(self, machine: Machine, onto: Onto, neighbours: Ends, trip: Trip) -> Iterator[Ended]:
        """To who has the address, if he is asked and answers."""
        host, to = machine.name, onto.to
        asker = machine.asks_as(onto.device, trip.packet.source, to)
        passing = tuple(end for end in neighbours if self._filtered(*end, self._first_nic(*end)) is None)
        if neighbours and not passing:
            peer, interface = neighbours[0]
            yield self._ended_by_filter(trip, peer, interface, self._first_nic(peer, interface))
            return
        neighbours = passing
        answering = tuple(end for end in neighbours if self._is_answered(asker, to, *end))
        if neighbours and not answering:
            # Unless the neighbour is known already: then it goes its way.
            noted = trip.noting(host, "neighbour.not-believed", address=to, asker=asker, end=neighbours[0][0])
            yield noted.ended(None, f"{neighbours[0][0]} does not answer who has {to}: rp_filter")
        neighbours = answering or neighbours
        if not neighbours:
            noted = trip.noting(host, "neighbour.none", fabric=str(onto.place), address=to)
            yield noted.ended(None, f"nobody on {onto.place} has {to}")
            return
        yield from self._crossing(machine, onto, neighbours, trip)

    def _crossing(self, machine: Machine, onto: Onto, neighbours: Ends, trip: Trip) -> Iterator[Ended]:
        """On the cable, and in by every interface that answered."""
        host, nics = machine.name, onto.nics
        asker = machine.asks_as(onto.device, trip.packet.source, onto.to)
        if asker is not None:
            trip = replace(trip, heard={**trip.heard, (host, onto.place, asker): onto.device})
        by = [nics] if sends_by_all(machine.host, onto.device) else [(nic,) for nic in nics]
        for sending, (peer, interface) in itertools.product(by, neighbours):
            noted = trip
            if len(neighbours) > 1:
                several = tuple(f"{host}.{name}" for host, name in neighbours)
                noted = trip.noting(host, "neighbour.several", address=onto.to, several=several, into=interface)
            tagged = (onto.device, interface) if onto.place.vlan is not None else ("", "")
            if limit := self._refused(trip, onto.device, host, peer, interface):
                noted = noted.noting(peer, "mtu.received", size=trip.size, mtu=limit, device=interface)
                yield noted.ended(None, f"{trip.size} bytes are too long for {peer}'s {interface} ({limit})")
                continue
            into = f"{peer}.{self._first_nic(peer, interface)}"
            sent = noted.crossing((f"{host}.{nic}" for nic in sending), into, peer, tagged)
            yield from self._arrives(peer, interface, sent.on(replace(trip.packet, mark=0), trip.inner))

    def _refused(self, trip: Trip, device: str, host: str, peer: str, interface: str) -> int:
        """The MTU of the interface on the far end of a cable that takes no frame so long; 0: it takes it."""
        if not trip.size:
            return 0
        mine, theirs = mtu_of(self.machines[host].host, device), mtu_of(self.machines[peer].host, interface)
        sent = trip.size if trip.inner is None else min(trip.size + TUNNEL_OVERHEAD[trip.packet.family], mine)
        return theirs if sent > theirs else 0

    def _leaving(self, machine: Machine, device: str, trip: Trip) -> Trip:
        """With the step that says which device it leaves by, and whether Cilium is there."""
        if device not in machine.host.interfaces:
            return trip
        node = self.decisions.nodes.get(machine.name)
        chosen = next((each for each in node.devices if each.name == device), None) if node else None
        if chosen is None:
            return trip.noting(machine.name, "device.other", device=device)
        why = reason("device.selected" if chosen.selected else "device.not-selected", source=chosen.source)
        return trip.noting(
            machine.name, why, device=device, reason=chosen.reason, rule=str(chosen.rule), number=chosen.number
        )

    def _seen(self, where: str, trip: Trip) -> Trip:
        source = trip.packet.source
        return trip.noting(where, "arrived", end=where, source=source, whose=self._whose.get(source, "nobody's here"))

    @cached_property
    def _whose(self) -> Mapping[Address, str]:
        """Address → whose it is, in words."""
        topology = self.decisions.topology
        whose: dict[Address, str] = {}
        for host, name, link in topology.interface_pairs():
            for interface in link.addresses:
                owner = f"{host}'s on {name}"
                whose[interface.ip] = f"{whose[interface.ip]} and {owner}" if interface.ip in whose else owner
        families = topology.families
        for node in topology.nodes:
            for family in families:
                if (router := topology.router_address(node, family)) is not None:
                    whose[router] = f"{node}'s router IP"
        for pod, addresses in self.decisions.pod_addresses.items():
            whose.update(dict.fromkeys(addresses, f"{pod}'s own"))
        return whose

    def _neighbours(self, onto: Onto, host: str, trip: Trip) -> Ends:
        """Where a packet for an address may arrive: at one host, by any of its interfaces that answers.

        [kernel] ARP is answered on every interface for any of the host's addresses (arp_ignore=0), and who answers
        first is believed; ND is answered by the interface that has the address. Who asked is known by its question.
        Interfaces without an address are shown where it makes a difference by which of them a packet comes in.
        """
        place, address = onto.place, onto.to
        owner = next((holder for holder in self._holders[place, address] if holder[0] != host), None)
        if address.version == 6:
            return (owner,) if owner else ()
        for name, _ in (owner,) if owner else self._on_segment[place]:
            if name != host and (owner or address in self.machines[name].own):
                machine = self.machines[name]
                if owner and address not in machine.own:
                    return (owner,)
                several = tuple(end for end in self._on_segment[place] if end[0] == name)
                answering = tuple(end for end in several if not machine.ignores(end[1], address))
                if machine.minds_the_interface:
                    return answering
                if (asked := trip.heard.get((name, place, address))) is not None:
                    return ((name, asked),)
                addressed = (end for end in answering if machine.host.interfaces[end[1]].addresses_of(4))
                return tuple(addressed) or answering[:1]
        return ()

    def _is_answered(self, asker: Address | None, address: Address, host: str, interface: str) -> bool:
        """[kernel] arp_process asks the reverse path filter of who asks, too."""
        return asker is None or self.machines[host].believes(Packet(asker, address), interface, None)

    def _first_nic(self, host: str, interface: str) -> str:
        """Where frames for an interface are seen."""
        return next(iter(carriers(self.machines[host].host, interface)), interface)

    def _filtered(self, host: str, interface: str, nic: str) -> Dropped | None:
        """What of Cilium's drops an interface's frames by a NIC. What is asked of a neighbour is answered with the same
        tag: where only what comes in is dropped, nothing leaves either."""
        if host not in self._running or not self.machines[host].host.links:
            return None
        return dropped(self.decisions.nodes[host], self.decisions.topology.nodes[host], interface, nic)

    def _ended_by_filter(self, trip: Trip, host: str, interface: str, nic: str) -> Ended:
        drop = self._filtered(host, interface, nic)
        assert drop is not None
        ways = "in and out" if drop.out else "as they come in, the answers of neighbours too"
        noted = trip.noting(host, "vlan.filtered", device=interface, tag=drop.tag, lower=drop.device, ways=ways)
        return noted.ended(None, f"the VLAN filter of {host} drops frames with tag {drop.tag} on {drop.device}")

    @cached_property
    def _announced(self) -> Announced:
        return announced(self.decisions)

    @cached_property
    def _running(self) -> frozenset[str]:
        return frozenset(self.decisions.running)

    @cached_property
    def _on_segment(self) -> Mapping[Segment, list[tuple[str, str]]]:
        """Fabric or VLAN → the (host, interface) that hear what is on it."""
        ends: dict[Segment, list[tuple[str, str]]] = defaultdict(list)
        for name, host in self.decisions.topology.hosts.items():
            for place, interface in listening(host):
                ends[place].append((name, interface))
        return ends

    @cached_property
    def _holders(self) -> Mapping[tuple[Segment, Address], list[tuple[str, str]]]:
        """(fabric or VLAN, address) → the interfaces there that are up and have it, or to which a cloud brings what is
        for it."""
        topology = self.decisions.topology
        holders: dict[tuple[Segment, Address], list[tuple[str, str]]] = defaultdict(list)
        for place, ends in self._on_segment.items():
            for host, name in ends:
                for interface in topology.hosts[host].interfaces[name].addresses:
                    holders[place, interface.ip].append((host, name))
        for pod, (node, spec) in topology.pods.items():
            home = topology.nodes[node]
            owner = home.nic_of(spec)
            if owner is not None and home.nics[owner].up:
                for address in self.decisions.pod_addresses[pod]:
                    holders[Segment(home.nics[owner].fabric), address] = [(node, owner)]
        return holders


def _reason_of_route(lookup: Lookup) -> str | Why:
    """Why this route was chosen: its own reason where it has one, else the kernel's routing."""
    route, rule = lookup.route, lookup.rule
    if lookup.is_local:
        return "route.local"
    if len(lookup.hops) > 1 and (route.table in TABLES.values() or route.why is None):
        return "route.multipath"
    if route.why is not None:
        return route.why
    plain = rule.table in TABLES.values() and rule.source is None and rule.mark is None
    return "route" if plain else "route.rule"


def _disbelieved(machine: Machine, trip: Trip, iif: str, oif: str | None) -> Trip:
    source, mode = trip.packet.source, machine.filters[iif]
    lookup = machine.way_back(trip.packet, oif)
    back = ", ".join(sorted(lookup.devices)) if lookup and lookup.hops else "nothing"
    noted = trip.noting(machine.name, "source.reverse-path", source=source, iif=iif, back=back, mode=mode)
    return replace(noted, dropped=f"{machine.name} drops {source} that comes in by {iif}: rp_filter={mode}")


def _answered(request: Ended, answers: Collection[str]) -> Ended:
    """A packet that comes to a host on which nothing listens, e.g. to a node port on a NIC that serves none, ends."""
    where, packet = request.path.arrived, request.trip.seen
    if where is None or where in answers:
        return request
    decision = Decided(reason("arrived.no-server"), (("destination", packet.destination), ("port", packet.port)))
    why = f"{where} itself has no server at {packet.destination} port {packet.port}"
    return replace(request, path=request.path.ended(why, where, decision))


def _answer(packet: Packet) -> Packet:
    """What the far end sends back. UDP's answers could begin a connection; echo replies and SYN-ACKs could not."""
    return Packet(
        packet.destination, packet.source, packet.protocol, packet.port, packet.source_port, packet.protocol != "udp"
    )
