"""One measurement: canaries, probes, answers, canaries again; then every flow's sightings."""

from __future__ import annotations

import contextlib
import select
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lab.route import Address
from lab.substrate.netns import Substrate
from lab.topology import Flow
from lab.traffic.capture import Capture
from lab.traffic.decode import Decoder
from lab.traffic.path import Sighting, sort
from lab.traffic.probe import Probe, build, canary
from lab.traffic.sender import Responder, Sender, Service
from lab.traffic.tap import Taps
from lab.verdict import Measurement

QUIET = 0.2
"""Seconds without a new frame after which an unanswered probe is lost. All happens in this kernel: what is still
under way after a few milliseconds is waiting for an ARP or neighbour answer that is not coming."""
DEADLINE = 10.0
CANARY_DEADLINE = 2.0
_OVERHEAD = 1024
_SIGHTINGS = 16


@dataclass(frozen=True, slots=True)
class Order:
    """One flow to send: between which addresses, and how many probes of which size (bytes; None: smallest)."""

    flow: Flow
    source: Address
    destination: Address
    source_host: str
    destination_host: str
    count: int = 5
    size: int | None = None
    vary_ports: bool = False


@dataclass
class Observed:
    """What was seen of one order."""

    sent: int = 0
    refusal: str = ""
    sightings: tuple[Sighting, ...] = ()


@dataclass
class Batch:
    """What was seen of all orders of one measurement, and the frames themselves."""

    observed: list[Observed]
    measurement: Measurement
    captures: list[Capture] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    """Each order's flow number, as its probes carry it."""


