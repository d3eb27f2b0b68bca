"""A flow's trace: the hosts its packets pass and what happens at each of them; predicted or observed. Pure.

A trace has a path for the request and one for the reply. A path is a sequence of hops, one for each visit to a host; a
hop is a sequence of steps. Predicted and observed traces differ in what is known: a prediction has every decision, an
observation has what taps saw, and taps stand outside the nodes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from niclab.net.route import Why
from niclab.topology.model import Flow

if TYPE_CHECKING:  # predictions do without the decoder
    from niclab.wire.sighting import Sighting

Kind = Literal["request", "reply"]


def host_of(end: str) -> str:
    """`node1` of the flow's end or tap `node1.eth0`; a pod is its own host."""
    return end.partition(".")[0]


def nic_of(tap: str) -> str:
    """`eth0` of the tap `node1.eth0`; empty for a pod's tap."""
    return tap.partition(".")[2]


@dataclass(frozen=True, slots=True)
class Context:
    """Who is where in the lab."""

    topology: str
    nics: Mapping[str, str]
    """Tap name → fabric, for every NIC of every host, nodes first."""
    nodes: Collection[str]
    pod_node: Mapping[str, str]
    addresses: Mapping[str, tuple[str, ...]]
    """Pod or host name → its addresses."""
    reported: Mapping[str, str]
    """Node → what its agent reported, in one line."""
    unmasqueraded: frozenset[str] = frozenset()
    """NICs (`node2.eth0`) and addresses that pods reach with their own by design: node IPs in native routing."""
    exited: frozenset[str] = frozenset()
    """Nodes whose agent exited: their pods are not plugged."""
    vlans: Mapping[tuple[str, int], str] = field(default_factory=dict)
    """(Tap, tag) → the interface whose frames these are."""

    @property
    def node_taps(self) -> Iterator[str]:
        return (tap for tap in self.nics if host_of(tap) in self.nodes)

    def ends_of(self, flow: Flow) -> tuple[str, ...]:
        """The pods and hosts where a flow may end: all that have its address, which may be nobody."""
        if flow.address is None:
            return (host_of(flow.destination),)
        return tuple(name for name, own in self.addresses.items() if str(flow.address) in own)

    def node_of(self, end: str) -> str:
        """The node of a pod; every other host itself."""
        return self.pod_node.get(host_of(end), host_of(end))


@dataclass(frozen=True, slots=True)
class Header:
    """A packet's addresses on the wire. `source` and `destination` are inside any tunnel.

    `outer` has the address pairs of the tunnels and `encapsulation` their names, outermost first.
    """

    source: str
    destination: str
    outer: tuple[tuple[str, str], ...] = ()
    encapsulation: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Entered:
    """The packet came in by a NIC, or into a pod. `device`: the VLAN on that NIC, where it is one's."""

    tap: str
    header: Header
    device: str = ""


@dataclass(frozen=True, slots=True)
class Left:
    """The packet left by a NIC. `device`: the VLAN on it, where it is one's."""

    tap: str
    header: Header
    device: str = ""


@dataclass(frozen=True, slots=True)
class Decided:
    """One decision about the packet: the rule, and what made it fire. Only predictions have these."""

    why: Why
    inputs: tuple[tuple[str, object], ...] = ()

    @property
    def words(self) -> str:
        return self.why.words.format_map({name: shown(value) for name, value in self.inputs})


Step = Entered | Left | Decided


def shown(value: object) -> str:
    """An input of a decision, as people read it."""
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


@dataclass(frozen=True, slots=True)
class Hop:
    """One visit of the packet to a host or pod."""

    host: str
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True)
class Path:
    """One packet's path. `arrived`: the host or pod where it ended; None when it was `lost`, with the reason.

    `source`: the source address that was seen there.
    """

    hops: tuple[Hop, ...]
    arrived: str | None
    source: str
    lost: str = ""

    @cached_property
    def left(self) -> tuple[Left, ...]:
        """Every NIC that sent it, in order."""
        return tuple(step for hop in self.hops for step in hop.steps if isinstance(step, Left))

    @cached_property
    def entered(self) -> tuple[Entered, ...]:
        """Every NIC and pod that it came in by, in order."""
        return tuple(step for hop in self.hops for step in hop.steps if isinstance(step, Entered))

    @property
    def decided(self) -> Iterator[tuple[str, Decided]]:
        """Every decision with its host, in order."""
        return ((hop.host, step) for hop in self.hops for step in hop.steps if isinstance(step, Decided))

    def nics_left(self, host: str) -> frozenset[str]:
        return _nics(self.left, host)

    def nics_entered(self, host: str) -> frozenset[str]:
        return _nics(self.entered, host)

    def ended(self, why: str, at: str, decision: Decided) -> Path:
        """The same path, but what arrived at a host ended there by one more decision."""
        last = self.hops[-1]
        assert last.host == at
        return replace(
            self, hops=(*self.hops[:-1], replace(last, steps=(*last.steps, decision))), arrived=None, lost=why
        )

    @property
    def _key(self) -> object:
        sent = tuple((step.tap, step.header.source, step.header.outer) for step in self.left)
        return sent, tuple(step.tap for step in self.entered), self.arrived, self.source, self.lost

    def __str__(self) -> str:
        return " then ".join(step.tap + (" in a tunnel" if step.header.outer else "") for step in self.left) or "no NIC"


