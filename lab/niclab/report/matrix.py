"""The NIC matrix, what people came for: rows are `devices`, columns flows, cells NIC and source. Pure."""

from __future__ import annotations

import operator
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from niclab.flow.trace import Context, Entered, Kind, Left, Trace, host_of
from niclab.topology import Flow

if TYPE_CHECKING:  # predictions do without measurements
    from niclab.flow.verdict import FlowResult

_LONGEST_LABEL = 50
"""Characters of a row's label, beyond which what tells it apart is a note below the table."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One flow as one cell of the matrix; `loud` cells are those people do not expect."""

    text: str
    loud: bool = False


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
    """A measured flow's cell."""
    if result.verdict == "unmeasured":
        return not_sent(result.flow, result.context, "unmeasured")
    served = result.served is not None
    return seen(result.flow, result.traces, result.context, served=served, leaked=result.verdict == "leaked")


def not_sent(flow: Flow, context: Context, otherwise: str) -> Cell:
    """The cell of a flow of which there is nothing to see: a pod's agent has exited, or `otherwise`."""
    pods = [end for end in (flow.source, flow.destination) if _is_pod(end, context)]
    exits = any(context.node_of(pod) in context.exited for pod in pods)
    return Cell("agent exits" if exits else otherwise, loud=True)


def seen(flow: Flow, traces: Sequence[Trace], context: Context, *, served: bool, leaked: bool = False) -> Cell:
    """The traces of a flow's probes, or one predicted trace, seen from the node that matters: the sending pod's, or for
    flows from outside the receiving pod's. `served`: does the flow go to a service?
    """
    hosts = (host_of(step.tap) for trace in traces for step in trace.request.entered)
    taken_in = next((host for host in hosts if host in context.nodes), None) if served else None
    if _is_pod(flow.source, context) or not (_is_pod(flow.destination, context) or taken_in):
        words, loud = _outward(flow, traces, context)
    else:
        words, loud = _inward(traces, taken_in or context.node_of(flow.destination))
    if leaked:
        words.append("leaked")
    received = sum(trace.carried for trace in traces)
    if received != len(traces):
        words.append(f"{received}/{len(traces)} answered" if received else "no answer")
    return Cell(" ".join(words), loud or leaked or received != len(traces))


def _outward(flow: Flow, traces: Sequence[Trace], context: Context) -> tuple[list[str], bool]:
    """A flow seen from the node that sends it: NICs, tunnel, how a pod's source looked, and the way back."""
    node = context.node_of(flow.source)
    out, back = _left(traces, node, "request"), _entered(traces, node, "reply")
    tunnels = _tunnels(traces, node)
    answered = any(trace.carried for trace in traces)
    source = _source(flow, traces, context) if out and not tunnels and _is_pod(flow.source, context) else ""
    words = ["+".join(sorted(out)) or ("on the node" if answered else "left no NIC"), *tunnels]
    words += [source] if source else []
    words += [f"back {'+'.join(sorted(back))}"] if back and back != out else []
    return words, source.endswith("!")


def _inward(traces: Sequence[Trace], node: str) -> tuple[list[str], bool]:
    """A flow from outside seen from the node that takes it in."""
    entered, answered = _entered(traces, node, "request"), _left(traces, node, "reply")
    words = ["+".join(sorted(entered)) or "never arrived", *_tunnels(traces, node)]
    words += [f"reply {'+'.join(sorted(answered))}"] if answered and answered != entered else []
    return words, answered != entered


def _source(flow: Flow, traces: Sequence[Trace], context: Context) -> str:
    """How a pod's source looked as it left its node."""
    own, node = context.addresses.get(flow.source, ()), context.node_of(flow.source)
    left = [step for trace in traces for step in trace.request.left if host_of(step.tap) == node]
    if not all(step.header.source in own for step in left):
        return "snat"
    ends = (flow.destination, *(trace.request.arrived or "" for trace in traces))
    if any(_is_pod(end, context) for end in ends):
        return ""
    return "pod address" if flow.destination in context.unmasqueraded else "pod address!"


