"""Sightings and paths: which tap saw which probe, in order. Pure: captures in, values out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from niclab.wire.capture import Capture
from niclab.wire.decode import Decoded, Decoder

_BROADCAST = "ff:ff:ff:ff:ff:ff"

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

    @property
    def host(self) -> str:
        """The tapped host: `node1` of `node1.eth0`; a pod's tap is the pod."""
        return self.tap.partition(".")[0]

    @property
    def nic(self) -> str:
        return self.tap.partition(".")[2]


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
        if decoded.quote is not None and decoded.quote.kind == "reply":
            # The sender's kernel knows nothing of a raw probe and refuses the reply: that says nothing of the probe.
            continue
        flows.setdefault(decoded.identity.flow, []).append(_sighting(capture, decoded, macs))
    return Sorted(
        {flow: tuple(sorted(found, key=lambda one: one.timestamp_ns)) for flow, found in flows.items()},
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
    )


def without_resets(sightings: Iterable[Sighting]) -> tuple[Sighting, ...]:
    """The same with resets as errors: every backend of a service listens, so a reset is nobody's answer, but a node's
    own refusal of a port that it does not serve on that NIC.
    """
    return tuple(replace(one, kind="error") if one.note == "rst" else one for one in sightings)
