"""A flow's passage: by which NICs of which node its packets go. Pure.

One rule for what a cell of the matrix says, what `--expect` asks and what tells ways apart, predicted or measured. A
flow that begins on a node is seen from there: the NICs its requests leave by, and those its answers come back by. Any
other is seen from the first node that takes it in: the NICs it comes in by, those that node sends it on by, and the one
by which the last node sends the answer to who asked. A host that is no node has no part in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from niclab.flow.trace import NO_PATH, Context, Entered, Left, Trace, host_of, nic_of
from niclab.topology.model import Flow


@dataclass(frozen=True, slots=True)
class Leg:
    """A packet on a NIC of a node. `device`: the VLAN on it; `tunnels`: what the packet is in, outermost first."""

    tap: str
    device: str = ""
    tunnels: tuple[str, ...] = ()

    @classmethod
    def of(cls, step: Entered | Left) -> Leg:
        return cls(step.tap, step.device, step.header.encapsulation)

    def name(self, node: str) -> str:
        """As it is called on a node; on any other with that other's name."""
        nic = nic_of(self.tap) if host_of(self.tap) == node else self.tap
        return f"{self.device} ({nic})" if self.device else nic


@dataclass(frozen=True, slots=True)
class Passage:
    """One request and its answer, seen from `node`; empty: no node saw it.

    `entered` and `left`: the NICs by which that node takes the request in and sends it. `returned`: of a flow that
    begins there those by which the answer comes in, else the one by which a node sends it to who asked. `source`: how a
    pod's address looked on its node's NIC. `stays`: a request that no NIC sent is with another end on the node.
    """

    node: str
    begins: bool
    entered: tuple[Leg, ...] = ()
    left: tuple[Leg, ...] = ()
    returned: tuple[Leg, ...] = ()
    source: str = ""
    stays: bool = False
    answered: bool = field(default=False, compare=False)

    @property
    def request(self) -> str:
        """The request's part, in words."""
        if self.begins:
            if not self.left:
                return "on the node" if self.stays else "left no NIC"
            return f"{self._names(self.left)} {self.source}".rstrip()
        if not self.node:
            return "by no node" if self.answered else "never arrived"
        return self._names(self.entered) + (f" → {self._names(self.left)}" if self.left else "")

    @property
    def answer(self) -> str:
        """The answer's part, in words: where it is by another NIC."""
        usual = self.left if self.begins else self.entered
        if {(leg.tap, leg.device) for leg in self.returned} <= {(leg.tap, leg.device) for leg in usual}:
            return ""
        names = "+".join(dict.fromkeys(leg.name(self.node) for leg in self.returned))
        return f" {'back' if self.begins else 'reply'} {names}"

    @property
    def words(self) -> str:
        return self.request + self.answer

    @property
    def by(self) -> str:
        """The words behind a number of probes."""
        return f"by {self.words}" if self.left or self.entered else self.words

    @property
    def loud(self) -> bool:
        """Is it what people do not expect: a pod's address that leaves as it is, an answer by a NIC of another name?"""
        came = {nic_of(leg.tap) for leg in self.entered}
        elsewhere = not self.begins and any(nic_of(leg.tap) not in came for leg in self.returned)
        return self.source.endswith("!") or elsewhere

    def _names(self, legs: Iterable[Leg]) -> str:
        return "+".join(dict.fromkeys(" ".join([leg.name(self.node), *leg.tunnels]) for leg in legs))


def passage(trace: Trace, flow: Flow, context: Context) -> Passage:
    request, reply = trace.request, trace.reply or NO_PATH
    home = context.node_of(flow.source)
    if home in context.nodes:
        left = _at(home, request.left)
        source = _source(trace, flow, context, home)
        back = _at(home, reply.entered)
        stays = not left and (trace.carried or context.pod_node.get(request.arrived or "") == home)
        return Passage(home, True, (), left, back, source, stays, trace.carried)
    first = next((host_of(step.tap) for step in request.entered if host_of(step.tap) in context.nodes), "")
    return Passage(
        first,
        False,
        entered=_at(first, request.entered),
        left=_at(first, request.left),
        returned=tuple(_to_who_asked(trace, context)),
        answered=trace.carried,
    )


def _at(node: str, steps: Iterable[Entered | Left]) -> tuple[Leg, ...]:
    return tuple(dict.fromkeys(Leg.of(step) for step in steps if host_of(step.tap) == node and nic_of(step.tap)))


