"""Why a flow goes where it goes: the decisions of a trace, for people. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from niclab.flow.trace import Decided, Path, Trace
from niclab.topology import Flow

ASIDE = frozenset({"route.local", "nat.none"})
"""Decisions that go without saying where a person reads."""


def protocol_of(flow: Flow, sent: Flow) -> str:
    """`icmp`, `udp:PORT` or `tcp:PORT` as the packets have it; with a 6 where the flow asked for IPv6."""
    return f"{sent.protocol}{'6' if flow.family == 6 else ''}" + (f":{sent.port}" if sent.port else "")


def telling(path: Path) -> Iterator[tuple[str, Decided]]:
    """The decisions that a person wants to read, with their hosts."""
    return ((host, step) for host, step in path.decided if step.why.rule not in ASIDE)


def chain(trace: Trace) -> str:
    """The request's decisions, and how the reply comes back, in one line."""
    words = [step.words for _, step in telling(trace.request)]
    if trace.reply is not None:
        back = ", ".join(step.tap for step in trace.reply.left) or "no NIC"
        words.append(f"back by {back}" + ("" if trace.reply.arrived else f", and lost: {trace.reply.lost}"))
    return " → ".join(words)
