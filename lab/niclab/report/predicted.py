"""What is predicted: the answers of `niclab explain` and `niclab predict`, and the rows of the matrix. Pure.

The JSON Schemas of their `-o json` are committed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field

from niclab.cilium.node import NodeDecision
from niclab.cilium.refusals import fix
from niclab.flow.passage import Leg, passage
from niclab.flow.picture import chain, protocol_of
from niclab.flow.predict import World, interchangeable
from niclab.flow.trace import Context, Decided, Entered, Left, Path, Trace, host_of, nic_of, shown
from niclab.report.contract import Document, Model
from niclab.report.matrix import Cell, Row, not_sent, seen
from niclab.settings import Settings, unmodelled
from niclab.topology.model import Flow, as_sent


class Step(Model):
    """One decision about a packet."""

    where: Annotated[str, Field(description="host or pod")]
    rule: Annotated[str, Field(description="a stable name of the rule that decided")]
    words: str
    inputs: Annotated[dict[str, str], Field(description="what made the rule fire")]
    source: Annotated[str, Field(description="Cilium's file and function, an RFC, or [kernel]")]

    @classmethod
    def of(cls, where: str, step: Decided) -> Step:
        inputs = {name: shown(value) for name, value in step.inputs if value not in (None, ())}
        return cls(where=where, rule=step.why.rule, words=step.words, inputs=inputs, source=step.why.source)


class Leaving(Model):
    """One packet leaving a NIC."""

    nic: Annotated[str, Field(description="node.nic")]
    source: Annotated[str, Field(description="inside any tunnel")]
    outer: Annotated[tuple[str, str] | None, Field(description="(source, destination) of the tunnel's packet")] = None


class Packet(Model):
    """The way of a request or a reply."""

    steps: tuple[Step, ...]
    came_in_by: Annotated[
        tuple[str, ...], Field(description="every node.nic, pod or host that it comes in by, in order")
    ]
    left_by: Annotated[tuple[Leaving, ...], Field(description="every NIC that sends it, in order")]
    arrived: Annotated[str | None, Field(description="host or pod where it ends; null when it is lost")]
    source: Annotated[str, Field(description="the source address that is seen there")]
    lost: Annotated[str | None, Field(description="why it does not arrive, else null")] = None

    @classmethod
    def of(cls, path: Path) -> Packet:
        return cls.like(
            path,
            steps=tuple(Step.of(where, step) for where, step in path.decided),
            came_in_by=tuple(step.tap for step in path.entered),
            left_by=tuple(
                Leaving(nic=step.tap, source=step.header.source, outer=next(iter(step.header.outer), None))
                for step in path.left
            ),
            lost=path.lost or None,
        )


class Way(Model):
    """One way the flow may go; several where a hash, or who answers first, decides."""

    verdict: Literal["carried", "lost"]
    chain: Annotated[str, Field(description="the request's decisions in one line")]
    request: Packet
    reply: Annotated[Packet | None, Field(description="null when the request is lost")]

    @classmethod
    def of(cls, trace: Trace) -> Way:
        return cls(
            verdict="carried" if trace.carried else "lost",
            chain=chain(trace),
            request=Packet.of(trace.request),
            reply=Packet.of(trace.reply) if trace.reply else None,
        )


class ExplainedFlow(Model):
    """One flow and every way it may go. Without a way `not_sent` says why."""

    source: Annotated[str, Field(alias="from")]
    destination: Annotated[str, Field(alias="to")]
    protocol: Annotated[str, Field(description="icmp, udp:PORT or tcp:PORT; with a 6 where the flow asked for IPv6")]
    size: Annotated[int | None, Field(description="bytes of each IP packet; null where they fit everywhere")]
    not_sent: str | None
    ways: tuple[Way, ...]

    @classmethod
    def of(cls, world: World, flow: Flow, size: int | None) -> ExplainedFlow:
        return cls(
            source=flow.source,
            destination=flow.destination,
            protocol=protocol_of(flow, as_sent(world.topology, flow)),
            size=size,
            not_sent=world.why_not(flow) or None,
            ways=tuple(map(Way.of, world.predict(flow, size))),
        )


class ExplainedDevice(Model):
    """Is an interface selected, and by which rule?"""

    selected: bool
    reason: str
    rule: Annotated[str, Field(description="a stable name of the rule that decided")]
    number: Annotated[int, Field(description="the rule's place in the version's order, from 1")]
    source: Annotated[str, Field(description="Cilium's file and function")]


class ExplainedNode(Model):
    """What one node's agent decides before any packet flows."""

    agent_exits: Annotated[str | None, Field(description="the agent's last words when it refuses to run, else null")]
    exits_in: Annotated[str | None, Field(description="Cilium's file and function that refuses, else null")]
    fix: Annotated[str | None, Field(description="what to set so that it runs, where that is known")]
    devices: Annotated[dict[str, ExplainedDevice], Field(description="every interface")]
    direct_routing_device: str | None
    direct_routing_reason: str
    direct_routing_rule: Annotated[str, Field(description="a stable name of the rule that decided")]
    direct_routing_source: Annotated[str, Field(description="Cilium's file and function")]
    node_ips: tuple[str, ...]
    mtu: Annotated[int, Field(description="bytes: what pods' devices get")]
    mtu_reason: str
    route_mtu: Annotated[int, Field(description="bytes: what pods' routes get, without what tunnel and encryption add")]
    routing: str
    host_routing: str
    masquerading: str
    warnings: tuple[str, ...]

    @classmethod
    def of(cls, node: NodeDecision, warnings: tuple[str, ...]) -> ExplainedNode:
        exits = node.agent_exits
        return cls.like(
            node,
            exits_in=node.refused.source if node.refused else None,
            fix=(fix(exits) or None) if exits else None,
            devices={device.name: ExplainedDevice.like(device) for device in node.devices},
            direct_routing_device=node.drd.device if exits is None else None,
            direct_routing_reason=node.drd.reason,
            direct_routing_rule=str(node.drd.rule),
            direct_routing_source=node.drd.source,
            node_ips=tuple(map(str, node.node_ips.values())),
            warnings=warnings,
        )


