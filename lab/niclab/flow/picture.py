"""The words and the small picture that explain a flow. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from niclab.flow.verdict import FlowResult, NicSet
from niclab.wire.path import Sighting

INDENT = "  "
WIDTH = 100
_GAP = "      "
_LEAST_GAP = 3


def explain(result: FlowResult) -> str:
    """Three or more lines: the way the packet took, every node NIC's count, and what the agents said."""
    lines = [*pictures(result), *counters(result)]
    lines += [f"reported: {node}: {reported}" for node, reported in result.context.reported.items()]
    if result.refusal:
        lines.append(f"refused: {result.refusal}")
    lines += [f"noticed: {note}" for note in notes(result)]
    return "\n".join(INDENT + line for line in lines)


def compared(op: str, left: object, right: object) -> list[str] | None:
    """The lines that explain a failed comparison with NICs in it; None when there are none."""
    asked = [*_nic_sets(left), *_nic_sets(right)]
    if not asked:
        return None
    nics = asked[0]
    other = right if nics is left else left
    if op == "==" and isinstance(other, set | frozenset) and (nics is left or nics is right):
        probes = f"({nics.probes} of {nics.flow.sent})"
        first = f"{nics.flow.name} {nics.asked} by {_names(nics)}, not by {_names(other)} {probes}"
    else:
        first = f"{nics.flow.name}: {left!r} {op} {right!r}"
    flows = dict.fromkeys(id(one.flow) for one in asked)
    explained = [next(one.flow for one in asked if id(one.flow) == number).explanation for number in flows]
    return [first, *"\n".join(explained).splitlines()]


def _nic_sets(value: object) -> list[NicSet]:
    if isinstance(value, NicSet):
        return [value]
    return [found for one in value for found in _nic_sets(one)] if isinstance(value, tuple | list) else []


def _names(nics: Iterable[object]) -> str:
    return " and ".join(sorted(map(str, nics))) or "no NIC"


def pictures(result: FlowResult) -> Iterator[str]:
    """The request's way with the source that was seen, and the reply's way."""
    path = result.path()
    requests = [s for s in path if s.kind == "request"]
    replies = [s for s in path if s.kind == "reply"]
    flow = result.flow
    picture = _way(result, flow.source, requests, result.end)
    abroad = [s for s in requests if s.nic or s.arrives]
    seen = next((s for s in reversed(abroad) if s.arrives), None) or (abroad[-1] if abroad else None)
    source = _source_words(result, seen)
    gap = max(min(WIDTH - len(INDENT) - len(picture) - len(source), len(_GAP)), 0)
    if gap >= _LEAST_GAP:
        yield f"{picture}{' ' * gap}{source}"
    else:
        yield from (picture, INDENT + source)
    if replies:
        yield _way(result, result.end, replies, flow.source)


def _way(result: FlowResult, start: str, sightings: list[Sighting], end: str) -> str:
    """Hosts and NICs in order: `─` inside a host, `═` on a cable, `✗` where the packet was last seen."""
    hops: list[str] = []
    first = start.partition(".")[0]
    if first in result.context.pod_node:
        hops += [first, "─", "lxc", "─"]
        first = result.context.pod_node[first]
    hops.append(first)
    here = first
    for sighting in sightings:
        if not sighting.nic:
            continue
        if sighting.outbound:
            if sighting.host != here:
                hops += ["…", sighting.host]
            hops += ["═", sighting.nic + _encapsulated(sighting), "═", result.context.nics[sighting.tap]]
            here = sighting.host
        elif sighting.arrives:
            hops += ["═" if sighting.host in result.context.nodes else "─", sighting.host]
            if sighting.host in result.context.nodes:
                hops[-1] = f"{sighting.nic} ─ {sighting.host}"
            here = sighting.host
    target = end.partition(".")[0]
    node = result.context.pod_node.get(target, target)
    arrived = any(s.arrives and s.host == target for s in sightings)
    if target in result.context.pod_node and arrived:
        hops += ["─", "lxc", "─", target] if here == node else ["…", target]
    elif not arrived:
        hops += ["✗", f"(not seen at {end})"]
    return " ".join(hops)


def _encapsulated(sighting: Sighting) -> str:
    return f"[{'/'.join(sighting.encapsulation)}]" if sighting.encapsulation else ""


def _source_words(result: FlowResult, sighting: Sighting | None) -> str:
    if sighting is None:
        return "no request was seen on any cable"
    own = result.context.addresses.get(result.flow.source.partition(".")[0], ())
    text = f"source seen: {sighting.source}"
    if result.flow.source not in result.context.pod_node:
        return text
    how = "the pod's own: not masqueraded" if sighting.source in own else "masqueraded"
    return f"{text} ({how})"


def counters(result: FlowResult) -> list[str]:
    """What every NIC of every node transmitted, and what vouches for it."""
    counts = [
        f"{tap} {sum(s.tap == tap and s.outbound and s.kind != 'error' for s in result.sightings)}"
        for tap in result.context.nics
        if tap.partition(".")[0] in result.context.nodes
    ]
    lines = wrapped(counts)
    if len(INDENT) + len(lines[-1]) + len(_GAP) + len(str(result.measurement)) <= WIDTH:
        lines[-1] += f"{_GAP}{result.measurement}"
    else:
        lines.append(str(result.measurement))
    return lines


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


def notes(result: FlowResult) -> list[str]:
    """Errors (ICMP, RST) that came back, each once."""
    return sorted({f"{s.note} from {s.source}" for s in result.sightings if s.kind == "error" and s.note})
