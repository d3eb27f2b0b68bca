"""What a test sees of one BGP speaker: its sessions, what it has learned, and what it should have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

from niclab.agents.frr.speakers import Speakers
from niclab.cilium.bgp import Rib
from niclab.errors import LabError, nearest
from niclab.net.route import ip_network

WITHIN = 10.0
"""Seconds: the hold time of 3 s, its discovery, and a busy machine."""

Learned = Mapping[str, frozenset[str]]
"""Prefix → next hops, as text."""


@dataclass(frozen=True)
class Speaker:
    """One router or node, as its bgpd or agent tells it. What is expected and what is learned have the same shape."""

    name: str
    _speakers: Speakers

    @property
    def learned(self) -> Learned:
        """Every prefix it has learned, and the next hops it uses; nothing while its bgpd does not run."""
        return _text(self._speakers.rib(self.name))

    @property
    def expected(self) -> Learned:
        """What it should learn when all sessions stand: of a node nothing."""
        return _text(self._speakers.expected[self.name])

    @property
    def heard(self) -> Learned:
        """What a node's peers have told it; it rejects all of it."""
        return _text(self._speakers.heard(self.name))

    @property
    def sessions(self) -> Mapping[str, str]:
        """The NIC at the other end (`node1.eth0`) → the state of the session, `Established` when it stands."""
        return self._speakers.states(self.name)

    def next_hops(self, prefix: str) -> frozenset[str]:
        """By which next hops it reaches a prefix: none when it has not learned it."""
        return self.learned.get(str(ip_network(prefix)), frozenset())

    def must_learn(self, prefix: str, next_hops: Iterable[str], *, within: float = WITHIN) -> None:
        """Wait until it uses these next hops for a prefix (none: until it has forgotten it), in its kernel as well.

        Of routers only. Raises AssertionError when it does not after so many seconds.
        """
        __tracebackhide__ = True
        network, wanted = ip_network(prefix), frozenset(next_hops)

        def right(rib: Rib) -> bool:
            return frozenset(map(str, rib.get(network, ()))) == wanted

        if not self._speakers.wait_for(self.name, right, within=within):
            raise AssertionError(
                f"{self.name} must learn {prefix} by {_words(wanted)}, "
                f"has it by {_words(self.next_hops(prefix))} after {within:g} s\n"
                + "\n".join(f"  {peer}: {state}" for peer, state in self.sessions.items())
            )

    def frozen(self) -> AbstractContextManager[None]:
        """Run the block while a router's bgpd stands still, so that its peers' hold timers run out."""
        return self._speakers.frozen(self.name)

    def stopped(self) -> AbstractContextManager[None]:
        """Run the block while a router's bgpd is ended, then start it again; all is learned as before afterwards."""
        return self._speakers.stopped(self.name)


def find(speakers: Speakers | None, name: str) -> Speaker:
    """One of a lab's speakers. Raises LabError when there is none of this name."""
    known = tuple(speakers.expected) if speakers is not None else ()
    if speakers is None or name not in known:
        raise LabError(f"{name!r} does not speak BGP", fix=nearest(name, known))
    return Speaker(name, speakers)


def _text(rib: Rib) -> Learned:
    return {str(prefix): frozenset(map(str, hops)) for prefix, hops in rib.items()}


def _words(hops: Iterable[str]) -> str:
    return " and ".join(sorted(hops)) or "no next hop"
