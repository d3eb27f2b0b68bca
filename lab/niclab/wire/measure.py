"""One measurement: canaries, probes, answers, canaries again; then every flow's sightings."""

from __future__ import annotations

import contextlib
import select
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from niclab.host.netns import Namespace
from niclab.host.substrate import Substrate
from niclab.kernel.plan import FABRIC, POD, mac
from niclab.net.route import Address
from niclab.topology.model import Flow
from niclab.wire import identity as ids
from niclab.wire.decode import Decoder
from niclab.wire.identity import Identity
from niclab.wire.probe import Probe, build, canary
from niclab.wire.sender import Responder, Sender, Service
from niclab.wire.sighting import Measurement, Sighting, sort
from niclab.wire.sockets import SocketSender
from niclab.wire.tap import Capture, Taps

QUIET = 0.2
"""Seconds without a new frame after which an unanswered probe is lost. All happens in this kernel: what is still
under way after a few milliseconds is waiting for an ARP or neighbour answer that is not coming."""
DEADLINE = 10.0
CANARY_DEADLINE = 2.0
_OVERHEAD = 1024
_SIGHTINGS = 16
_UNANSWERED = 64
"""Probes sent before servers answer what they have: a socket holds about 160 small ones by default."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A host or pod that answers a flow, and the port it does so on; None for ICMP, which its kernel answers."""

    host: str
    port: int | None


@dataclass(frozen=True, slots=True)
class Order:
    """One flow to send: between which addresses, and how many probes of which size (bytes; None: smallest).

    `answers`: who is to answer, where that is not the destination's host on the flow's own port. `cgroup`: send through
    sockets of a process in this cgroup, as a program on the node would; None: past every socket hook. `destinations`:
    where the probes go in turn, if not all to `destination`.
    """

    flow: Flow
    source: Address
    destination: Address
    source_host: str
    destination_host: str
    count: int = 5
    size: int | None = None
    vary_ports: bool = False
    destinations: tuple[Address, ...] = ()
    answers: tuple[Answer, ...] | None = None
    cgroup: Path | None = None

    @property
    def answering(self) -> tuple[Answer, ...]:
        return (Answer(self.destination_host, self.flow.port),) if self.answers is None else self.answers


@dataclass
class Observed:
    """What was seen of one order; its probes carry the flow number `number`."""

    number: int = 0
    sent: int = 0
    refusal: str = ""
    sightings: tuple[Sighting, ...] = ()


@dataclass(frozen=True)
class Batch:
    """What was seen of all orders of one measurement, and the frames themselves."""

    observed: list[Observed]
    measurement: Measurement
    captures: list[Capture]


@dataclass(frozen=True)
class _Sending:
    """An order with its probes, and what becomes of them."""

    order: Order
    probes: tuple[Probe, ...]
    observed: Observed


