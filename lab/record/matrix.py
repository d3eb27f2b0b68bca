"""The NIC matrix, what people came for: rows are `devices`, columns flows, cells NIC and source. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lab.verdict import FlowResult


@dataclass(frozen=True, slots=True)
class Cell:
    """One measured flow as one cell of the matrix; `loud` cells are those people do not expect."""

    text: str
    loud: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """One lab: which table it belongs to, its row's label, and its flows' cells by column."""

    table: str
    label: str
    cells: tuple[tuple[str, Cell], ...]


def cell(result: FlowResult) -> Cell:
    """NIC(s) the requests left their node by, then how: tunnel, snat, the pod's own address, lost."""
    if result.verdict == "unmeasured":
        return Cell("agent exits" if "agent" in result.refusal else "unmeasured", loud=True)
    source = result.flow.source.partition(".")[0]
    node = result.context.pod_node.get(source, source)
    mine = [s for s in result.sightings if s.host == node and s.nic and s.outbound and s.kind == "request"]
    nics = "+".join(sorted({s.nic for s in mine}))
    if not mine:
        local = result.received == result.sent
        return Cell("on the node" if local else "lost: left no NIC", loud=not local)
    words = [nics, *sorted({kind for s in mine for kind in s.encapsulation})]
    own = result.context.addresses.get(source, ())
    loud = False
    if source in result.context.pod_node and not any(s.encapsulation for s in mine):
        target = result.flow.destination.partition(".")[0]
        bare = all(s.source in own for s in mine)
        to_pod = target in result.context.pod_node
        if not bare:
            words.append("snat")
        elif not to_pod:
            words.append("pod address!")
            loud = True
    if result.verdict != "carried":
        words.append("no answer" if result.received == 0 else f"{result.received}/{result.sent}")
        loud = True
    return Cell(" ".join(words), loud)


def row(table: str, label: str, results: Iterable[FlowResult]) -> Row:
    return Row(table, label, tuple((result.name, cell(result)) for result in results))


def merged(rows: Iterable[Row]) -> dict[str, dict[str, dict[str, Cell]]]:
    """Table → row label → column → cell; a lab used by several tests is one row, and the last measurement counts."""
    tables: dict[str, dict[str, dict[str, Cell]]] = {}
    for one in rows:
        tables.setdefault(one.table, {}).setdefault(one.label, {}).update(dict(one.cells))
    return tables


def render(rows: Iterable[Row], *, width: int = 120, first: str = "devices") -> str:
    """Plain text, one table per lab kind; more columns than fit continue below."""
    parts = []
    for title, labels in merged(rows).items():
        columns = list(dict.fromkeys(column for cells in labels.values() for column in cells))
        parts.append("\n".join([title, *_blocks(labels, columns, width, first)]))
    return "\n\n".join(parts)


def _blocks(labels: dict[str, dict[str, Cell]], columns: list[str], width: int, first: str) -> list[str]:
    label_width = max(len(first), *(len(label) for label in labels))
    widths = {c: max(len(c), *(len(cells[c].text) if c in cells else 1 for cells in labels.values())) for c in columns}
    lines: list[str] = []
    while columns:
        block, used = [], label_width
        while columns and (not block or used + widths[columns[0]] + 2 <= width):
            used += widths[columns[0]] + 2
            block.append(columns.pop(0))
        lines.append(
            "  ".join([first.ljust(label_width), *(column.ljust(widths[column]) for column in block)]).rstrip()
        )
        for label, cells in labels.items():
            shown = [(cells[c].text if c in cells else "·").ljust(widths[c]) for c in block]
            lines.append("  ".join([label.ljust(label_width), *shown]).rstrip())
    return lines
