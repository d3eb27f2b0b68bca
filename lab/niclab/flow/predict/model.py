"""What is predicted of a flow: its packets' ways, step by step, and what each NIC sends of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from niclab.net.packetrules import Packet
from niclab.net.reason import Why
from niclab.net.route import Address


@dataclass(frozen=True, slots=True)
class Sent:
    """One packet leaving a host's NIC, the tap, for another's, `into`.

    `source` is inside any tunnel, `outer` the tunnel's address pair.
    """

    tap: str
    source: str
    outer: tuple[str, str] | None = None
    into: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Step:
    """One decision about a packet: at which host, by which rule, and what made the rule fire."""

    where: str
    why: Why
    inputs: tuple[tuple[str, object], ...] = ()

    @property
    def rule(self) -> str:
        return self.why.rule

    @property
    def words(self) -> str:
        return self.why.words.format_map({name: shown(value) for name, value in self.inputs})

    @property
    def source(self) -> str:
        return self.why.source


def shown(value: object) -> str:
    """An input of a step, as people read it."""
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


@dataclass(frozen=True, slots=True)
class Walk:
    """One packet's way. `arrived`: the host it ended at, or None, and then `why`; `source` as it was seen there.

    `iif`: the interface by which it came in there.
    """

    sent: tuple[Sent, ...]
    arrived: str | None
    source: Address
    packet: Packet = field(compare=False, repr=False)
    why: str = ""
    steps: tuple[Step, ...] = field(default=(), compare=False)
    iif: str | None = field(default=None, compare=False)


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
