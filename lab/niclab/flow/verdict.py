"""A measured flow: its verdict, the questions it answers, the words for a failure, and its prediction. Pure.

A flow's result answers in NIC names: which NICs its requests left a host by, which brought the answers back, which
source the far end saw. Nothing is answered unless the measurement holds (canaries seen, nothing dropped): a missing
measurement is never a pass.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

from niclab.flow import picture
from niclab.flow.passage import ways
from niclab.flow.picture import INDENT, names
from niclab.flow.shares import Shares
from niclab.flow.trace import NO_PATH, Context, Kind, Trace, Transmitted, host_of, nic_of, observed, transmitted
from niclab.topology.model import Flow
from niclab.wire.sighting import Measurement, Sighting

__tracebackhide__ = True
"""pytest shows the scenario's line, not this module's."""
_DRAWN = 4
"""Ways of a flow that are drawn; more are counted."""

Verdict = Literal["carried", "leaked", "lost", "unmeasured"]


class Unmeasured(AssertionError):
    """The taps cannot vouch for what was, or was not, seen."""


class NicMismatch(AssertionError):
    """A packet left by another NIC than it must."""


class NicSet(frozenset[str]):
    """NIC names that remember what they answer, so that a failed comparison can show the path.

    `asked`: `left node1`; `probes`: how many were seen so.
    """

    flow: FlowResult
    asked: str
    probes: int

    def __new__(cls, nics: Iterable[str], flow: FlowResult, asked: str, probes: int) -> NicSet:
        made = super().__new__(cls, nics)
        made.flow, made.asked, made.probes = flow, asked, probes
        return made

    def __repr__(self) -> str:
        return "{" + ", ".join(repr(name) for name in sorted(self)) + "}"


@dataclass(frozen=True, slots=True)
class Served:
    """The service a flow goes to, how its packets ask for it, and the pods behind it, one of which answers."""

    service: str
    protocol: str
    port: int | None
    pods: tuple[str, ...]


@dataclass(frozen=True, repr=False)
class FlowResult:
    """One flow, measured. `sent`: requests given to the sender's kernel; `received`: answers that came back."""

    flow: Flow
    sent: int
    sightings: tuple[Sighting, ...]
    measurement: Measurement
    context: Context
    refusal: str = ""
    """Why nothing, or not everything, could be sent: the sender's kernel's words, or the agent's."""
    leaks: tuple[str, ...] = ()
    """Taps where the flow must not have been seen and was."""
    served: Served | None = None
    expected: tuple[Trace, ...] = ()
    """Every trace that was predicted, as the lab then was; none when the flow cannot be sent."""

    def __repr__(self) -> str:
        return f"<{self.name}: {self.outcome}>"

    @cached_property
    def traces(self) -> tuple[Trace, ...]:
        """Each probe's trace, in order; of a probe that no tap saw an empty one."""
        probes: dict[int, list[Sighting]] = {number: [] for number in range(self.sent)}
        for sighting in self.sightings:
            probes.setdefault(sighting.number, []).append(sighting)
        ends = self.served.pods if self.served else self.context.ends_of(self.flow)
        return tuple(observed(probes[number], self.flow, ends, self.context) for number in sorted(probes))

    @cached_property
    def received(self) -> int:
        """How many probes were answered, as seen at the sender."""
        return sum(trace.carried for trace in self.traces)

    @property
    def verdict(self) -> Verdict:
        if not self.measurement.holds or self.sent == 0:
            return "unmeasured"
        if self.leaks:
            return "leaked"
        return "carried" if self.received == self.sent else "lost"

    @cached_property
    def end(self) -> str:
        """Where the flow ends: its destination, or of a service the backend that a request arrived at."""
        arrived = [trace.request.arrived for trace in self.traces if trace.request.arrived]
        return arrived[-1] if self.served and arrived else self.flow.destination

    def _vouched(self) -> tuple[Trace, ...]:
        if self.verdict == "unmeasured":
            raise Unmeasured(f"{self.name} was not measured: {self.why}\n{self.explanation}")
        return self.traces

    @property
    def name(self) -> str:
        flow = self.flow
        suffix = f":{flow.protocol}:{flow.port}" if flow.port else ""
        return f"{flow.source}→{flow.destination}{suffix}" + (" (IPv6)" if flow.family == 6 else "")

    @property
    def outcome(self) -> str:
        """The verdict and the count behind it, in words."""
        if self.verdict == "unmeasured":
            return f"unmeasured: {self.why}"
        leaks = f" by {', '.join(self.leaks)}" if self.leaks else ""
        return f"{self.verdict}{leaks}, {self.received} of {self.sent} answered"

    @property
    def why(self) -> str:
        """Why it was not measured."""
        return str(self.measurement) if self.refusal == "" or not self.measurement.holds else self.refusal

    def _nics(self, host: str, kind: Kind, asked: str, *, outbound: bool) -> NicSet:
        host = self._known(host)
        paths = [trace.path(kind) for trace in self._vouched()]
        nics = [path.nics_left(host) if outbound else path.nics_entered(host) for path in paths]
        return NicSet(frozenset[str]().union(*nics), self, f"{asked} {host}", sum(map(bool, nics)))

    def left(self, host: str) -> frozenset[str]:
        """The NICs of `host` that its requests left by. Raises Unmeasured."""
        return self._nics(host, "request", "left", outbound=True)

    def entered(self, host: str) -> frozenset[str]:
        """The NICs of `host` that requests came in by. Raises Unmeasured."""
        return self._nics(host, "request", "entered", outbound=False)

    def answered_by(self, host: str) -> frozenset[str]:
        """The NICs of `host` that replies left by. Raises Unmeasured."""
        return self._nics(host, "reply", "was answered by", outbound=True)

    def came_back_to(self, host: str) -> frozenset[str]:
        """The NICs of `host` that replies came in by. Raises Unmeasured."""
        return self._nics(host, "reply", "came back to", outbound=False)

    def _known(self, host: str) -> str:
        if not any(tap.startswith(f"{host}.") for tap in self.context.nics):
            raise ValueError(f"{host!r} is no host with NICs; there are {', '.join(self.context.nodes)} and others")
        return host

    def sources_seen_by(self, end: str) -> frozenset[str]:
        """The source addresses of the requests that arrived at a pod, an external or a node. Raises Unmeasured."""
        self._vouched()
        return self.sources_at(host_of(end))

    def sources_at(self, host: str) -> frozenset[str]:
        """The same for whatever was seen, measured or not: for records."""
        entered = (step for trace in self.traces for step in trace.request.entered)
        return frozenset(step.header.source for step in entered if host_of(step.tap) == host)

    def source_seen_by(self, end: str) -> str | None:
        """The one source that arrived at `end`, None when nothing did. Raises Unmeasured, ValueError for several."""
        sources = self.sources_seen_by(end)
        if len(sources) > 1:
            raise ValueError(f"{end} saw several sources: {', '.join(sorted(sources))}")
        return next(iter(sources), None)

    def outer_on(self, tap: str) -> frozenset[tuple[str, str]]:
        """The outer (source, destination) pairs of what a NIC transmitted of this flow. Raises Unmeasured."""
        sent = transmitted(self._vouched(), (tap,))
        return frozenset(sent[tap].outer) if sent else frozenset()

    def shares(self, host: str) -> Shares:
        """How many of the flow's requests left `host` by each of its NICs. Raises Unmeasured.

        Of several probes, each should be a flow of its own: send them with `vary_ports` or `vary_addresses`.
        """
        counts = {nic_of(tap): 0 for tap in self.context.nics if host_of(tap) == self._known(host)}
        for trace in self._vouched():
            for nic in trace.request.nics_left(host):
                counts[nic] += 1
        return Shares(self.name, host, counts)

    def must_leave(self, host: str, by: str | Iterable[str]) -> None:
        """Raises NicMismatch unless requests left `host` by exactly these NICs."""
        wanted = {by} if isinstance(by, str) else set(by)
        nics = self.left(host)
        if nics != wanted:
            raise NicMismatch(self._mismatch(f"must leave {host}", wanted, nics, host, ("request",)))

    def must_not_leave(self, host: str, by: str) -> None:
        """Raises NicMismatch if anything of the flow, request or reply, left `host` by this NIC."""
        tap = f"{self._known(host)}.{by}"
        if tap not in self.context.nics:
            raise ValueError(f"there is no NIC {tap}")
        self._vouched()
        if any(sighting.tap == tap and sighting.outbound for sighting in self.sightings):  # errors too
            nics = self.left(host) | self.answered_by(host)
            raise NicMismatch(self._mismatch(f"must not leave {host}", {by}, nics, host, ("request", "reply")))

    def must_receive(self) -> None:
        """Raises AssertionError unless every probe was answered."""
        self._vouched()
        if self.received != self.sent:
            raise AssertionError(f"{self.name}: {self.received} of {self.sent} answered\n{self.explanation}")

    def must_not_receive(self) -> None:
        """Raises AssertionError if any probe was answered."""
        self._vouched()
        if self.received:
            raise AssertionError(f"{self.name}: {self.received} answered, none should be\n{self.explanation}")

    def _mismatch(
        self, must: str, wanted: Iterable[str], nics: Iterable[str], host: str, kinds: tuple[Kind, ...]
    ) -> str:
        count = sum(any(trace.path(kind).nics_left(host) for kind in kinds) for trace in self.traces)
        return (
            f"{self.name} {must} by {names(wanted)}, left by {names(nics)} ({count} of {self.sent})\n{self.explanation}"
        )

    @cached_property
    def transmitted_by(self) -> Mapping[str, Transmitted]:
        """Tap → what that node's NIC sent; only NICs of nodes that sent something."""
        return transmitted(self.traces, self.context.node_taps)

    @cached_property
    def comparison(self) -> Comparison:
        return compare(self)

    @property
    def errors(self) -> list[str]:
        """Errors (ICMP, RST) that came back, each once."""
        return sorted({f"{s.note} from {s.source}" for s in self.sightings if s.kind == "error" and s.note})

    @property
    def pictures(self) -> list[str]:
        """The path of the probe that got furthest, and of its reply; of each way where probes took several."""
        apart: dict[object, list[Trace]] = {}
        for way, traces in ways(self.traces, self.flow, self.context).items():
            for trace in traces:
                backend = trace.request.arrived if self.served else None
                apart.setdefault((way, backend), []).append(trace)
        if not apart:
            return [*self._picture(Trace(NO_PATH, NO_PATH))]
        lines: list[str] = []
        for number, traces in enumerate(apart.values()):
            if number == _DRAWN:
                lines.append(f"… and {len(apart) - _DRAWN} more ways")
                break
            lines += [f"{len(traces)} of {self.sent}:"] if len(apart) > 1 else []
            lines += self._picture(max(traces, key=_length))
        return lines

    def _picture(self, trace: Trace) -> Iterator[str]:
        named = self.flow.destination if self.flow.address is None else next(iter(self.context.ends_of(self.flow)), "")
        anywhere = self.served is not None or self.flow.address is not None
        end = (trace.request.arrived if anywhere else None) or named or self.flow.destination
        return picture.pictures(trace, self.flow.source, end, self.context, self.expected)

    @property
    def explanation(self) -> str:
        """Three or more lines: the path the packet took, every node NIC's count, and what the agents reported."""
        counted = picture.counters(self.traces, self.context)
        lines = [*self.pictures, *picture.with_measurement(counted, str(self.measurement))]
        lines += [f"reported: {node}: {words}" for node, words in self.context.reported.items()]
        lines += [f"refused: {self.refusal}"] if self.refusal else []
        lines += [f"noticed: {note}" for note in self.errors]
        return "\n".join(INDENT + line for line in lines)