class Explanation(Document):
    """Why each flow goes where it goes, without a packet sent."""

    topology: str
    cilium_version: Annotated[str, Field(description="the version modelled")]
    settings: Annotated[dict[str, str], Field(description="agent flags in effect, before per-node settings")]
    unmodelled: Annotated[tuple[str, ...], Field(description="settings that the model knows nothing of")]
    warnings: tuple[str, ...]
    nodes: dict[str, ExplainedNode]
    flows: tuple[ExplainedFlow, ...]

    @classmethod
    def of(cls, world: World, flows: list[Flow], settings: Settings, size: int | None = None) -> Explanation:
        decisions = world.decisions
        return cls(
            topology=decisions.topology.name,
            cilium_version=str(decisions.version),
            settings=dict(settings.values),
            unmodelled=unmodelled(settings),
            warnings=settings.warnings,
            nodes={name: ExplainedNode.of(node, decisions.warnings(name)) for name, node in decisions.nodes.items()},
            flows=tuple(ExplainedFlow.of(world, flow, size) for flow in flows),
        )


class ForecastWay(Model):
    """One way a flow may go; several where a hash decides. Flows from outside are seen from the first node."""

    carried: bool
    taken_in: Annotated[
        tuple[str, ...], Field(description="the node.nic by which the first node takes in what comes from outside")
    ]
    forwarded: Annotated[tuple[str, ...], Field(description="the node.nic by which that node sends it on")]
    reply: Annotated[
        tuple[str, ...], Field(description="the node.nic by which the last node sends the reply to who asked outside")
    ]
    back: Annotated[
        tuple[str, ...], Field(description="the node.nic by which the reply comes in to the node that sent the request")
    ]
    entered: Annotated[tuple[str, ...], Field(description="every node.nic that the request comes in by, in order")]
    requests_by: Annotated[tuple[str, ...], Field(description="every node.nic that sends the request, in order")]
    replies_by: Annotated[tuple[str, ...], Field(description="every node.nic that sends the reply, in order")]
    arrived: Annotated[str | None, Field(description="where the request ends; null when it is lost")]
    source: Annotated[str, Field(description="the source address that is seen there")]


class ForecastFlow(Model):
    """One cell of the matrix. `text`: as a person reads it; `loud`: something people do not expect."""

    source: Annotated[str, Field(alias="from")]
    destination: Annotated[str, Field(alias="to")]
    stands_for: Annotated[int, Field(description="how many flows are like this one, itself included")]
    text: str
    loud: bool
    not_sent: Annotated[str | None, Field(description="why nothing is sent, else null")]
    ways: tuple[ForecastWay, ...]