def _to_who_asked(trace: Trace, context: Context) -> Iterator[Leg]:
    """The legs by which the last node sends the answer, several of a bond that sends by all; none while it goes to
    another node, or to nobody."""
    last: list[Left] = []
    for hop in (trace.reply or NO_PATH).hops:
        for step in hop.steps:
            if not isinstance(step, Entered | Left) or host_of(step.tap) not in context.nodes:
                continue
            if (
                isinstance(step, Entered)
                or host_of(step.tap) != hop.host
                or (last and host_of(last[0].tap) != hop.host)
            ):
                last = []
            last += [step] if isinstance(step, Left) else []
    yield from dict.fromkeys(map(Leg.of, last))


def _source(trace: Trace, flow: Flow, context: Context, node: str) -> str:
    """How a pod's source looked as it left its node for what is no pod."""
    steps = [step for step in trace.request.left if host_of(step.tap) == node]
    if host_of(flow.source) not in context.pod_node or not steps or any(step.header.outer for step in steps):
        return ""
    own = context.addresses.get(flow.source, ())
    if not all(step.header.source in own for step in steps):
        return "snat"
    ends = (*context.ends_of(flow), trace.request.arrived or "")
    if any(end in context.pod_node for end in ends):
        return ""
    return "pod address" if str(flow.address or flow.destination) in context.unmasqueraded else "pod address!"


def ways(traces: Sequence[Trace], flow: Flow, context: Context) -> dict[Passage, list[Trace]]:
    """The probes' traces by their passages, those that most took first. A request that is not answered has no NIC of
    the answer: it is with those that went the same way.
    """
    every = [passage(trace, flow, context) for trace in traces]
    answered = {each.request: each for each in reversed(every) if each.answered}
    together: dict[Passage, list[Trace]] = {}
    for each, trace in zip(every, traces, strict=True):
        key = each if each.answered else answered.get(each.request, each)
        together.setdefault(key, []).append(trace)
    return dict(sorted(together.items(), key=lambda item: -len(item[1])))


def nics(legs: Iterable[Leg], node: str) -> str:
    """Which NICs these are: without their node's name where it is known."""
    every = {leg.name(node) for leg in legs}
    return " and ".join(sorted(every)) or "no NIC"


def counted(taken: Mapping[Passage, Sequence[Trace]]) -> Iterator[str]:
    """One way in its own words; of several how many of the probes took which: `3 of 5 by eth0, 2 by eth1`."""
    probes = sum(map(len, taken.values()))
    if len(taken) <= 1:
        yield from (each.words for each in taken)
        return
    shares = [f"{len(traces)}{'' if number else f' of {probes}'}" for number, traces in enumerate(taken.values())]
    yield ", ".join(f"{share} {each.by}" for share, each in zip(shares, taken, strict=True))


Direction = Literal["in", "out", "reply"]
DIRECTIONS: Mapping[str, Direction] = {direction: direction for direction in get_args(Direction)}

_MUST: Mapping[Direction, tuple[str, str, str]] = {
    "out": ("leave {} by", "leave by", "left by"),
    "in": ("come into {} by", "come in by", "came in by"),
    "reply": ("have its reply on {} by", "have it by", "had it by"),
}


@dataclass(frozen=True, slots=True)
class Expectation:
    """`--expect`: on a node, every packet of the flow's requests or replies passes this interface and no other.

    `node`: empty for the one that the flow is seen from; requests come `in` to the first that they enter. `taps`: the
    NICs that carry the interface, of every node that has it. A VLAN is told by its name.
    """

    flow: Flow
    direction: Direction
    node: str
    name: str
    taps: frozenset[str]

    def legs(self, trace: Trace, context: Context) -> tuple[Leg, ...]:
        """The NICs in question that a trace's packets passed. A reply goes out of a node, or comes back to it."""
        seen = passage(trace, self.flow, context)
        request, reply = trace.request, trace.reply or NO_PATH
        if self.direction == "out":
            return _at(self.node or seen.node, request.left)
        if self.direction == "in":
            nodes = (host_of(step.tap) for step in request.entered if host_of(step.tap) in context.nodes)
            return _at(self.node or next(nodes, ""), request.entered)
        if not self.node or (seen.begins and self.node == seen.node):
            return seen.returned
        return _at(self.node, reply.left)

    def meets(self, legs: Iterable[Leg]) -> bool:
        every = [*legs]
        return bool(every) and all(leg.tap in self.taps or (leg.device and leg.device == self.name) for leg in every)

    def must(self, seen: Iterable[Leg] = ()) -> str:
        """What must hold, in words. `seen`: the legs there were, which say which node it is where nobody said so."""
        node = self.node or next((host_of(leg.tap) for leg in seen), "the node")
        return f"must {_MUST[self.direction][0].format(node)} {self.name}"

    @property
    def predicted(self) -> str:
        return _MUST[self.direction][1]

    @property
    def measured(self) -> str:
        return _MUST[self.direction][2]
