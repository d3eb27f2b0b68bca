"""The NIC matrix, what people came for: rows are `devices`, columns flows, cells NIC and source. Pure."""

from __future__ import annotations

import operator
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from niclab.flow.passage import counted, ways
from niclab.flow.trace import Context, Trace, host_of
from niclab.topology.model import Flow

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
    return seen(result.flow, result.traces, result.context, leaked=result.verdict == "leaked")


def not_sent(flow: Flow, context: Context, otherwise: str) -> Cell:
    """The cell of a flow of which there is nothing to see: a pod's agent has exited, or `otherwise`."""
    pods = [end for end in (flow.source, *context.ends_of(flow)) if host_of(end) in context.pod_node]
    exits = any(context.node_of(pod) in context.exited for pod in pods)
    return Cell("agent exits" if exits else otherwise, loud=True)


def seen(flow: Flow, traces: Sequence[Trace], context: Context, *, leaked: bool = False) -> Cell:
    """The traces of a flow's probes, or one predicted trace: the words of its passage, or how many took which."""
    taken = ways(traces, flow, context)
    words = [*counted(taken)] + (["leaked"] if leaked else [])
    received = sum(trace.carried for trace in traces)
    if received != len(traces):
        words.append(f"{received}/{len(traces)} answered" if received else "no answer")
    loud = leaked or received != len(traces) or any(each.loud for each in taken)
    return Cell(" ".join(words), loud)


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
