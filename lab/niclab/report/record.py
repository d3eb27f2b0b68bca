"""The record: what was said, expected and observed, in the shape of the recorded observations of real agents.

`Trace` is the machine-readable contract of `niclab trace -o json`; its JSON Schema is committed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

from pydantic import Field

from niclab.cilium.node import ROUTER_DEVICE
from niclab.flow.compare import unpredicted
from niclab.flow.predict import Prediction
from niclab.flow.verdict import FlowResult, Measurement
from niclab.lab import Lab
from niclab.report.contract import Document, Model


class Transmitted(Model):
    """What one physical NIC of a node sent of a flow."""

    requests: int
    replies: int
    inner_src: Annotated[tuple[str, ...], Field(description="source addresses inside any tunnel, sorted")]
    outer: Annotated[tuple[tuple[str, str], ...], Field(description="(source, destination) of the tunnel packets")]


class TracedFlow(Model):
    """One flow: `sent` requests, `received` answers at the sender."""

    source: Annotated[str, Field(alias="from")]
    destination: Annotated[str, Field(alias="to")]
    protocol: Annotated[
        str,
        Field(
            description="icmp, udp:PORT or tcp:PORT; icmp6, udp6:PORT or tcp6:PORT where the flow asked for IPv6",
            pattern=r"^(icmp6?|(udp|tcp)6?:[0-9]+)$",
        ),
    ]
    sent: Annotated[int, Field(ge=0, description="probes given to the sender's kernel; 0 when it has no address")]
    received: Annotated[int, Field(ge=0, description="probes whose answer reached the sender")]
    verdict: Annotated[
        Literal["carried", "leaked", "lost", "unmeasured"],
        Field(
            description="carried: all were answered; leaked: seen on a NIC that an --expect rules out; "
            "lost: not all were answered; unmeasured: nothing was sent, or the taps cannot vouch for what they saw"
        ),
    ]
    transmitted_by: Annotated[
        dict[str, Transmitted], Field(description="node.nic → what it sent; NICs that sent nothing are not there")
    ]
    server_saw_source: Annotated[
        dict[str, tuple[str, ...]],
        Field(description="external, or pod behind a service → source addresses of the requests that arrived there"),
    ]
    refusal: Annotated[str | None, Field(description="why the sender's kernel or agent sent nothing, else null")] = None
    expected: Annotated[
        tuple[str, ...], Field(description="every way predicted from the settings; several where a hash decides")
    ] = ()
    unpredicted: Annotated[
        str | None, Field(description="what a probe did that is none of the expected ways, else null")
    ] = None

    @classmethod
    def of(cls, result: FlowResult, externals: frozenset[str], ways: Sequence[Prediction] = ()) -> TracedFlow:
        flow = result.flow
        suffix = "6" if flow.family == 6 else ""
        target = flow.destination.partition(".")[0]
        served = result.served
        protocol, port = (served.protocol, served.port) if served else (flow.protocol, flow.port)
        answering = served.pods if served else tuple(externals & {target})
        return cls(
            source=flow.source,
            destination=flow.destination,
            protocol=f"{protocol}{suffix}" + (f":{port}" if port else ""),
            sent=result.sent,
            received=result.received,
            verdict=result.verdict,
            transmitted_by={
                tap: Transmitted(
                    requests=count.requests, replies=count.replies, inner_src=count.inner_src, outer=count.outer
                )
                for tap, count in result.transmitted_by.items()
            },
            server_saw_source={end: sources for end in answering if (sources := _sources(result, end))},
            refusal=result.refusal or None,
            expected=tuple(map(str, ways)),
            unpredicted=unpredicted(result, ways) or None,
        )


def _sources(result: FlowResult, host: str) -> tuple[str, ...]:
    return tuple(sorted({s.source for s in result.sightings if s.kind == "request" and s.arrives and s.host == host}))


class TracedNode(Model):
    """What one node's agent said. `agent_exits`: its last words when it refused to run, else null."""

    devices: tuple[str, ...]
    direct_routing_device: str | None
    agent_exits: str | None
    masquerading: str
    reasons: Annotated[dict[str, str], Field(description="interface → why it is, or is not, selected")]
    warnings: tuple[str, ...]
    routing: Annotated[str, Field(description="native, or tunnel and its protocol")] = ""
    host_routing: Annotated[str, Field(description="BPF or Legacy")] = ""
    addresses: Annotated[
        tuple[str, ...], Field(description="node IPs; of real agents every node address and its use")
    ] = ()
    services: Annotated[tuple[str, ...], Field(description="real agents' service frontends and their backends")] = ()
    attachments: Annotated[
        dict[str, tuple[str, ...]], Field(description="interface → eBPF programs that real agents attached to it")
    ] = {}