def _is_pod(end: str, context: Context) -> bool:
    return host_of(end) in context.pod_node


def _left(traces: Iterable[Trace], node: str, kind: Kind) -> frozenset[str]:
    return frozenset[str]().union(*(trace.path(kind).nics_left(node) for trace in traces))


def _entered(traces: Iterable[Trace], node: str, kind: Kind) -> frozenset[str]:
    return frozenset[str]().union(*(trace.path(kind).nics_entered(node) for trace in traces))


def _tunnels(traces: Iterable[Trace], node: str) -> list[str]:
    """The tunnels in which requests passed the node's NICs."""
    steps: list[Entered | Left] = []
    for trace in traces:
        steps += [*trace.request.left, *trace.request.entered]
    return sorted({name for step in steps if host_of(step.tap) == node for name in step.header.encapsulation})


def row(table: str, label: str, results: Iterable[FlowResult], settings: Mapping[str, str] | None = None) -> Row:
    cells = tuple((result.name, cell(result)) for result in results)
    return Row(table, label, cells, tuple(sorted((settings or {}).items())))


def merged(rows: Iterable[Row]) -> dict[str, dict[str, dict[str, Cell]]]:
    """Table → row label → column → cell; a lab used by several tests is one row, and the last measurement counts."""
    every = list(rows)
    tables: dict[str, dict[str, dict[str, Cell]]] = {}
    namesakes: dict[tuple[str, str], list[set[tuple[str, str]]]] = {}
    for each in every:
        namesakes.setdefault((each.table, each.label), []).append(set(each.settings))
    for each in every:
        # Where labs with one label had different settings, their labels say what differs.
        keys = {key for other in namesakes[each.table, each.label] for key, _ in other ^ set(each.settings)}
        different = [f"{key}={value}" for key, value in sorted(each.settings) if key in keys]
        label = " ".join([each.label, *(different or (["(nothing else)"] if keys else []))])
        tables.setdefault(each.table, {}).setdefault(label, {}).update(each.cells)
    return tables


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
        shown = label
        if len(label) > _LONGEST_LABEL:
            first, _, rest = label.partition(" ")
            notes.append(f"[{len(notes) + 1}] {rest}")
            shown = f"{first} [{len(notes)}]"
        short[shown] = cells
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
        rows = [(first, {column: column for column in block})]
        rows += [(label, {c: cells[c].text for c in block if c in cells}) for label, cells in labels.items()]
        for label, texts in filter(operator.itemgetter(1), rows):
            shown = (texts.get(column, "·").ljust(widths[column]) for column in block)
            lines.append("  ".join([label.ljust(label_width), *shown]).rstrip())
    return lines


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, width: int) -> Iterator[str]:
    """The lines of a table at most `width` characters wide; a column is no wider than its longest cell."""
    longest = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    widths = _widths(longest, width - 2 * (len(head) - 1))
    for number, row in enumerate((head, *rows)):
        folded = [textwrap.wrap(cell, size) or [""] for cell, size in zip(row, widths, strict=True)]
        for line in range(max(map(len, folded))):
            cells = (cell[line] if line < len(cell) else "" for cell in folded)
            yield "  ".join(cell.ljust(size) for cell, size in zip(cells, widths, strict=True)).rstrip()
        if number == 0:
            yield "  ".join("─" * size for size in widths)


def _widths(longest: Sequence[int], room: int) -> list[int]:
    """Short columns get what they need; the others share what is left."""
    widths = dict.fromkeys(range(len(longest)), 0)
    open_columns, left = set(widths), room
    while open_columns:
        fair = max(1, left // len(open_columns))
        short = {column for column in open_columns if longest[column] <= fair}
        for column in short or open_columns:
            widths[column] = max(1, longest[column] if short else fair)
            left -= widths[column]
        open_columns -= short or open_columns
    return [widths[column] for column in range(len(longest))]