class Measurer:
    """Sends batches of flows in one lab and watches every cable."""

    def __init__(self, substrate: Substrate, taps: Taps, *, number: int, vxlan_ports: tuple[int, ...]) -> None:
        self._substrate = substrate
        self._taps = taps
        self._number = number
        self._vxlan_ports = vxlan_ports
        self._senders: dict[str, Sender] = {}
        self._next_flow = 0
        self._next_canary = 0

    def close(self) -> None:
        for sender in self._senders.values():
            sender.close()

    def measure(self, orders: Sequence[Order]) -> Batch:
        """Send every order's probes and wait for what becomes of them."""
        for order in orders:
            for host in (order.source_host, order.destination_host):
                if not any(cable.host == host for cable in self._taps.cables):
                    self._taps.add_pod(host)
        probes, flows = self._build(orders)
        decoder = Decoder(
            self._number,
            vxlan_ports=self._vxlan_ports,
            tcp_payloads=tuple({_tcp_payload(probe) for group in probes for probe in group if probe.protocol == "tcp"}),
        )
        self._taps.drain()
        drops = self._taps.drops
        with contextlib.ExitStack() as undo:
            responders = [undo.enter_context(contextlib.closing(one)) for one in self._responders(orders)]
            missing = self._canaries("before", decoder)
            observed = [Observed() for _ in orders]
            captures = self._exchange(
                orders, probes, observed, responders=responders, flows=flows, decoder=decoder
            )
            missing += self._canaries("after", decoder)
        by_flow = sort(captures, decoder, self._macs, self._names).flows
        for one, flow in zip(observed, flows, strict=True):
            one.sightings = by_flow.get(flow, ())
        live = [cable for cable in self._taps.cables if self._taps.has_carrier(cable)]
        dark = tuple(cable.tap for cable in self._taps.cables if cable not in live)
        measurement = Measurement(tuple(missing), self._taps.drops - drops, len(live), dark)
        return Batch(observed, measurement, captures, flows)

    @property
    def _names(self) -> list[str]:
        return [cable.tap for cable in self._taps.cables]

    @property
    def _macs(self) -> Mapping[str, str]:
        return {cable.tap: cable.mac for cable in self._taps.cables}

    def _build(self, orders: Sequence[Order]) -> tuple[list[tuple[Probe, ...]], list[int]]:
        probes, flows = [], []
        for order in orders:
            flow = self._next_flow
            # TCP's sequence numbers have room for 4096 flows; an older flow's probes are long gone by then.
            self._next_flow = (self._next_flow + 1) % 4096
            flows.append(flow)
            probes.append(
                build(
                    lab=self._number,
                    flow=flow,
                    count=order.count,
                    protocol=order.flow.protocol,
                    source=order.source,
                    destination=order.destination,
                    port=order.flow.port,
                    size=order.size,
                    vary_ports=order.vary_ports or None,
                )
            )
        return probes, flows

    def _responders(self, orders: Sequence[Order]) -> list[Responder]:
        wanted: dict[str, set[Service]] = {}
        for order in orders:
            if order.flow.port is not None:
                service = Service(order.flow.protocol, order.flow.port, order.destination.version)
                wanted.setdefault(order.destination_host, set()).add(service)
        return [
            Responder(self._substrate[host], sorted(services, key=str))
            for host, services in wanted.items()
            if host in self._substrate
        ]

    def _exchange(
        self,
        orders: Sequence[Order],
        probes: Sequence[tuple[Probe, ...]],
        observed: Sequence[Observed],
        *,
        responders: Sequence[Responder],
        flows: Sequence[int],
        decoder: Decoder,
    ) -> list[Capture]:
        """Send in turns small enough for the taps' buffers, draining after each, until all is answered or quiet."""
        captures: list[Capture] = []
        room = self._taps.capacity // 2
        spent = 0
        for order, group, one in zip(orders, probes, observed, strict=True):
            sender = self._sender(order.source_host)
            for probe in group:
                refusal = sender.send(probe)
                one.sent += 1
                one.refusal = one.refusal or refusal or ""
                spent += _SIGHTINGS * (len(probe.packet) + _OVERHEAD)
                if spent > room:
                    _serve(responders)
                    captures += self._taps.drain()
                    spent = 0
        # The answers to TCP and UDP are seen at the sender's own tap or NIC: nothing is asked of its kernel.
        waiting = {(flow, probe.identity.number) for flow, group in zip(flows, probes, strict=True) for probe in group}
        senders = {flow: order.source_host for flow, order in zip(flows, orders, strict=True)}
        seen = 0
        quiet_until = time.monotonic() + QUIET
        deadline = time.monotonic() + DEADLINE
        while True:
            _serve(responders)
            captures += self._taps.drain()
            for capture in captures[seen:]:
                decoded = decoder.decode(capture.data)
                if decoded and decoded.kind == "reply" and not capture.outbound:
                    flow = decoded.identity.flow
                    if capture.tap.partition(".")[0] == senders.get(flow):
                        waiting.discard((flow, decoded.identity.number))
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
            poll.register(tap.socket, select.POLLIN)
        for responder in responders:
            for sock in responder.sockets:
                poll.register(sock, select.POLLIN)
        poll.poll(max(1, seconds * 1000))

    def _sender(self, host: str) -> Sender:
        if host not in self._senders:
            self._senders[host] = Sender(self._substrate[host])
        return self._senders[host]

    def _canaries(self, when: str, decoder: Decoder) -> list[str]:
        """Send one canary each way on every cable with carrier; the names of those not seen at their own tap."""
        self._next_canary = (self._next_canary + 1) % 65536
        number = self._next_canary
        wanted: dict[tuple[int, str, int, bool], str] = {}
        for index, cable in enumerate(self._taps.cables):
            if not self._taps.has_carrier(cable):
                continue
            for direction, outbound, mac in (("out", True, cable.mac), ("in", False, cable.port_mac)):
                frame = canary(
                    lab=self._number,
                    tap=index,
                    number=number,
                    direction="out" if outbound else "in",
                    source_mac=mac,
                )
                wanted[index, direction, number, outbound] = f"{cable.tap} {direction} ({when})"
                self._taps.inject(cable, frame, outbound=outbound)
        seen: set[tuple[int, str, int, bool]] = set()
        deadline = time.monotonic() + CANARY_DEADLINE
        while True:
            seen |= sort(self._taps.drain(), decoder, self._macs, self._names).canaries
            if wanted.keys() <= seen or time.monotonic() > deadline:
                return [name for key, name in wanted.items() if key not in seen]
            self._wait((), deadline - time.monotonic())


def _tcp_payload(probe: Probe) -> int:
    return len(probe.packet) - (40 if probe.source.version == 4 else 60)


def _serve(responders: Sequence[Responder]) -> None:
    for responder in responders:
        responder.serve()
