"""The record: what was reported, expected and observed, in the shape of the recorded observations of real agents.

`Record` is the machine-readable contract of `niclab trace -o json`; its JSON Schema is committed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from niclab.cilium.node import ROUTER_DEVICE
from niclab.flow.picture import protocol_of
from niclab.flow.verdict import FlowResult
from niclab.lab import Lab
from niclab.report.contract import Document, Model
from niclab.request import Nics
from niclab.wire.sighting import Measurement


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
    compared: Annotated[
        Literal["agrees", "differs", "not compared"],
        Field(description="agrees: every probe took an expected path; differs: one did not; see not_compared"),
    ] = "not compared"
    unpredicted: Annotated[
        str | None, Field(description="what a probe did that is none of the expected ways, else null")
    ] = None
    not_compared: Annotated[str | None, Field(description="why it was not compared, else null")] = None

    @classmethod
    def of(cls, result: FlowResult, externals: frozenset[str]) -> TracedFlow:
        flow, served = result.flow, result.served
        sent = flow.model_copy(update={"protocol": served.protocol, "port": served.port}) if served else flow
        ends = served.pods if served else tuple(externals.intersection(result.context.ends_of(flow)))
        return cls.like(
            result,
            source=flow.source,
            destination=flow.destination,
            protocol=protocol_of(flow, sent),
            transmitted_by={tap: Transmitted.like(sent_by) for tap, sent_by in result.transmitted_by.items()},
            server_saw_source={end: tuple(sorted(sources)) for end in ends if (sources := result.sources_at(end))},
            refusal=result.refusal or None,
            expected=tuple(map(str, result.expected)),
            compared=result.comparison.state,
            unpredicted=result.comparison.unpredicted or None,
            not_compared=result.comparison.why if result.comparison.state == "not compared" else None,
        )


class TracedNode(Model):
    """What one node's agent reported. `agent_exits`: its last words when it refused to run, else null."""

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


class Record(Document):
    """One measured lab."""

    topology: str
    datapath: Literal["builtin", "cilium"]
    nics: Annotated[
        Nics, Field(description="what the nodes' NICs are; older records, which do not say it, are of veth")
    ] = "veth"
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
    def of(cls, lab: Lab, results: list[FlowResult]) -> Record:
        externals = frozenset(lab.topology.externals)
        shown = externals | lab.topology.pods.keys()
        first = {name: str(own[0]) for name, own in lab.addresses.items() if own and name in shown}
        return cls(
            topology=lab.topology.name,
            datapath=lab.datapath,
            nics=lab.request.nics,
            cilium_version=str(lab.version),
            settings=dict(lab.settings.values),
            unmodelled=lab.request.unmodelled,
            warnings=lab.request.warnings,
            nodes={
                name: TracedNode.like(reported, addresses=reported.node_ips) for name, reported in lab.reported.items()
            },
            addresses=first | dict(_routers(lab)),
            flows=tuple(TracedFlow.of(result, externals) for result in results),
            measurement=TracedMeasurement.like(Measurement.together([result.measurement for result in results])),
        )


def _routers(lab: Lab) -> Iterator[tuple[str, str]]:
    """Each node's router IP: as its agent reported it, else as planned."""
    for name, reported in lab.reported.items():
        rows = [row.partition(" ")[0] for row in reported.node_ips if f" on {ROUTER_DEVICE}" in row]
        planned = lab.topology.router_address(name, 4) if not reported.agent_exits else None
        if address := next((row for row in rows if "." in row), planned):
            yield f"{name}.{ROUTER_DEVICE}", str(address)