class ForecastRow(Model):
    """One row of the matrix: the settings, and what becomes of every flow."""

    devices: Annotated[str, Field(description="the `devices` setting; empty where it is unset")]
    settings: dict[str, str]
    agent_exits: Annotated[dict[str, str], Field(description="node → its agent's last words, where it refuses to run")]
    flows: tuple[ForecastFlow, ...]


class Forecast(Document):
    """The whole matrix, without a packet sent."""

    topology: str
    cilium_version: Annotated[str, Field(description="the version modelled")]
    nodes: int
    rows: tuple[ForecastRow, ...]


def columns(world: World) -> Mapping[Flow, int]:
    """All pairs of nodes' representatives (a node's first pod, else its first NIC), and how many flows are like each.

    Interchangeable nodes are as one.
    """
    pairs: dict[Flow, int] = {}

    def representative(name: str) -> str:
        node = world.topology.nodes[name]
        return next(iter(node.pods), None) or f"{name}.{next(iter(node.nics))}"

    groups = interchangeable.classes(world.decisions)
    for mine, theirs in itertools.product(groups, groups):
        others = theirs[1:] if mine is theirs else theirs
        if others:
            flow = Flow(source=representative(mine[0]), destination=representative(others[0]))
            pairs[flow] = len(mine) * len(others)
    return pairs


def row(world: World, flows: Mapping[Flow, int], size: int | None = None) -> ForecastRow:
    decisions = world.decisions
    return ForecastRow(
        devices=decisions.settings.values.get("devices", ""),
        settings=dict(decisions.settings.values),
        agent_exits={name: node.agent_exits for name, node in decisions.nodes.items() if node.agent_exits is not None},
        flows=tuple(_flow(world, flow, alike, size) for flow, alike in flows.items()),
    )


def _flow(world: World, flow: Flow, alike: int, size: int | None) -> ForecastFlow:
    traces = world.predict(flow, size)
    return ForecastFlow.like(
        cell(world, flow, traces),
        source=flow.source,
        destination=str(flow).partition(" -> ")[2],
        stands_for=alike,
        not_sent=world.why_not(flow) or None,
        ways=tuple(_way(trace, flow, world.context) for trace in traces),
    )


def _way(trace: Trace, flow: Flow, context: Context) -> ForecastWay:
    seen_from = passage(trace, flow, context)
    outside = not seen_from.begins

    def taps(steps: Iterable[Entered | Left | Leg], *, wanted: bool = True) -> tuple[str, ...]:
        every = [step.tap for step in steps if host_of(step.tap) in context.nodes and nic_of(step.tap)]
        return tuple(every) if wanted else ()

    return ForecastWay.like(
        trace.request,
        carried=trace.carried,
        taken_in=taps(seen_from.entered),
        forwarded=taps(seen_from.left, wanted=outside),
        reply=taps(seen_from.returned, wanted=outside),
        back=taps(seen_from.returned, wanted=not outside),
        entered=taps(trace.request.entered),
        requests_by=taps(trace.request.left),
        replies_by=taps(trace.reply.left if trace.reply else ()),
    )


def cell(world: World, flow: Flow, traces: Sequence[Trace]) -> Cell:
    """A flow's cell: where chance decides, the words of every trace."""
    if not traces:
        return not_sent(flow, world.context, "not sent")
    cells = [seen(flow, [trace], world.context) for trace in traces]
    return Cell(" or ".join(dict.fromkeys(each.text for each in cells)), any(each.loud for each in cells))


def rows(forecast: Forecast, title: str) -> Iterator[Row]:
    """The rows of the table; where there are many flows, those that share their cell in every row are one column."""
    every = forecast.rows
    shared: dict[object, list[int]] = {}
    for index, column in enumerate(zip(*(each.flows for each in every), strict=True)):
        looks = tuple((flow.text, flow.loud) for flow in column)
        shared.setdefault(looks if len(every[0].flows) > _MANY else index, []).append(index)
    for each in every:
        cells = []
        for alike in ([each.flows[index] for index in indices] for indices in shared.values()):
            first, count = alike[0], sum(flow.stands_for for flow in alike)
            more = f" and {count - 1} like it" if count > 1 else ""
            cells.append((f"{first.source}→{first.destination}{more}", Cell(first.text, first.loud)))
        yield Row(title, each.devices or "(unset)", tuple(cells), tuple(sorted(each.settings.items())))


_MANY = 16
"""More columns than a person reads."""