def _length(trace: Trace) -> int:
    return sum(len(path.left) + len(path.entered) for _, path in trace.paths)


def compared(op: str, left: object, right: object) -> list[str] | None:
    """The lines that explain a failed comparison with NICs in it; None when there are none."""
    asked = [*_nic_sets(left), *_nic_sets(right)]
    if not asked:
        return None
    nics = asked[0]
    other = right if nics is left else left
    if op == "==" and isinstance(other, set | frozenset) and (nics is left or nics is right):
        probes = f"({nics.probes} of {nics.flow.sent})"
        first = f"{nics.flow.name} {nics.asked} by {names(nics)}, not by {names(other)} {probes}"
    else:
        first = f"{nics.flow.name}: {left!r} {op} {right!r}"
    flows = {id(each.flow): each.flow for each in asked}.values()
    return [first, *(line for flow in flows for line in flow.explanation.splitlines())]


def _nic_sets(value: object) -> list[NicSet]:
    if isinstance(value, NicSet):
        return [value]
    return [nics for part in value for nics in _nic_sets(part)] if isinstance(value, tuple | list) else []


# Did a flow do what was predicted? Every probe's trace against every predicted trace.

State = Literal["agrees", "differs", "not compared"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """`why`: what a probe did that was not predicted, or why there is nothing to compare; empty when it agrees."""

    state: State
    why: str = ""

    @property
    def unpredicted(self) -> str:
        """What the flow did that was not predicted, else empty."""
        return self.why if self.state == "differs" else ""

    def __str__(self) -> str:
        return f"{self.state}: {self.why}" if self.why else self.state


AGREES = Comparison("agrees")


def compare(result: FlowResult) -> Comparison:
    """Each probe of a flow against the predicted traces: each may be hashed to another of them."""
    expected = result.expected
    if why := _not_comparable(result):
        return Comparison("not compared", why)
    if not expected:
        taps = ", ".join(result.transmitted_by)
        return Comparison("differs", f"nothing was predicted, and {taps} sent some") if taps else AGREES
    for number, trace in enumerate(result.traces):
        if not any(_agrees(prediction, trace, result) for prediction in expected):
            return Comparison("differs", f"probe {number}: {trace}; predicted: {' or '.join(map(str, expected))}")
    return AGREES


def count(states: Iterable[State]) -> Mapping[State, int]:
    """How many flows of a run agree with their prediction, differ from it, and were not compared."""
    counted = Counter(states)
    return {state: counted[state] for state in get_args(State)}


def _not_comparable(result: FlowResult) -> str:
    """Why a flow says nothing about its prediction; empty when it does."""
    if result.verdict == "unmeasured":
        return f"unmeasured: {result.why}"
    if result.refusal == os.strerror(errno.EMSGSIZE) and any(way.carried for way in result.expected):
        return "the sender's kernel has learned a smaller MTU of the path from earlier packets"  # ip_rt_update_pmtu
    source = host_of(result.flow.source)
    sent = [seen for seen in result.sightings if seen.host == source and seen.outbound and seen.kind == "request"]
    if len({seen.destination for seen in sent}) > 1:
        return "probes went to several addresses, and one of them was predicted"
    return ""


def _agrees(prediction: Trace, trace: Trace, result: FlowResult) -> bool:
    return (
        _sent(prediction, result) == _sent(trace, result)
        and (prediction.carried == trace.carried or _unseen(prediction, result))
        and _source_as_seen(prediction, trace, result)
    )


def _sent(trace: Trace, result: FlowResult) -> frozenset[object]:
    """What NICs of nodes sent, as taps see it."""
    return frozenset(
        (kind, step.tap, step.header.source, step.header.outer)
        for kind, path in trace.paths
        for step in path.left
        if host_of(step.tap) in result.context.nodes
    )


def _unseen(prediction: Trace, result: FlowResult) -> bool:
    """Taps stand outside of nodes. A node's answer from one of its own pods, or from itself, passes no tap; and one
    that the node itself drops for its reverse path has passed the tap before.
    """
    host = host_of(result.flow.source)
    if host in result.context.pod_node or prediction.reply is None:
        return False
    decided = [*prediction.reply.decided]
    where, last = decided[-1]
    return (where == host and last.why.rule == "source.reverse-path") or not prediction.reply.left


def _source_as_seen(prediction: Trace, trace: Trace, result: FlowResult) -> bool:
    """Did the packet arrive where it was predicted to, with the predicted source? Where a tap can see it."""
    request = prediction.request
    if request.arrived is None or (request.arrived not in result.context.pod_node and not request.left):
        return True
    return any(
        host_of(step.tap) == request.arrived and step.header.source == request.source for step in trace.request.entered
    )
