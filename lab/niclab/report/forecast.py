"""The NIC matrix as it is predicted: the contract of `niclab predict -o json`, and its rows as text. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from niclab.flow.predict import Prediction, World, alike
from niclab.report.cell import Cell, Inward, Outward, source_words, worded
from niclab.report.contract import Document, Model
from niclab.report.matrix import Row
from niclab.topology import Flow


class ForecastWay(Model):
    """One way a flow may go; several where a hash decides."""

    carried: bool
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
    """One row of the matrix: what Cilium is told, and what becomes of every flow."""

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


@dataclass(frozen=True, slots=True)
class Column:
    """A flow that is asked about, and how many are like it."""

    flow: Flow
    stands_for: int = 1


def columns(world: World) -> tuple[Column, ...]:
    """All pairs of the nodes' representatives (a node's first pod, else its first NIC); nodes that are alike as one."""
    groups = alike.classes(world.decisions)
    found: list[Column] = []
    for mine in groups:
        for theirs in groups:
            if mine is not theirs:
                found.append(_pair(world, mine[0], theirs[0], len(mine) * len(theirs)))
            elif len(mine) > 1:
                found.append(_pair(world, mine[0], mine[1], len(mine) * (len(mine) - 1)))
    return tuple(found)


def _pair(world: World, mine: str, theirs: str, count: int) -> Column:
    source, destination = _representative(world, mine), _representative(world, theirs)
    return Column(Flow(source=source, destination=destination), count)


def _representative(world: World, name: str) -> str:
    node = world.topology.nodes[name]
    return next(iter(node.pods), None) or f"{name}.{next(iter(node.nics))}"


def row(world: World, flows: Sequence[Column]) -> ForecastRow:
    decisions = world.decisions
    return ForecastRow(
        devices=decisions.settings.values.get("devices", ""),
        settings=dict(decisions.settings.values),
        agent_exits={name: node.agent_exits for name, node in decisions.nodes.items() if node.agent_exits is not None},
        flows=tuple(_flow(world, column) for column in flows),
    )


def _flow(world: World, column: Column) -> ForecastFlow:
    flow = column.flow
    ways = world.predict(flow)
    shown = cell(world, flow, ways)
    return ForecastFlow(
        source=flow.source,
        destination=str(flow).partition(" -> ")[2],
        stands_for=column.stands_for,
        text=shown.text,
        loud=shown.loud,
        not_sent=None if ways else world.why_not(flow),
        ways=tuple(_way(world, one) for one in ways),
    )


def _way(world: World, one: Prediction) -> ForecastWay:
    nodes = world.topology.nodes
    return ForecastWay(
        carried=one.carried,
        requests_by=tuple(s.tap for s in one.request.sent if s.tap.partition(".")[0] in nodes),
        replies_by=tuple(s.tap for s in (one.reply.sent if one.reply else ()) if s.tap.partition(".")[0] in nodes),
        arrived=one.request.arrived,
        source=str(one.request.source),
    )


def cell(world: World, flow: Flow, ways: Sequence[Prediction]) -> Cell:
    """A flow's cell: where a hash decides, every way's words."""
    if not ways:
        exits = "agent" in world.why_not(flow)
        return Cell("agent exits" if exits else "not sent", loud=True)
    found = [_cell(world, flow, one) for one in ways]
    return Cell(" or ".join(dict.fromkeys(one.text for one in found)), any(one.loud for one in found))


def _cell(world: World, flow: Flow, one: Prediction) -> Cell:
    """One way, seen from the node that matters: the sending pod's, or for flows from outside the receiving pod's."""
    source, target = (end.partition(".")[0] for end in (flow.source, flow.destination))
    pods = world.home
    request = one.request.sent
    reply = one.reply.sent if one.reply else ()
    seen: Outward | Inward
    if source in pods or target not in pods:
        node = pods.get(source, source)
        leaving = [sent for sent in request if sent.tap.partition(".")[0] == node]
        own = set(map(str, world.decisions.pod_addresses.get(source, ())))
        seen = Outward(
            out=_names(sent.tap for sent in leaving),
            back=_names(sent.into for sent in reply if sent.into.partition(".")[0] == node),
            tunnels=_tunnels(world, node, [sent.outer for sent in leaving]),
            source=source_words(
                masqueraded=not all(sent.source in own for sent in leaving),
                expected=flow.destination in world.decisions.native_node_ends,
                to_pod=target in pods,
            )
            if source in pods
            else "",
            answered=one.carried,
        )
    else:
        node = pods[target]
        entering = [sent for sent in request if sent.into.partition(".")[0] == node]
        seen = Inward(
            entered=_names(sent.into for sent in entering),
            answered=_names(sent.tap for sent in reply if sent.tap.partition(".")[0] == node),
            tunnels=_tunnels(world, node, [sent.outer for sent in entering]),
        )
    return worded(seen, received=int(one.carried), sent=1)


def _names(taps: Iterator[str]) -> frozenset[str]:
    return frozenset(tap.partition(".")[2] for tap in taps)


def _tunnels(world: World, node: str, outer: Sequence[tuple[str, str] | None]) -> tuple[str, ...]:
    protocol = world.decisions.nodes[node].settings.tunnel_protocol if node in world.decisions.nodes else "vxlan"
    return (protocol,) if any(outer) else ()


def rows(forecast: Forecast, title: str) -> Iterator[Row]:
    """The rows of the table; where there are many flows, those that share their cell in every row are one column."""
    every = forecast.rows
    shared: dict[object, list[int]] = {}
    for index in range(len(every[0].flows)):
        looks = tuple((one.flows[index].text, one.flows[index].loud) for one in every)
        shared.setdefault(looks if len(every[0].flows) > _MANY else index, []).append(index)
    for one in every:
        cells = []
        for indices in shared.values():
            first = one.flows[indices[0]]
            count = sum(one.flows[index].stands_for for index in indices)
            more = f" and {count - 1} like it" if count > 1 else ""
            cells.append((f"{first.source}→{first.destination}{more}", Cell(first.text, first.loud)))
        yield Row(title, one.devices or "(unset)", tuple(cells), tuple(sorted(one.settings.items())))


_MANY = 16
"""More columns than a person reads."""


def schema() -> str:
    """The JSON Schema of `niclab predict -o json`."""
    return Forecast.contract("niclab predict")
