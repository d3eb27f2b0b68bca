"""The words and the small picture that explain a flow. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from lab.traffic.path import Sighting
from lab.verdict import FlowResult

INDENT = "  "


def explain(result: FlowResult) -> str:
    """Three or more lines: the way the packet took, every node NIC's count, and what the agents said."""
    lines = [*_pictures(result), _counters(result)]
    lines += [f"said: {node}: {said}" for node, said in result.context.said.items()]
    if result.refusal:
        lines.append(f"refused: {result.refusal}")
    lines += [f"noticed: {note}" for note in _notes(result)]
    return "\n".join(INDENT + line for line in lines)


def _pictures(result: FlowResult) -> Iterator[str]:
    path = result.path()
    requests = [s for s in path if s.kind == "request"]
    replies = [s for s in path if s.kind == "reply"]
    flow = result.flow
    picture = _way(result, flow.source, requests, flow.destination)
    seen = next((s for s in reversed(requests) if s.arrives), None) or (requests[-1] if requests else None)
    yield f"{picture}      {_source_words(result, seen)}".rstrip()
    if replies:
        yield _way(result, flow.destination, replies, flow.source)


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


def _counters(result: FlowResult) -> str:
    counts = []
    for tap in result.context.nics:
        if tap.partition(".")[0] in result.context.nodes:
            counts.append(f"{tap} {sum(s.tap == tap and s.outbound and s.kind != 'error' for s in result.sightings)}")
    return f"{' · '.join(counts)}      {result.measurement}"


def _notes(result: FlowResult) -> list[str]:
    return sorted({f"{s.note} from {s.source}" for s in result.sightings if s.kind == "error" and s.note})
