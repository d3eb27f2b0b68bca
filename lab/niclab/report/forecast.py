"""The NIC matrix as it is predicted: the contract of `niclab predict -o json`, and its rows as text. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from niclab.flow.predict import World, interchangeable
from niclab.flow.trace import Path, Trace, host_of
from niclab.report.contract import Document, Model
from niclab.report.matrix import Cell, Row, not_sent, seen
from niclab.topology import Flow
from niclab.topology.model import service_of


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


@dataclass(frozen=True, slots=True)
class Column:
    """A flow that is asked about, and how many are like it."""

    flow: Flow
    stands_for: int = 1


def columns(world: World) -> tuple[Column, ...]:
    """All pairs of nodes' representatives (a node's first pod, else its first NIC); interchangeable nodes as one."""
    groups = interchangeable.classes(world.decisions)
    pairs: list[Column] = []
    for mine in groups:
        for theirs in groups:
            if mine is not theirs:
                pairs.append(_pair(world, mine[0], theirs[0], len(mine) * len(theirs)))
            elif len(mine) > 1:
                pairs.append(_pair(world, mine[0], mine[1], len(mine) * (len(mine) - 1)))
    return tuple(pairs)


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
    traces = world.predict(flow)
    shown = cell(world, flow, traces)
    return ForecastFlow(
        source=flow.source,
        destination=str(flow).partition(" -> ")[2],
        stands_for=column.stands_for,
        text=shown.text,
        loud=shown.loud,
        not_sent=world.why_not(flow) or None,
        ways=tuple(_way(trace, world.context.nodes) for trace in traces),
    )


def _way(trace: Trace, nodes: Collection[str]) -> ForecastWay:
    return ForecastWay(
        carried=trace.carried,
        requests_by=_taps(trace.request, nodes),
        replies_by=_taps(trace.reply, nodes) if trace.reply else (),
        arrived=trace.request.arrived,
        source=trace.request.source,
    )


def _taps(path: Path, nodes: Collection[str]) -> tuple[str, ...]:
    return tuple(step.tap for step in path.left if host_of(step.tap) in nodes)


def cell(world: World, flow: Flow, traces: Sequence[Trace]) -> Cell:
    """A flow's cell: where chance decides, the words of every trace."""
    if not traces:
        return not_sent(flow, world.context, "not sent")
    served = service_of(world.topology, flow) is not None
    cells = [seen(flow, [trace], world.context, served=served) for trace in traces]
    return Cell(" or ".join(dict.fromkeys(each.text for each in cells)), any(each.loud for each in cells))


def rows(forecast: Forecast, title: str) -> Iterator[Row]:
    """The rows of the table; where there are many flows, those that share their cell in every row are one column."""
    every = forecast.rows
    shared: dict[object, list[int]] = {}
    for index in range(len(every[0].flows)):
        looks = tuple((each.flows[index].text, each.flows[index].loud) for each in every)
        shared.setdefault(looks if len(every[0].flows) > _MANY else index, []).append(index)
    for each in every:
        cells = []
        for indices in shared.values():
            first = each.flows[indices[0]]
            count = sum(each.flows[index].stands_for for index in indices)
            more = f" and {count - 1} like it" if count > 1 else ""
            cells.append((f"{first.source}→{first.destination}{more}", Cell(first.text, first.loud)))
        yield Row(title, each.devices or "(unset)", tuple(cells), tuple(sorted(each.settings.items())))


_MANY = 16
"""More columns than a person reads."""


def schema() -> str:
    """The JSON Schema of `niclab predict -o json`."""
    return Forecast.contract("niclab predict")
