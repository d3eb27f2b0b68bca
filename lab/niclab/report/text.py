"""What `niclab trace` and `niclab explain` show a person. Pure.

A trace: the answer first, then what the agents reported, then every flow's path. An explanation: what the agents
decide, then every flow's decisions in order.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from niclab.cilium.reported import NodeReport
from niclab.flow.picture import ASIDE, INDENT, WIDTH, counters
from niclab.report.matrix import cell
from niclab.report.predicted import ExplainedFlow, ExplainedNode, Explanation, Packet, Step

if TYPE_CHECKING:  # predictions do without measurements
    from niclab.flow.verdict import FlowResult

_WIDE = 118


def trace(title: str, results: Sequence[FlowResult], reported: Mapping[str, NodeReport]) -> Iterator[str]:
    yield title
    yield ""
    yield from _answer(results)
    yield ""
    yield from reasons(reported)
    for result in results:
        yield ""
        yield from _flow(result)
    yield ""
    yield f"measured: {results[0].measurement}" if results[0].measurement.holds else "not measured"


def _answer(results: Sequence[FlowResult]) -> Iterator[str]:
    """One line a flow: which NIC, how the source looked, and the verdict."""
    cells = ["" if result.verdict == "unmeasured" else cell(result).text for result in results]
    names = max(len(result.name) for result in results)
    texts = max(map(len, cells))
    for result, text in zip(results, cells, strict=True):
        middle = f"{text.ljust(texts)}  " if text else ""
        yield from _indented(f"{result.name.ljust(names)}  {middle}{result.outcome}", "")


def reasons(reported: Mapping[str, NodeReport]) -> Iterator[str]:
    """What each node's agent reported, with the reason for every interface; nodes that report the same share lines."""
    for lines in _shared({name: _reported(node) for name, node in reported.items()}):
        for number, line in enumerate(lines):
            yield from _indented(line, INDENT if number else "")


def _shared(nodes: Mapping[str, Iterable[str]]) -> Iterator[Sequence[str]]:
    """The lines of each node, those of nodes that have the same ones together, after their names."""
    names: dict[tuple[str, ...], list[str]] = {}
    for name, lines in nodes.items():
        names.setdefault(tuple(lines), []).append(name)
    return ((f"{', '.join(together)}: {first}", *rest) for (first, *rest), together in names.items())


def _reported(reported: NodeReport) -> Iterator[str]:
    yield str(reported)
    interfaces = {name: why for name, why in reported.reasons.items() if name != "lo"}
    width = max(map(len, interfaces), default=0)
    for name, why in interfaces.items():
        yield f"{name.ljust(width)}  {why}"
    if reported.direct_routing_reason:
        yield f"direct routing device: {reported.direct_routing_reason}"
    if reported.masquerading:
        yield f"masquerading: {reported.masquerading}"


def _flow(result: FlowResult) -> Iterator[str]:
    yield result.name
    lines = result.pictures if result.sightings or not result.refusal else []
    lines += counters(result.traces, result.context) if result.sent else []
    lines += [f"refused: {result.refusal}"] if result.refusal else []
    lines += [f"noticed: {note}" for note in result.errors]
    ways = " or ".join(map(str, result.expected)) or "nothing is sent"
    if result.comparison.state == "differs":
        ways += " — and it was not so"
    elif result.comparison.state == "not compared" and result.verdict != "unmeasured":
        ways += f" — {result.comparison}"
    lines.append(f"expected: {ways}")
    for line in lines:
        yield from _indented(line, INDENT)


def explanation(explanation: Explanation) -> Iterator[str]:
    routing = next((node.routing for node in explanation.nodes.values()), "")
    yield f"{explanation.topology} · {routing} · model of Cilium {explanation.cilium_version}, no packet sent"
    for lines in _shared({name: _node(node) for name, node in explanation.nodes.items()}):
        yield ""
        for number, line in enumerate(lines):
            yield from _folded(line, INDENT if number else "")
    for flow in explanation.flows:
        yield ""
        yield from _explained(flow)
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
        others = f" · of their routes {node.route_mtu}" if node.route_mtu != node.mtu else ""
        yield f"pods' MTU {node.mtu} ({node.mtu_reason}){others}"
    yield from (f"warning: {words}" for words in node.warnings)


def _explained(flow: ExplainedFlow) -> Iterator[str]:
    name = f"{flow.source} → {flow.destination}" + ("" if flow.protocol == "icmp" else f" {flow.protocol}")
    name += "" if flow.size is None else f", {flow.size} bytes"
    if flow.not_sent is not None:
        yield from _folded(f"{name}: not sent: {flow.not_sent}", "")
    for number, way in enumerate(flow.ways, 1):
        hashed = f" ({number} of {len(flow.ways)}: chance decides)" if len(flow.ways) > 1 else ""
        yield f"{name}: {way.verdict}{hashed}"
        yield from _packet("request", way.request)
        if way.reply:
            yield from _packet("reply", way.reply)


def _packet(kind: str, packet: Packet) -> Iterator[str]:
    nics = ", ".join(nic.nic + (" in a tunnel" if nic.outer else "") for nic in packet.left_by) or "no NIC"
    yield f"{INDENT}{kind}: {nics}" + (f", and lost: {packet.lost}" if packet.lost else "")
    steps = _shown(packet)
    width = max((len(step.where) for step in steps), default=0)
    for step in steps:
        yield from _folded(f"{step.where.ljust(width)}  {step.words}  [{step.rule}]", INDENT * 2)


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
        yield from _folded(f"{rule.ljust(width)}  {source.replace('[kernel]', 'kernel')}", INDENT)


def _indented(line: str, indent: str) -> list[str]:
    """A line, folded where it is too long; what follows is indented further than the line itself."""
    inner = indent + line[: len(line) - len(line.lstrip())]
    return _wrapped(line, indent, inner + INDENT, WIDTH)


def _folded(line: str, indent: str) -> list[str]:
    return _wrapped(line, indent, indent + INDENT * 2, _WIDE)


def _wrapped(line: str, indent: str, following: str, width: int) -> list[str]:
    # Only what is too long: wrapping also makes one blank of several.
    if len(indent) + len(line) <= width:
        return [indent + line]
    return textwrap.wrap(
        line,
        width,
        initial_indent=indent,
        subsequent_indent=following,
        break_long_words=False,
        break_on_hyphens=False,
    )