class Measurer:
    """Sends batches of flows in one lab and watches every cable."""

    def __init__(self, substrate: Substrate, taps: Taps, decoder: Decoder) -> None:
        self._substrate = substrate
        self._taps = taps
        self._number = decoder.lab
        self._decoder = decoder
        self._senders: dict[str, Sender] = {}
        self._next_flow = 0
        self._next_canary = 0

    def close(self) -> None:
        for sender in self._senders.values():
            sender.close()

    def measure(self, orders: Sequence[Order]) -> Batch:
        """Send every order's probes and wait for what becomes of them."""
        for order in orders:
            for host in (order.source_host, *(answer.host for answer in order.answering)):
                if not any(cable.host == host for cable in self._taps.cables):
                    self._taps.add_pod(host)
        sendings = [self._sending(order) for order in orders]
        probes = [probe for sending in sendings for probe in sending.probes if probe.protocol == "tcp"]
        payloads = {len(probe.packet) - (40 if probe.source.version == 4 else 60) for probe in probes}
        decoder = replace(self._decoder, tcp_payloads=tuple(payloads))
        self._taps.drain()
        drops = self._taps.drops
        with contextlib.ExitStack() as undo:
            carriers = self._carriers()
            overflows, clashes = neighbour_overflows(), self._clashes()
            responders = [undo.enter_context(contextlib.closing(responder)) for responder in self._responders(orders)]
            missing = self._canaries("before", decoder)
            senders = [self._sender(sending, undo) for sending in sendings]
            captures: list[Capture] = []
            unanswered: set[Identity] = set()
            for turn in _turns(sendings):
                captures += self._exchange(turn, senders, responders, decoder, unanswered)
            # Who is blind already need not be asked twice.
            missing += [] if missing else self._canaries("after", decoder)
        if unanswered and overflows != neighbour_overflows():
            missing.append("neighbours (this machine's table was full: see net.ipv4.neigh.default.gc_thresh3)")
        if unanswered:
            missing += [
                f"connections of {host} (its kernel dropped a packet that it tracked on two CPUs at once: ask again)"
                for host, number in self._clashes().items()
                if number != clashes.get(host, number)
            ]
        changed = carriers ^ self._carriers()
        missing += [f"{cable.tap} (its carrier changed)" for cable in self._taps.cables if cable.tap in changed]
        by_flow = sort(captures, decoder, self._taps.macs, self._names).flows
        for sending in sendings:
            sending.observed.sightings = by_flow.get(sending.observed.number, ())
        live = self._carriers()
        dark = tuple(cable.tap for cable in self._taps.cables if cable.tap not in live)
        measurement = Measurement(tuple(missing), self._taps.drops - drops, len(live), dark)
        return Batch([sending.observed for sending in sendings], measurement, captures)

    @property
    def _names(self) -> list[str]:
        """Every tap; its place is its number in canaries."""
        return [*(cable.tap for cable in self._taps.cables), *self._taps.pods]

    def _carriers(self) -> set[str]:
        return {cable.tap for cable in self._taps.cables if self._taps.has_carrier(cable)}

    def _clashes(self) -> Mapping[str, int]:
        """Host → how many packets its kernel has dropped because another CPU had just entered their connection."""
        return {
            host: connection_clashes(self._substrate[host])
            for host in dict.fromkeys(cable.host for cable in self._taps.cables)
        }

    def _sending(self, order: Order) -> _Sending:
        flow = self._next_flow
        # TCP's sequence numbers have room for 4096 flows; an older flow's probes are long gone by then.
        self._next_flow = (self._next_flow + 1) % ids.TCP_FLOWS
        probes = build(
            lab=self._number,
            flow=flow,
            count=order.count,
            protocol=order.flow.protocol,
            source=order.source,
            destination=order.destination,
            port=order.flow.port,
            size=order.size,
            vary_ports=order.vary_ports or None,
            destinations=order.destinations,
        )
        return _Sending(order, probes, Observed(flow))

    def _responders(self, orders: Sequence[Order]) -> list[Responder]:
        wanted: dict[str, set[Service]] = {}
        for order in orders:
            for answer in order.answering:
                if answer.port is not None:
                    service = Service(order.flow.protocol, answer.port, order.destination.version)
                    wanted.setdefault(answer.host, set()).add(service)
        return [
            Responder(self._substrate[host], sorted(services, key=str))
            for host, services in wanted.items()
            if host in self._substrate
        ]

    def _exchange(
        self,
        sendings: Sequence[_Sending],
        senders: Sequence[Sender | SocketSender],
        responders: Sequence[Responder],
        decoder: Decoder,
        waiting: set[Identity],
    ) -> list[Capture]:
        """Send in parts small enough for the taps' buffers, draining after each, until all is answered or quiet; the
        frames. `waiting`: the probes that are not answered; those sent here come in, those answered go out."""
        captures: list[Capture] = []
        room = self._taps.capacity // 2
        spent = 0
        for sender, sending in zip(senders, sendings, strict=True):
            observed = sending.observed
            for probe in sending.probes:
                refusal = sender.send(probe)
                observed.sent += 1
                observed.refusal = observed.refusal or refusal or ""
                spent += _SIGHTINGS * (len(probe.packet) + _OVERHEAD)
                if observed.sent % _UNANSWERED == 0:
                    _serve(responders)
                if spent > room:
                    _serve(responders)
                    captures += self._taps.drain()
                    spent = 0
        # The answers to TCP and UDP are seen at the sender's own tap or NIC: nothing is asked of its kernel.
        waiting |= {probe.identity for sending in sendings for probe in sending.probes}
        sources = {sending.observed.number: sending.order.source_host for sending in sendings}
        seen = 0
        quiet_until = time.monotonic() + QUIET
        deadline = time.monotonic() + DEADLINE
        while True:
            _serve(responders)
            captures += self._taps.drain()
            for capture in captures[seen:]:
                decoded = decoder.decode(capture.data)
                if decoded is None or decoded.kind != "reply" or capture.outbound:
                    continue
                if capture.tap.partition(".")[0] == sources.get(decoded.identity.flow):
                    waiting.discard(decoded.identity)
            if len(captures) > seen:
                quiet_until = time.monotonic() + QUIET
            seen = len(captures)
            now = time.monotonic()
            if not waiting or now >= quiet_until or now >= deadline:
                return captures
            self._wait(responders, min(quiet_until, deadline) - now)

    def _wait(self, responders: Sequence[Responder], seconds: float) -> None:
        poll = select.poll()
        for tap in self._taps:
            if tap.is_open:
                poll.register(tap.socket, select.POLLIN)
        for responder in responders:
            for sock in responder.sockets:
                poll.register(sock, select.POLLIN)
        poll.poll(max(1, seconds * 1000))

    def _sender(self, sending: _Sending, undo: contextlib.ExitStack) -> Sender | SocketSender:
        host, cgroup = sending.order.source_host, sending.order.cgroup
        if cgroup is not None:
            return undo.enter_context(contextlib.closing(SocketSender(self._substrate[host], cgroup, sending.probes)))
        if host not in self._senders:
            self._senders[host] = Sender(self._substrate[host])
        return self._senders[host]

    def _canaries(self, when: str, decoder: Decoder) -> list[str]:
        """Send one canary each way on every cable with carrier, and one from every tapped pod; the names of those that
        were not seen at their own tap.

        A cable without carrier carries nothing and needs none, unless it is the tap's own end that is down.
        """
        self._next_canary = (self._next_canary + 1) % 65536
        number = self._next_canary
        missing: list[str] = []
        wanted: dict[tuple[int, str, int, bool], str] = {}
        sent: list[tuple[int, Literal["out", "in"], str, str, str, str]] = []
        for index, cable in enumerate(self._taps.cables):
            if not self._taps.is_watched(cable):
                missing.append(f"{cable.tap} (its outer end is down)")
            elif self._taps.has_carrier(cable):
                sent.append((index, "out", cable.tap, cable.mac, cable.host, cable.nic_name))
                sent.append((index, "in", cable.tap, cable.port_mac, FABRIC, cable.port))
        for index, pod in enumerate(self._taps.pods, len(self._taps.cables)):
            sent.append((index, "out", pod, mac(POD, 0, index), pod, "eth0"))
        for index, direction, name, source, role, interface in sent:
            frame = canary(lab=self._number, tap=index, number=number, direction=direction, source_mac=source)
            try:
                self._taps.inject(role, interface, frame)
            except OSError as error:
                missing.append(f"{name} {direction} ({when}: {error.strerror})")
            else:
                wanted[index, direction, number, direction == "out"] = f"{name} {direction} ({when})"
        seen: set[tuple[int, str, int, bool]] = set()
        deadline = time.monotonic() + CANARY_DEADLINE
        while True:
            seen |= sort(self._taps.drain(), decoder, self._taps.macs, self._names).canaries
            if wanted.keys() <= seen or time.monotonic() > deadline:
                return missing + [name for key, name in wanted.items() if key not in seen]
            self._wait((), deadline - time.monotonic())


