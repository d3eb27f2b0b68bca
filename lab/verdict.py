"""From sightings to verdicts, and the words that explain them. Pure.

A flow's result answers in NIC names: which NICs its requests left a host by, which brought the answers back, which
source the far end saw. Nothing is answered unless the measurement holds (canaries seen, nothing dropped): a missing
measurement is never a pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from lab.topology import Flow
from lab.traffic.path import Sighting

Verdict = Literal["carried", "leaked", "lost", "unmeasured"]


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
        text = f"canaries {self.canaries} · drops {self.drops}"
        return text + (f" · no carrier: {', '.join(self.without_carrier)}" if self.without_carrier else "")


@dataclass(frozen=True, slots=True)
class NicCount:
    """What one NIC transmitted of a flow; the shape of the recorded observations."""

    requests: int
    replies: int
    inner_src: tuple[str, ...]
    outer: tuple[tuple[str, str], ...]


class NicSet(frozenset[str]):
    """NIC names that remember their flow, so that a failed comparison can show the path."""

    flow: FlowResult

    def __new__(cls, names: Iterable[str], flow: FlowResult) -> NicSet:
        made = super().__new__(cls, names)
        made.flow = flow
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
    said: Mapping[str, str]
    """Node → what its agent said, in one line."""
    unmasqueraded: frozenset[str] = frozenset()
    """NICs (`node2.eth0`) whose address pods reach with their own by design: node IPs in native routing."""


@dataclass(frozen=True)
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

    def _vouched(self) -> tuple[Sighting, ...]:
        if self.verdict == "unmeasured":
            raise Unmeasured(f"{self.name} was not measured: {self.refusal or self.measurement}\n{self.explanation}")
        return self.sightings

    @property
    def name(self) -> str:
        flow = self.flow
        suffix = f":{flow.protocol}:{flow.port}" if flow.port else ""
        return f"{flow.source}→{flow.destination}{suffix}" + (" (IPv6)" if flow.family == 6 else "")

    def _nics(self, host: str, kind: str, *, outbound: bool) -> NicSet:
        found = {
            s.nic
            for s in self._vouched()
            if s.host == host and s.nic and s.kind == kind and (s.outbound if outbound else s.arrives)
        }
        return NicSet(found, self)

    def left(self, host: str) -> NicSet:
        """The NICs of `host` that its requests left by. Raises Unmeasured."""
        return self._nics(self._known(host), "request", outbound=True)

    def entered(self, host: str) -> NicSet:
        """The NICs of `host` that requests came in by. Raises Unmeasured."""
        return self._nics(self._known(host), "request", outbound=False)

    def answered_by(self, host: str) -> NicSet:
        """The NICs of `host` that replies left by. Raises Unmeasured."""
        return self._nics(self._known(host), "reply", outbound=True)

    def came_back_to(self, host: str) -> NicSet:
        """The NICs of `host` that replies came in by. Raises Unmeasured."""
        return self._nics(self._known(host), "reply", outbound=False)

    def _known(self, host: str) -> str:
        if not any(tap.startswith(f"{host}.") for tap in self.context.nics):
            raise ValueError(f"{host!r} is no host with NICs; there are {', '.join(self.context.nodes)} and others")
        return host

    def sources_seen_by(self, end: str) -> frozenset[str]:
        """The source addresses of the requests that arrived at a pod, an external or a node. Raises Unmeasured."""
        host = self._host(end)
        return frozenset(s.source for s in self._vouched() if s.kind == "request" and s.arrives and s.host == host)

    def source_seen_by(self, end: str) -> str | None:
        """The one source that arrived at `end`, None when nothing did. Raises Unmeasured, ValueError for several."""
        found = self.sources_seen_by(end)
        if len(found) > 1:
            raise ValueError(f"{end} saw several sources: {', '.join(sorted(found))}")
        return next(iter(found), None)

    def outer_on(self, tap: str) -> frozenset[tuple[str, str]]:
        """The outer (source, destination) pairs of what a NIC transmitted of this flow. Raises Unmeasured."""
        return frozenset(pair for s in self._vouched() if s.tap == tap and s.outbound for pair in s.outer)

    def must_leave(self, host: str, by: str | Iterable[str]) -> None:
        """Raises NicMismatch unless requests left `host` by exactly these NICs."""
        wanted = {by} if isinstance(by, str) else set(by)
        found = self.left(host)
        if found != wanted:
            raise NicMismatch(self._mismatch(host, "must leave", wanted, found))

    def must_not_leave(self, host: str, by: str) -> None:
        """Raises NicMismatch if anything of the flow, request or reply, left `host` by this NIC."""
        tap = f"{self._known(host)}.{by}"
        if tap not in self.context.nics:
            raise ValueError(f"there is no NIC {tap}")
        if any(s.tap == tap and s.outbound for s in self._vouched()):
            raise NicMismatch(self._mismatch(host, "must not leave", {by}, self.left(host) | self.answered_by(host)))

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

    def _mismatch(self, host: str, must: str, wanted: Iterable[str], found: Iterable[str]) -> str:
        count = len({s.number for s in self.sightings if s.host == host and s.outbound and s.kind == "request"})
        return (
            f"{self.name} {must} {host} by {' and '.join(sorted(wanted))}, "
            f"left by {' and '.join(sorted(found)) or 'none'} ({count} of {self.sent})\n{self.explanation}"
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
        from lab import words

        return words.explain(self)