def _nics(steps: Iterable[Entered | Left], host: str) -> frozenset[str]:
    return frozenset(nic_of(step.tap) for step in steps if host_of(step.tap) == host and nic_of(step.tap))


@dataclass(frozen=True, slots=True)
class Trace:
    """A request's path and, where there is a reply, the reply's."""

    request: Path
    reply: Path | None

    @property
    def carried(self) -> bool:
        return self.reply is not None and self.reply.arrived is not None

    @property
    def paths(self) -> Iterator[tuple[Kind, Path]]:
        yield "request", self.request
        if self.reply is not None:
            yield "reply", self.reply

    def path(self, kind: Kind) -> Path:
        """The request's or reply's path; an empty one where there is no reply."""
        return self.request if kind == "request" else self.reply or NO_PATH

    @property
    def key(self) -> object:
        """What tells one trace from another in a person's eyes: NICs, addresses and ends, not the decisions."""
        return tuple((kind, path._key) for kind, path in self.paths)

    def __str__(self) -> str:
        request = self.request
        end = f"{request.source} seen at {request.arrived}" if request.arrived else request.lost
        if self.reply is None:
            return f"{request}, {end}"
        return f"{request}, {end}; back by {self.reply}" + ("" if self.reply.arrived else f", {self.reply.lost}")


NO_PATH = Path((), None, "")


@dataclass(frozen=True, slots=True)
class Transmitted:
    """What one NIC sent of a flow; the shape of the recorded observations."""

    requests: int
    replies: int
    inner_src: tuple[str, ...]
    outer: tuple[tuple[str, str], ...]


def transmitted(traces: Iterable[Trace], taps: Iterable[str]) -> Mapping[str, Transmitted]:
    """Tap → what it sent, for those of these taps that sent anything."""
    sent: dict[str, list[tuple[Kind, Header]]] = {}
    for trace in traces:
        for kind, path in trace.paths:
            for step in path.left:
                sent.setdefault(step.tap, []).append((kind, step.header))
    return {
        tap: Transmitted(
            requests=sum(kind == "request" for kind, _ in sent[tap]),
            replies=sum(kind == "reply" for kind, _ in sent[tap]),
            inner_src=tuple(sorted({header.source for _, header in sent[tap]})),
            outer=tuple(sorted({pair for _, header in sent[tap] for pair in header.outer})),
        )
        for tap in taps
        if tap in sent
    }


def observed(sightings: Sequence[Sighting], flow: Flow, ends: Collection[str], context: Context) -> Trace:
    """One probe's trace, from its sightings in order. `ends`: where the request may arrive."""
    start = host_of(flow.source)
    end = host_of(flow.destination) if flow.address is None else flow.destination
    return Trace(
        _observed(sightings, "request", ends, f"never seen at {end}", context),
        _observed(sightings, "reply", (start,), "not answered", context),
    )


def _observed(sightings: Iterable[Sighting], kind: Kind, ends: Collection[str], lost: str, context: Context) -> Path:
    hops: list[Hop] = []
    arrived, source = None, ""
    for sighting in sightings:
        if sighting.kind != kind:
            continue
        host = sighting.host
        header = Header(sighting.source, sighting.destination, sighting.outer, sighting.encapsulation)
        device = context.vlans.get((sighting.tap, sighting.vlan), "") if sighting.vlan is not None else ""
        if sighting.arrives:
            hops.append(Hop(host, (Entered(sighting.tap, header, device),)))
            if host in ends:
                arrived, source = host, sighting.source
        elif sighting.outbound and sighting.nic:
            if not hops or hops[-1].host != host:
                hops.append(Hop(host))
            hops[-1] = replace(hops[-1], steps=(*hops[-1].steps, Left(sighting.tap, header, device)))
            arrived = None if host == arrived else arrived
        elif sighting.outbound and kind == "reply" and context.pod_node.get(host) in ends:
            # No tap stands between a pod and its node: what the pod sent is with the node, unless a NIC sends it on.
            arrived, source = context.pod_node[host], sighting.source
    return Path(tuple(hops), arrived, source, "" if arrived else lost)
