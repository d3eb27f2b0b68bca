"""The machine-readable contract of `niclab explain -o json`; its JSON Schema is committed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from niclab.cilium.node import NodeDecision
from niclab.cilium.refusals import fix
from niclab.cilium.selection.devices import Device
from niclab.flow.explain import chain, protocol_of
from niclab.flow.predict import World
from niclab.flow.trace import Decided, Path, Trace, shown
from niclab.report.contract import Document, Model
from niclab.settings import Settings, unmodelled
from niclab.topology import Flow
from niclab.topology.model import as_sent


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
    left_by: Annotated[tuple[Leaving, ...], Field(description="every NIC that sends it, in order")]
    arrived: Annotated[str | None, Field(description="host or pod where it ends; null when it is lost")]
    source: Annotated[str, Field(description="the source address that is seen there")]
    lost: Annotated[str | None, Field(description="why it does not arrive, else null")] = None

    @classmethod
    def of(cls, path: Path) -> Packet:
        return cls(
            steps=tuple(Step.of(where, step) for where, step in path.decided),
            left_by=tuple(
                Leaving(nic=step.tap, source=step.header.source, outer=next(iter(step.header.outer), None))
                for step in path.left
            ),
            arrived=path.arrived,
            source=path.source,
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
    not_sent: str | None
    ways: tuple[Way, ...]

    @classmethod
    def of(cls, world: World, flow: Flow) -> ExplainedFlow:
        return cls(
            source=flow.source,
            destination=flow.destination,
            protocol=protocol_of(flow, as_sent(world.topology, flow)),
            not_sent=world.why_not(flow) or None,
            ways=tuple(map(Way.of, world.predict(flow))),
        )


class ExplainedDevice(Model):
    """Is an interface selected, and by which rule?"""

    selected: bool
    reason: str
    rule: Annotated[str, Field(description="a stable name of the rule that decided")]
    number: Annotated[int, Field(description="the rule's place in the version's order, from 1")]
    source: Annotated[str, Field(description="Cilium's file and function")]

    @classmethod
    def of(cls, device: Device) -> ExplainedDevice:
        return cls(
            selected=device.selected,
            reason=device.reason,
            rule=str(device.rule),
            number=device.number,
            source=device.source,
        )


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
    routing: str
    host_routing: str
    masquerading: str
    warnings: tuple[str, ...]

    @classmethod
    def of(cls, node: NodeDecision, warnings: tuple[str, ...]) -> ExplainedNode:
        exits = node.agent_exits
        return cls(
            agent_exits=exits,
            exits_in=refusal.source if (refusal := node.refused) else None,
            fix=(fix(exits) or None) if exits else None,
            devices={device.name: ExplainedDevice.of(device) for device in node.devices},
            direct_routing_device=node.drd.device if exits is None else None,
            direct_routing_reason=node.drd.reason,
            direct_routing_rule=str(node.drd.rule),
            direct_routing_source=node.drd.source,
            node_ips=tuple(map(str, node.node_ips.values())),
            routing=f"tunnel ({node.settings.tunnel_protocol})" if node.tunnels else "native",
            host_routing=node.host_routing,
            masquerading=node.masquerading,
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
    def of(cls, world: World, flows: list[Flow], settings: Settings) -> Explanation:
        decisions = world.decisions
        return cls(
            topology=decisions.topology.name,
            cilium_version=str(decisions.version),
            settings=dict(settings.values),
            unmodelled=unmodelled(settings),
            warnings=settings.warnings,
            nodes={name: ExplainedNode.of(node, decisions.warnings(name)) for name, node in decisions.nodes.items()},
            flows=tuple(ExplainedFlow.of(world, flow) for flow in flows),
        )


def schema() -> str:
    """The JSON Schema of `niclab explain -o json`."""
    return Explanation.contract("niclab explain")