def neighbour_overflows(statistics: Path = Path("/proc/net/stat")) -> int | None:
    """How often a neighbour table had no room since boot; None where the kernel does not say.

    [kernel] net/core/neighbour.c, neigh_alloc: all namespaces share one table for each family, and its limit. A packet
    whose next hop finds no room is lost without a trace, and nothing in this lab is to blame.
    """
    try:
        rows = [
            row.split()
            for table in ("arp_cache", "ndisc_cache")
            for row in (statistics / table).read_text().splitlines()[1:]
        ]
    except OSError:  # it is there in the machine's first network namespace only
        return None
    return sum(int(row[-1], 16) for row in rows)


def connection_clashes(namespace: Namespace) -> int:
    """How often __nf_conntrack_confirm dropped a packet of a new connection; 0 where nothing is tracked or said."""
    with namespace.entered():
        try:
            heading, *rows = Path("/proc/thread-self/net/stat/nf_conntrack").read_text().splitlines()
        except OSError:
            return 0
    column = heading.split().index("insert_failed")
    return sum(int(row.split()[column], 16) for row in rows)


def _turns(sendings: Sequence[_Sending]) -> list[list[_Sending]]:
    """The first probe of every conversation, and when those have arrived, the others.

    [kernel] __nf_conntrack_confirm drops a packet whose connection another CPU has entered meanwhile (insert_failed).
    Where an ARP request is received from a work queue, its answer makes another CPU send what waited for it, while the
    sender sends the rest: at the next host that tracks connections both are new, and one is lost that nothing else
    loses. Before Linux 6.4 macvlans receive so, and a busy machine moves the sender to another CPU.
    """
    turns: list[list[_Sending]] = [[], []]
    for sending in sendings:
        firsts = {probe.conversation: probe for probe in reversed(sending.probes)}
        leading = {probe.identity for probe in firsts.values()}
        for turn, leads in zip(turns, (True, False), strict=True):
            probes = tuple(probe for probe in sending.probes if (probe.identity in leading) == leads)
            turn.append(replace(sending, probes=probes))
    return [turn for turn in turns if any(sending.probes for sending in turn)]


def _serve(responders: Sequence[Responder]) -> None:
    for responder in responders:
        responder.serve()
