"""The NIC matrix, what people came for: rows are `devices`, columns flows, cells NIC and source. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from niclab.report.cell import Cell, Inward, Outward, source_words, worded

if TYPE_CHECKING:
    from niclab.flow.verdict import FlowResult

_LONGEST_LABEL = 50
"""Characters of a row's label, beyond which what tells it apart is a note below the table."""


@dataclass(frozen=True, slots=True)
class Row:
    """One lab: which table it belongs to, its row's label, and its flows' cells by column.

    `settings` tell rows apart whose labels are the same.
    """

    table: str
    label: str
    cells: tuple[tuple[str, Cell], ...]
    settings: tuple[tuple[str, str], ...] = ()

    def folded(self) -> dict[str, Any]:
        """The row in JSON's types, as it is in run.json."""
        cells = [{"flow": name, "text": cell.text, "loud": cell.loud} for name, cell in self.cells]
        return {"table": self.table, "label": self.label, "settings": dict(self.settings), "cells": cells}


def unfolded(folded: Mapping[str, Any]) -> Row:
    cells = tuple((cell["flow"], Cell(cell["text"], cell["loud"])) for cell in folded["cells"])
    return Row(folded["table"], folded["label"], cells, tuple(folded["settings"].items()))


def cell(result: FlowResult) -> Cell:
    """One flow seen from the node that matters: the sending pod's, or for flows from outside the receiving pod's."""
    if result.verdict == "unmeasured":
        return Cell("agent exits" if "agent" in result.refusal else "unmeasured", loud=True)
    source, target = (end.partition(".")[0] for end in (result.flow.source, result.flow.destination))
    pods = result.context.pod_node
    taken = _taken_in(result)
    seen: Outward | Inward
    if source in pods or (target not in pods and taken is None):
        node = pods.get(source, source)
        seen = Outward(
            out=_nics(result, node, "request", True),
            back=_nics(result, node, "reply", False),
            tunnels=_encapsulation(result, node, "request"),
            source=_source(result, source, node) if source in pods else "",
            answered=result.received > 0,
        )
    else:
        node = taken or pods[target]
        seen = Inward(
            entered=_nics(result, node, "request", False),
            answered=_nics(result, node, "reply", True),
            tunnels=_encapsulation(result, node, "request"),
        )
    return worded(seen, received=result.received, sent=result.sent, leaked=result.verdict == "leaked")


def _taken_in(result: FlowResult) -> str | None:
    """The node that took in a request to a service."""
    nodes = result.context.nodes
    requests = (s for s in result.sightings if s.kind == "request" and s.arrives and s.host in nodes)
    return next((s.host for s in requests), None) if result.served else None


def _nics(result: FlowResult, node: str, kind: str, outbound: bool) -> frozenset[str]:
    """The NICs by which packets of this kind left the node, or arrived at it."""
    return frozenset(
        s.nic
        for s in result.sightings
        if s.host == node and s.nic and s.kind == kind and (s.outbound if outbound else s.arrives)
    )


def _encapsulation(result: FlowResult, node: str, kind: str) -> tuple[str, ...]:
    found = {e for s in result.sightings if s.host == node and s.nic and s.kind == kind for e in s.encapsulation}
    return tuple(sorted(found))


def _source(result: FlowResult, pod: str, node: str) -> str:
    """How the packets' source looked as they left the node."""
    own = result.context.addresses.get(pod, ())
    left = [s for s in result.sightings if s.host == node and s.nic and s.outbound and s.kind == "request"]
    return source_words(
        masqueraded=not all(s.source in own for s in left),
        expected=result.flow.destination in result.context.unmasqueraded,
        to_pod=result.end in result.context.pod_node,
    )


def row(table: str, label: str, results: Iterable[FlowResult], settings: Mapping[str, str] | None = None) -> Row:
    cells = tuple((result.name, cell(result)) for result in results)
    return Row(table, label, cells, tuple(sorted((settings or {}).items())))


def merged(rows: Iterable[Row]) -> dict[str, dict[str, dict[str, Cell]]]:
    """Table → row label → column → cell; a lab used by several tests is one row, and the last measurement counts."""
    tables: dict[str, dict[str, dict[str, Cell]]] = {}
    for one, label in _labelled(list(rows)):
        tables.setdefault(one.table, {}).setdefault(label, {}).update(dict(one.cells))
    return tables


def _labelled(rows: list[Row]) -> Iterable[tuple[Row, str]]:
    """Each row with its label; where labs of one label were told different things, with what is different."""
    namesakes: dict[tuple[str, str], list[dict[str, str]]] = {}
    for one in rows:
        namesakes.setdefault((one.table, one.label), []).append(dict(one.settings))
    for one in rows:
        mine, others = dict(one.settings), namesakes[one.table, one.label]
        keys = sorted(
            {key for other in others for key in other.keys() | mine.keys() if other.get(key) != mine.get(key)}
        )
        different = [f"{key}={mine[key]}" for key in keys if key in mine]
        yield one, " ".join([one.label, *(different or (["(nothing else)"] if keys else []))])


def render(rows: Iterable[Row], *, width: int = 120, first: str = "devices") -> str:
    """Plain text, one table per lab kind; more columns than fit continue below."""
    parts = []
    for title, labels in merged(rows).items():
        columns = list(dict.fromkeys(column for cells in labels.values() for column in cells))
        short, notes = _with_notes(labels)
        parts.append("\n".join([title, *_blocks(short, columns, width, first), *notes]))
    return "\n\n".join(parts)


def _with_notes(labels: dict[str, dict[str, Cell]]) -> tuple[dict[str, dict[str, Cell]], list[str]]:
    """Labels too long for a column become a number, and a note below the table."""
    short: dict[str, dict[str, Cell]] = {}
    notes: list[str] = []
    for label, cells in labels.items():
        if len(label) <= _LONGEST_LABEL:
            short[label] = cells
            continue
        number = f"[{len(notes) + 1}]"
        short[f"{label.partition(' ')[0]} {number}"] = cells
        notes.append(f"{number} {label.partition(' ')[2]}")
    return short, notes


def _blocks(labels: dict[str, dict[str, Cell]], columns: list[str], width: int, first: str) -> list[str]:
    label_width = max(len(first), *(len(label) for label in labels))
    widths = {c: max(len(c), *(len(cells[c].text) if c in cells else 1 for cells in labels.values())) for c in columns}
    lines: list[str] = []
    while columns:
        block: list[str] = []
        used = label_width
        while columns and (not block or used + widths[columns[0]] + 2 <= width):
            used += widths[columns[0]] + 2
            block.append(columns.pop(0))
        lines.append(
            "  ".join([first.ljust(label_width), *(column.ljust(widths[column]) for column in block)]).rstrip()
        )
        for label, cells in labels.items():
            if not any(c in cells for c in block):
                continue
            shown = [(cells[c].text if c in cells else "·").ljust(widths[c]) for c in block]
            lines.append("  ".join([label.ljust(label_width), *shown]).rstrip())
    return lines