class TracedMeasurement(Model):
    """What vouches for the flows: canaries seen at every tap before and after, frames dropped by the taps."""

    canaries: Annotated[str, Field(description="ok, or which are missing")]
    drops: int
    without_carrier: Annotated[tuple[str, ...], Field(description="NICs that are down: they carry nothing")] = ()

    @classmethod
    def of(cls, measurements: list[Measurement]) -> TracedMeasurement:
        """One or more measurements together: what was missing in any of them is missing."""
        together = Measurement(
            missing=tuple(dict.fromkeys(name for one in measurements for name in one.missing)),
            drops=max((one.drops for one in measurements), default=0),
            taps=min((one.taps for one in measurements), default=0),
            without_carrier=tuple(dict.fromkeys(name for one in measurements for name in one.without_carrier)),
        )
        return cls(canaries=together.canaries, drops=together.drops, without_carrier=together.without_carrier)


class Trace(Document):
    """One measured lab."""

    topology: str
    datapath: Literal["builtin", "cilium"]
    cilium_version: str
    settings: Annotated[dict[str, str], Field(description="agent flags in effect, before per-node settings")]
    unmodelled: Annotated[tuple[str, ...], Field(description="settings that the built-in datapath does not model")]
    warnings: tuple[str, ...]
    nodes: dict[str, TracedNode]
    addresses: Annotated[
        dict[str, str], Field(description="pod, external or a node's `cilium_host` → its first address")
    ]
    flows: tuple[TracedFlow, ...]
    measurement: TracedMeasurement

    @classmethod
    def of(cls, lab: Lab, results: list[FlowResult]) -> Trace:
        externals = frozenset(lab.topology.externals)
        first = {
            name: str(found[0])
            for name, found in lab.addresses.items()
            if found and (name in lab.topology.pods or name in externals)
        } | dict(_routers(lab))
        return cls(
            topology=lab.topology.name,
            datapath="cilium" if lab.datapath == "cilium" else "builtin",
            cilium_version=str(lab.version),
            settings=dict(lab.settings.values),
            unmodelled=lab.unmodelled,
            warnings=lab.settings.warnings,
            nodes={
                name: TracedNode(
                    devices=reported.devices,
                    direct_routing_device=reported.direct_routing_device,
                    agent_exits=reported.agent_exits,
                    masquerading=reported.masquerading,
                    reasons=reported.reasons,
                    warnings=reported.warnings,
                    routing=reported.routing,
                    host_routing=reported.host_routing,
                    addresses=reported.node_ips,
                    services=reported.services,
                    attachments=reported.attachments,
                )
                for name, reported in lab.reported.items()
            },
            addresses=first,
            flows=tuple(TracedFlow.of(result, externals, lab.expected(result)) for result in results),
            measurement=TracedMeasurement.of([result.measurement for result in results]),
        )


def _routers(lab: Lab) -> Iterator[tuple[str, str]]:
    """Each node's router IP: as its agent said, else as planned."""
    for name, reported in lab.reported.items():
        told = [row.partition(" ")[0] for row in reported.node_ips if f" on {ROUTER_DEVICE}" in row]
        planned = lab.topology.router_address(name, 4)
        found = next(
            (one for one in told if "." in one), str(planned) if planned and not reported.agent_exits else None
        )
        if found:
            yield f"{name}.{ROUTER_DEVICE}", found


def schema() -> str:
    """The JSON Schema of `niclab trace -o json`."""
    return Trace.contract("niclab trace")
