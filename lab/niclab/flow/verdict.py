"""From sightings to verdicts, and the words that explain them. Pure.

A flow's result answers in NIC names: which NICs its requests left a host by, which brought the answers back, which
source the far end saw. Nothing is answered unless the measurement holds (canaries seen, nothing dropped): a missing
measurement is never a pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from niclab.flow.shares import Shares
from niclab.topology import Flow
from niclab.wire.path import Sighting

Verdict = Literal["carried", "leaked", "lost", "unmeasured"]
Kind = Literal["request", "reply"]

_MANY = 3


class Unmeasured(AssertionError):
    """The taps cannot vouch for what was, or was not, seen."""


class NicMismatch(AssertionError):
    """A packet left by another NIC than it must."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """What vouches for a batch. `missing`: canaries sent and not seen; `drops`: frames lost by taps."""

    missing: tuple[str, ...] = ()
    drops: int = 0
    taps: int = 0
    without_carrier: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        return not self.missing and self.drops == 0 and self.taps > 0

    @property
    def canaries(self) -> str:
        """`ok`, or which ones are missing."""
        if self.taps == 0:
            return "none sent"
        return "ok" if not self.missing else "missing: " + ", ".join(self.missing)

    def __str__(self) -> str:
        few = replace(self, missing=(*self.missing[:_MANY], f"… ({len(self.missing)} in all)"))
        canaries = (few if len(self.missing) > _MANY else self).canaries
        text = f"canaries {canaries} · drops {self.drops}"
        return text + (f" · no carrier: {', '.join(self.without_carrier)}" if self.without_carrier else "")


@dataclass(frozen=True, slots=True)
class NicCount:
    """What one NIC transmitted of a flow; the shape of the recorded observations."""

    requests: int
    replies: int
    inner_src: tuple[str, ...]
    outer: tuple[tuple[str, str], ...]


class NicSet(frozenset[str]):
    """NIC names that remember what they answer, so that a failed comparison can show the path.

    `asked`: `left node1`; `probes`: how many were seen so.
    """

    flow: FlowResult
    asked: str
    probes: int

    def __new__(cls, names: Iterable[str], flow: FlowResult, asked: str, probes: int) -> NicSet:
        made = super().__new__(cls, names)
        made.flow, made.asked, made.probes = flow, asked, probes
        return made

    def __repr__(self) -> str:
        return "{" + ", ".join(repr(name) for name in sorted(self)) + "}"


@dataclass(frozen=True)
class Context:
    """What the words need to know of the lab: who is where."""

    topology: str
    nics: Mapping[str, str]
    """Tap name → fabric, for every NIC of every host, nodes first."""
    nodes: tuple[str, ...]
    pod_node: Mapping[str, str]
    addresses: Mapping[str, tuple[str, ...]]
    """Pod or host name → its addresses."""
    reported: Mapping[str, str]
    """Node → what its agent said, in one line."""
    unmasqueraded: frozenset[str] = frozenset()
    """NICs (`node2.eth0`) whose address pods reach with their own by design: node IPs in native routing."""


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
    state: int = field(default=0, compare=False)
    """Which state of a lab that changes it was measured in, from 0."""

    def __repr__(self) -> str:
        return f"<{self.name}: {self.outcome}>"

    @cached_property
    def received(self) -> int:
        """How many probes were answered, as seen at the sender."""
        source = self._host(self.flow.source)
        return len({s.number for s in self.sightings if s.kind == "reply" and s.arrives and s.host == source})

    @property
    def verdict(self) -> Verdict:
        if not self.measurement.holds or self.sent == 0:
            return "unmeasured"
        if self.leaks:
            return "leaked"
        return "carried" if self.received == self.sent else "lost"

    def _host(self, end: str) -> str:
        return end.partition(".")[0]

    @cached_property
    def end(self) -> str:
        """Where the flow ends: its destination, or of a service the backend that a request arrived at."""
        pods = self.served.pods if self.served else ()
        requests = [s for s in self.sightings if s.kind == "request" and s.arrives and s.host in pods]
        return requests[-1].host if requests else self.flow.destination

    def _vouched(self) -> tuple[Sighting, ...]:
        __tracebackhide__ = True
        if self.verdict == "unmeasured":
            raise Unmeasured(f"{self.name} was not measured: {self.why}\n{self.explanation}")
        return self.sightings

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
        __tracebackhide__ = True
        host = self._known(host)
        found = [
            s
            for s in self._vouched()
            if s.host == host and s.nic and s.kind == kind and (s.outbound if outbound else s.arrives)
        ]
        return NicSet({s.nic for s in found}, self, f"{asked} {host}", len({s.number for s in found}))

    def left(self, host: str) -> frozenset[str]:
        """The NICs of `host` that its requests left by. Raises Unmeasured."""
        __tracebackhide__ = True
        return self._nics(host, "request", "left", outbound=True)

    def entered(self, host: str) -> frozenset[str]:
        """The NICs of `host` that requests came in by. Raises Unmeasured."""
        __tracebackhide__ = True
        return self._nics(host, "request", "entered", outbound=False)

    def answered_by(self, host: str) -> frozenset[str]:
        """The NICs of `host` that replies left by. Raises Unmeasured."""
        __tracebackhide__ = True
        return self._nics(host, "reply", "was answered by", outbound=True)

    def came_back_to(self, host: str) -> frozenset[str]:
        """The NICs of `host` that replies came in by. Raises Unmeasured."""
        __tracebackhide__ = True
        return self._nics(host, "reply", "came back to", outbound=False)

    def _known(self, host: str) -> str:
        if not any(tap.startswith(f"{host}.") for tap in self.context.nics):
            raise ValueError(f"{host!r} is no host with NICs; there are {', '.join(self.context.nodes)} and others")
        return host

    def sources_seen_by(self, end: str) -> frozenset[str]:
        """The source addresses of the requests that arrived at a pod, an external or a node. Raises Unmeasured."""
        __tracebackhide__ = True
        host = self._host(end)
        return frozenset(s.source for s in self._vouched() if s.kind == "request" and s.arrives and s.host == host)

    def source_seen_by(self, end: str) -> str | None:
        """The one source that arrived at `end`, None when nothing did. Raises Unmeasured, ValueError for several."""
        __tracebackhide__ = True
        found = self.sources_seen_by(end)
        if len(found) > 1:
            raise ValueError(f"{end} saw several sources: {', '.join(sorted(found))}")
        return next(iter(found), None)

    def outer_on(self, tap: str) -> frozenset[tuple[str, str]]:
        """The outer (source, destination) pairs of what a NIC transmitted of this flow. Raises Unmeasured."""
        __tracebackhide__ = True
        return frozenset(pair for s in self._vouched() if s.tap == tap and s.outbound for pair in s.outer)

    def shares(self, host: str) -> Shares:
        """How many of the flow's requests left `host` by each of its NICs. Raises Unmeasured.

        Of several probes, each should be a flow of its own: send them with `vary_ports` or `vary_addresses`.
        """
        __tracebackhide__ = True
        taps = [tap for tap in self.context.nics if tap.startswith(f"{self._known(host)}.")]
        seen: dict[str, set[int]] = {tap.partition(".")[2]: set() for tap in taps}
        for s in self._vouched():
            if s.host == host and s.nic and s.kind == "request" and s.outbound:
                seen[s.nic].add(s.number)
        return Shares(self.name, host, {nic: len(numbers) for nic, numbers in seen.items()})

    def must_leave(self, host: str, by: str | Iterable[str]) -> None:
        """Raises NicMismatch unless requests left `host` by exactly these NICs."""
        __tracebackhide__ = True
        wanted = {by} if isinstance(by, str) else set(by)
        found = self.left(host)
        if found != wanted:
            raise NicMismatch(self._mismatch(f"must leave {host}", wanted, found, host, ("request",)))

    def must_not_leave(self, host: str, by: str) -> None:
        """Raises NicMismatch if anything of the flow, request or reply, left `host` by this NIC."""
        __tracebackhide__ = True
        tap = f"{self._known(host)}.{by}"
        if tap not in self.context.nics:
            raise ValueError(f"there is no NIC {tap}")
        if any(s.tap == tap and s.outbound for s in self._vouched()):
            found = self.left(host) | self.answered_by(host)
            raise NicMismatch(self._mismatch(f"must not leave {host}", {by}, found, host, ("request", "reply")))

    def must_receive(self) -> None:
        """Raises AssertionError unless every probe was answered."""
        __tracebackhide__ = True
        self._vouched()
        if self.received != self.sent:
            raise AssertionError(f"{self.name}: {self.received} of {self.sent} answered\n{self.explanation}")

    def must_not_receive(self) -> None:
        """Raises AssertionError if any probe was answered."""
        __tracebackhide__ = True
        self._vouched()
        if self.received:
            raise AssertionError(f"{self.name}: {self.received} answered, none should be\n{self.explanation}")

    def _mismatch(
        self, must: str, wanted: Iterable[str], found: Iterable[str], host: str, kinds: tuple[Kind, ...]
    ) -> str:
        count = len({s.number for s in self.sightings if s.host == host and s.outbound and s.nic and s.kind in kinds})
        return (
            f"{self.name} {must} by {' and '.join(sorted(wanted)) or 'no NIC'}, "
            f"left by {' and '.join(sorted(found)) or 'no NIC'} ({count} of {self.sent})\n{self.explanation}"
        )

    @cached_property
    def transmitted_by(self) -> Mapping[str, NicCount]:
        """Tap → what that node's NIC transmitted; only NICs of nodes that transmitted something."""
        found: dict[str, NicCount] = {}
        for tap in self.context.nics:
            if tap.partition(".")[0] not in self.context.nodes:
                continue
            mine = [s for s in self.sightings if s.tap == tap and s.outbound and s.kind != "error"]
            if mine:
                found[tap] = NicCount(
                    requests=sum(s.kind == "request" for s in mine),
                    replies=sum(s.kind == "reply" for s in mine),
                    inner_src=tuple(sorted({s.source for s in mine})),
                    outer=tuple(sorted({pair for s in mine for pair in s.outer})),
                )
        return found

    def path(self, number: int | None = None) -> tuple[Sighting, ...]:
        """One probe's sightings in order; without a number those of the probe that got furthest."""
        if number is None:
            numbers = sorted({s.number for s in self.sightings})
            if not numbers:
                return ()
            number = max(numbers, key=lambda one: (sum(s.number == one for s in self.sightings), -one))
        return tuple(s for s in self.sightings if s.number == number)

    @property
    def explanation(self) -> str:
        from niclab.flow import picture

        return picture.explain(self)
