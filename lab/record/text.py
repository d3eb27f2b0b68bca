"""What `niclab trace` shows a person: the answer first, then what the agents said, then every flow's way. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence

from lab.agreement import unpredicted
from lab.datapath.said import NodeSaid
from lab.prediction import Prediction
from lab.record.matrix import cell
from lab.verdict import FlowResult
from lab.words import INDENT, WIDTH, counters, notes, pictures

Expected = Sequence[Prediction]


def trace(
    title: str, results: Sequence[FlowResult], said: Mapping[str, NodeSaid], expected: Sequence[Expected]
) -> Iterator[str]:
    """The lines; `expected` holds the predictions of each of the results."""
    yield title
    yield ""
    yield from _answer(results)
    yield ""
    yield from reasons(said)
    for result, predictions in zip(results, expected, strict=True):
        yield ""
        yield from _flow(result, predictions)
    yield ""
    yield f"measured: {results[0].measurement}" if results[0].measurement.holds else "not measured"


def _answer(results: Sequence[FlowResult]) -> Iterator[str]:
    """One line a flow: which NIC, how the source looked, and the verdict."""
    cells = ["" if result.verdict == "unmeasured" else cell(result).text for result in results]
    names = max(len(result.name) for result in results)
    texts = max(map(len, cells))
    for result, text in zip(results, cells, strict=True):
        middle = f"{text.ljust(texts)}  " if text else ""
        yield from _indented(f"{result.name.ljust(names)}  {middle}{result.outcome}", "")


def reasons(said: Mapping[str, NodeSaid]) -> Iterator[str]:
    """What each node's agent said, with the reason for every interface; nodes that say the same are told together."""
    alike: dict[str, list[str]] = {}
    for node, one in said.items():
        alike.setdefault("\n".join(_node(one)), []).append(node)
    for words, nodes in alike.items():
        yield from _indented(f"{', '.join(nodes)}: {words.splitlines()[0]}", "")
        for line in words.splitlines()[1:]:
            yield from _indented(line, INDENT)


def _node(said: NodeSaid) -> Iterator[str]:
    yield str(said)
    interfaces = {name: why for name, why in said.reasons.items() if name != "lo"}
    width = max(map(len, interfaces), default=0)
    for name, why in interfaces.items():
        yield f"{name.ljust(width)}  {why}"
    if said.direct_routing_reason:
        yield f"direct routing device: {said.direct_routing_reason}"
    if said.masquerading:
        yield f"masquerading: {said.masquerading}"


def _flow(result: FlowResult, expected: Expected) -> Iterator[str]:
    yield result.name
    lines = [*pictures(result)] if result.sightings or not result.refusal else []
    if result.sent:
        # What vouches for all flows is told once, below.
        lines += [left for line in counters(result) if (left := line.removesuffix(str(result.measurement)).rstrip())]
    lines += [f"refused: {result.refusal}"] if result.refusal else []
    lines += [f"noticed: {note}" for note in notes(result)]
    ways = " or ".join(map(str, expected)) or "nothing is sent"
    lines.append(f"expected: {ways}" + (" — and it was not so" if unpredicted(result, expected) else ""))
    for line in lines:
        yield from _indented(line, INDENT)


def _indented(line: str, indent: str) -> list[str]:
    """A line, folded where it is too long."""
    inner = indent + line[: len(line) - len(line.lstrip())]
    # Only what is too long: wrapping also makes one blank of several.
    if len(indent) + len(line) <= WIDTH:
        return [indent + line]
    return textwrap.wrap(
        line,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=inner + INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )
