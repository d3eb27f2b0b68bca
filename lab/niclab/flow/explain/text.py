"""What `niclab explain` shows a person: what the agents decided, then every flow's decisions in order. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from niclab.flow.explain.model import ASIDE, ExplainedFlow, ExplainedNode, Explanation, Packet, Step, Way

_INDENT = "  "
_WIDTH = 118


def lines(explanation: Explanation) -> Iterator[str]:
    routing = next((node.routing for node in explanation.nodes.values()), "")
    yield f"{explanation.topology} · {routing} · model of Cilium {explanation.cilium_version}, no packet sent"
    alike: dict[str, list[str]] = {}
    for name, node in explanation.nodes.items():
        alike.setdefault("\n".join(_node(node)), []).append(name)
    for words, names in alike.items():
        yield ""
        first, *rest = words.splitlines()
        yield from _folded(f"{', '.join(names)}: {first}", "")
        for line in rest:
            yield from _folded(line, _INDENT)
    for flow in explanation.flows:
        yield ""
        yield from _flow(flow)
    yield from _deciders(explanation)


def _node(node: ExplainedNode) -> Iterator[str]:
    if node.agent_exits:
        yield f"the agent exits: {node.agent_exits}  [{node.exits_in}]"
        if node.fix:
            yield f"fix: {node.fix}"
    else:
        which = node.direct_routing_device or "none"
        yield f"direct routing device {which} ({node.direct_routing_reason})  [{node.direct_routing_rule}]"
    for name, device in node.devices.items():
        if name != "lo":
            yield f"{name} {'selected' if device.selected else 'not selected'}: {device.reason} (rule {device.number})"
    if not node.agent_exits:
        yield f"host routing {node.host_routing} · masquerading {node.masquerading}"
    yield from (f"warning: {words}" for words in node.warnings)


def _flow(flow: ExplainedFlow) -> Iterator[str]:
    name = f"{flow.source} → {flow.destination}" + ("" if flow.protocol == "icmp" else f" {flow.protocol}")
    if flow.not_sent is not None:
        yield from _folded(f"{name}: not sent: {flow.not_sent}", "")
    for number, way in enumerate(flow.ways, 1):
        hashed = f" ({number} of {len(flow.ways)}: chance decides)" if len(flow.ways) > 1 else ""
        yield f"{name}: {way.verdict}{hashed}"
        yield from _way(way)


def _way(way: Way) -> Iterator[str]:
    yield from _packet("request", way.request)
    if way.reply:
        yield from _packet("reply", way.reply)


def _packet(kind: str, packet: Packet) -> Iterator[str]:
    nics = ", ".join(one.nic + (" in a tunnel" if one.outer else "") for one in packet.left_by) or "no NIC"
    yield f"{_INDENT}{kind}: {nics}" + (f", and lost: {packet.lost}" if packet.lost else "")
    steps = _shown(packet)
    width = max((len(step.where) for step in steps), default=0)
    for step in steps:
        yield from _folded(f"{step.where.ljust(width)}  {step.words}  [{step.rule}]", _INDENT * 2)


def _shown(packet: Packet) -> list[Step]:
    """The steps that tell a person something: that a host takes what is for itself goes without saying."""
    return [step for step in packet.steps if step.rule not in ASIDE]


def _deciders(explanation: Explanation) -> Iterator[str]:
    """Who decides each of the rules that were shown."""
    ways = [way for flow in explanation.flows for way in flow.ways]
    packets = [packet for way in ways for packet in (way.request, way.reply) if packet]
    sources = {step.rule: step.source for packet in packets for step in _shown(packet)}
    running = [node for node in explanation.nodes.values() if not node.agent_exits]
    sources |= {node.direct_routing_rule: node.direct_routing_source for node in running}
    if not sources:
        return
    yield ""
    yield "decided by"
    width = max(map(len, sources))
    for rule, source in sorted(sources.items()):
        yield from _folded(f"{rule.ljust(width)}  {source.replace('[kernel]', 'kernel')}", _INDENT)


def _folded(line: str, indent: str) -> list[str]:
    """A line, folded where it is too long."""
    if len(indent) + len(line) <= _WIDTH:
        return [indent + line]
    return textwrap.wrap(
        line,
        _WIDTH,
        initial_indent=indent,
        subsequent_indent=indent + _INDENT * 2,
        break_long_words=False,
        break_on_hyphens=False,
        replace_whitespace=False,
    )
