"""Sightings: which tap saw which probe, in order; and what vouches for them. Pure: captures in, values out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from niclab.wire.decode import Decoded, Decoder, vlan_of

if TYPE_CHECKING:  # what was seen is told without what captures it
    from niclab.wire.tap import Capture

_BROADCAST = "ff:ff:ff:ff:ff:ff"
_MANY = 3

Macs = Mapping[str, Collection[str]]
"""Tap → the MACs that frames for its host have there."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """A probe, or the answer to one, seen at a tap. `arrives`: the frame is addressed to the tapped host itself."""

    tap: str
    timestamp_ns: int
    outbound: bool
    arrives: bool
    kind: Literal["request", "reply", "error"]
    number: int
    source: str
    destination: str
    outer: tuple[tuple[str, str], ...]
    encapsulation: tuple[str, ...]
    note: str
    vlan: int | None = None
    """The tag of the frame; None without one."""

    @property
    def host(self) -> str:
        """The tapped host: `node1` of `node1.eth0`; a pod's tap is the pod."""
        return self.tap.partition(".")[0]

    @property
    def nic(self) -> str:
        return self.tap.partition(".")[2]


@dataclass(frozen=True, slots=True)
class Measurement:
    """What vouches for a batch. `missing`: canaries sent and not seen; `drops`: frames lost by taps."""

    missing: tuple[str, ...] = ()
    drops: int = 0
    taps: int = 0
    without_carrier: tuple[str, ...] = ()

    @classmethod
    def together(cls, measurements: Sequence[Measurement]) -> Measurement:
        """Several measurements as one: what was missing in any of them is missing."""
        return cls(
            missing=tuple(dict.fromkeys(name for each in measurements for name in each.missing)),
            drops=max((each.drops for each in measurements), default=0),
            taps=min((each.taps for each in measurements), default=0),
            without_carrier=tuple(dict.fromkeys(name for each in measurements for name in each.without_carrier)),
        )

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
class Sorted:
    """Captures by what they are: each flow's sightings, and the canaries seen as (tap number, direction, number)."""

    flows: Mapping[int, tuple[Sighting, ...]]
    canaries: frozenset[tuple[int, str, int, bool]]


def sort(captures: Iterable[Capture], decoder: Decoder, macs: Macs, taps: Sequence[str]) -> Sorted:
    """Sort captures into flows and canaries; a canary counts only at its own tap. `macs`: tap → its host's MACs."""
    flows: dict[int, list[Sighting]] = {}
    canaries: set[tuple[int, str, int, bool]] = set()
    for capture in captures:
        decoded = decoder.decode(capture.data)
        if decoded is None:
            continue
        if decoded.kind == "canary":
            number = decoded.identity.flow
            if number < len(taps) and taps[number] == capture.tap:
                canaries.add((number, decoded.note, decoded.identity.number, capture.outbound))
            continue
        if decoded.about == "reply":
            # The sender's kernel knows nothing of a raw probe and refuses the reply: that says nothing of the probe.
            continue
        flows.setdefault(decoded.identity.flow, []).append(_sighting(capture, decoded, macs))
    return Sorted(
        {flow: tuple(sorted(seen, key=lambda sighting: sighting.timestamp_ns)) for flow, seen in flows.items()},
        frozenset(canaries),
    )


def _sighting(capture: Capture, decoded: Decoded, macs: Macs) -> Sighting:
    mine = macs.get(capture.tap)
    assert decoded.kind != "canary"
    return Sighting(
        tap=capture.tap,
        timestamp_ns=capture.timestamp_ns,
        outbound=capture.outbound,
        # A bridge floods frames for a MAC it has not learnt: they pass other hosts' taps too.
        arrives=not capture.outbound and (mine is None or decoded.destination_mac in (*mine, _BROADCAST)),
        kind=decoded.kind,
        number=decoded.identity.number,
        source=decoded.source,
        destination=decoded.destination,
        outer=decoded.outer,
        encapsulation=decoded.encapsulation,
        note=decoded.note,
        vlan=vlan_of(capture.data),
    )


def without_resets(sightings: Iterable[Sighting]) -> tuple[Sighting, ...]:
    """The sightings with TCP resets as errors. Every backend of a service listens: a reset comes from a node that does
    not serve the port on that NIC, and answers nothing.
    """
    return tuple(replace(seen, kind="error") if seen.note == "rst" else seen for seen in sightings)
