"""What `niclab trace` shows a person: the answer first, then what the agents said, then every flow's way. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence

from niclab.cilium.reported import NodeReport
from niclab.flow.compare import unpredicted
from niclab.flow.picture import INDENT, WIDTH, counters, notes, pictures
from niclab.flow.predict import Prediction
from niclab.flow.verdict import FlowResult
from niclab.report.matrix import cell

Expected = Sequence[Prediction]


def trace(
    title: str, results: Sequence[FlowResult], reported: Mapping[str, NodeReport], expected: Sequence[Expected]
) -> Iterator[str]:
    """The lines; `expected` holds the predictions of each of the results."""
    yield title
    yield ""
    yield from _answer(results)
    yield ""
    yield from reasons(reported)
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


def reasons(reported: Mapping[str, NodeReport]) -> Iterator[str]:
    """What each node's agent said, with the reason for every interface; nodes that say the same are told together."""
    alike: dict[str, list[str]] = {}
    for node, one in reported.items():
        alike.setdefault("\n".join(_node(one)), []).append(node)
    for words, nodes in alike.items():
        yield from _indented(f"{', '.join(nodes)}: {words.splitlines()[0]}", "")
        for line in words.splitlines()[1:]:
            yield from _indented(line, INDENT)


def _node(reported: NodeReport) -> Iterator[str]:
    yield str(reported)
    interfaces = {name: why for name, why in reported.reasons.items() if name != "lo"}
    width = max(map(len, interfaces), default=0)
    for name, why in interfaces.items():
        yield f"{name.ljust(width)}  {why}"
    if reported.direct_routing_reason:
        yield f"direct routing device: {reported.direct_routing_reason}"
    if reported.masquerading:
        yield f"masquerading: {reported.masquerading}"


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
