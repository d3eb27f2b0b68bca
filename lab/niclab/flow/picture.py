"""A trace as people see it: a line of hosts and NICs for each path, and the decisions that led there. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from niclab.flow.trace import (
    NO_PATH,
    Context,
    Entered,
    Kind,
    Left,
    Path,
    Trace,
    host_of,
    nic_of,
    transmitted,
)
from niclab.topology.model import Flow

INDENT = "  "
WIDTH = 100
_GAP = "      "
_LEAST_GAP = 3
ASIDE = frozenset({"route.local", "nat.none"})
"""Decisions that go without saying where a person reads."""


def pictures(trace: Trace, source: str, end: str, context: Context, expected: Sequence[Trace] = ()) -> Iterator[str]:
    """The request's path with the source that was seen, and the reply's path.

    A path that ends early has a `✗`, with the reason if every `expected` trace ends there too. Of what a pod sends to
    its own node no tap sees the request: that it is answered says that it arrived.
    """
    within = trace.carried and context.node_of(source) == context.node_of(end)
    picture = _picture(trace.request, source, end, context)
    picture += "" if within else _lost(trace, "request", end, expected)
    seen = "no tap inside the node" if within and not trace.request.hops else _source(trace.request, source, context)
    gap = max(min(WIDTH - len(INDENT) - len(picture) - len(seen), len(_GAP)), 0)
    if gap >= _LEAST_GAP:
        yield f"{picture}{' ' * gap}{seen}"
    else:
        yield from (picture, INDENT + seen)
    reply = trace.reply or NO_PATH
    if reply.hops:
        yield _picture(reply, end, source, context) + _lost(trace, "reply", source, expected)


def _picture(path: Path, start: str, end: str, context: Context) -> str:
    """Hosts and NICs in order: `─` inside a host, `═` on a cable."""
    words: list[str] = []
    here = context.node_of(start)
    if here != host_of(start):
        words += [host_of(start), "─", "lxc", "─"]
    words.append(here)
    for hop in path.hops:
        for step in hop.steps:
            if not isinstance(step, Entered | Left) or not nic_of(step.tap):
                continue
            nic, is_node = nic_of(step.tap), hop.host in context.nodes
            if isinstance(step, Entered):
                words += ["═", f"{nic} ─ {hop.host}"] if is_node else ["─", hop.host]
            else:
                words += [] if hop.host == here else ["…", hop.host]
                tunnels = "/".join(step.header.encapsulation)
                words += ["═", f"{nic}[{tunnels}]" if tunnels else nic, "═", context.nics[step.tap]]
            here = hop.host
    target = host_of(end)
    if target in context.pod_node and _arrived(path, target):
        words += ["─", "lxc", "─", target] if here == context.node_of(end) else ["…", target]
    return " ".join(words)


def _arrived(path: Path, host: str) -> bool:
    return any(host_of(step.tap) == host for step in path.entered)


def _lost(trace: Trace, kind: Kind, end: str, expected: Sequence[Trace]) -> str:
    """What follows where a path ends early.

    Taps stand outside the nodes: that a node drops what came in by its NIC is known from predictions alone.
    """
    path = trace.path(kind)
    last = path.hops[-1].host if path.hops else ""
    predicted = [other.path(kind) for other in expected]
    inside = {other.lost for other in predicted if other.lost and other.hops[-1].host == last}
    why = f"predicted: {' or '.join(sorted(inside))}" if inside and all(other.lost for other in predicted) else ""
    if not _arrived(path, host_of(end)):
        return f" ✗ (not seen at {end}{'; ' if why else ''}{why})"
    went_on = kind == "request" and trace.reply is not None and bool(trace.reply.hops)
    return f" ✗ ({why})" if why and not went_on else ""


def _source(path: Path, start: str, context: Context) -> str:
    """How the source looked on a cable, or where it arrived."""
    steps: tuple[Entered | Left, ...] = path.entered or path.left
    if not steps:
        return "no request was seen on any cable"
    source = steps[-1].header.source
    text = f"source seen: {source}"
    if start not in context.pod_node:
        return text
    own = source in context.addresses.get(start, ())
    return f"{text} (the pod's own: not masqueraded)" if own else f"{text} (masqueraded)"


def counters(traces: Iterable[Trace], context: Context) -> list[str]:
    """How many packets every NIC of every node sent, in lines that fit."""
    taps = tuple(context.node_taps)
    sent = transmitted(traces, taps)
    counts = {tap: sent[tap].requests + sent[tap].replies if tap in sent else 0 for tap in taps}
    return wrapped(f"{tap} {count}" for tap, count in counts.items())


def with_measurement(lines: list[str], measurement: str) -> list[str]:
    """The counters and what vouches for them."""
    if len(INDENT) + len(lines[-1]) + len(_GAP) + len(measurement) <= WIDTH:
        return [*lines[:-1], f"{lines[-1]}{_GAP}{measurement}"]
    return [*lines, measurement]


def wrapped(words: Iterable[str]) -> list[str]:
    """Words with dots between them, in lines that fit."""
    lines = [""]
    for word in words:
        longer = f"{lines[-1]} · {word}" if lines[-1] else word
        if len(longer) + len(INDENT) > WIDTH:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def names(nics: Iterable[object]) -> str:
    return " and ".join(sorted(map(str, nics))) or "no NIC"


def protocol_of(flow: Flow, sent: Flow) -> str:
    """`icmp`, `udp:PORT` or `tcp:PORT` as the packets have it; with a 6 where the flow asked for IPv6."""
    return f"{sent.protocol}{'6' if flow.family == 6 else ''}" + (f":{sent.port}" if sent.port else "")


def chain(trace: Trace) -> str:
    """The request's decisions, and how the reply comes back, in one line."""
    words = [step.words for _, step in trace.request.decided if step.why.rule not in ASIDE]
    if trace.reply is not None:
        back = ", ".join(step.tap for step in trace.reply.left) or "no NIC"
        words.append(f"back by {back}" + ("" if trace.reply.arrived else f", and lost: {trace.reply.lost}"))
    return " → ".join(words)
