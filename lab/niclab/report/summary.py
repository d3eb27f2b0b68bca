"""The end of a run on one screen: the matrix people came for, and a line for everything else. Pure.

`whole` is all of it: every topology's matrix, shares as bars, and every flow that took an unpredicted path.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from niclab.flow.shares import Shares
from niclab.report import claims
from niclab.report.matrix import Row, render, unfolded

Tests = Sequence[Mapping[str, Any]]
"""The tests of a record, as run.json has them."""

_HEADLINE = "two-nic"
_COLUMNS = 6
_ROWS = 10
"""Flows and rows of the headline's matrix: more is for `niclab matrix`."""
_LISTED = 5
"""Unpredicted flows that are named; the rest are counted."""
MANY = 100
"""Probes of a flow from which on its shares are worth a picture: an interval of ten per cent either way."""


def screen(tests: Tests, *, width: int) -> Iterator[str]:
    """What a run found, in the order in which people ask: the matrix first."""
    headline = _headline(tests)
    yield from render(_headline_rows(tests, headline), width=width).splitlines()
    if others := list(dict.fromkeys(test["topology"] for test in tests if test["topology"] != headline)):
        yield ""
        names = max(len(name) for name in others)
        for name in others:
            yield f"{name.ljust(names)}  {_surprises([test for test in tests if test['topology'] == name])}"
    yield ""
    yield from claims.summary(tests)
    yield _compared(tests)
    different = list(_unpredicted(tests))
    yield from (f"  {line}" for line in different[:_LISTED])
    if len(different) > _LISTED:
        yield f"  … and {len(different) - _LISTED} more: niclab matrix"


def whole(tests: Tests, *, width: int) -> Iterator[str]:
    """Every matrix of a run, the shares of flows that were sent many times, and all unpredicted flows."""
    yield from render(sorted(_rows(tests), key=lambda row: row.table), width=width).splitlines()
    if bars := list(charts(tests)):
        yield from ("", "shares of NICs, with 95 % intervals:", *bars)
    if different := list(_unpredicted(tests)):
        yield from ("", f"not as predicted ({len(different)}):", *(f"  {line}" for line in different))


def _rows(tests: Tests) -> list[Row]:
    return [unfolded(test["matrix"]) for test in tests if test.get("matrix", {}).get("cells")]


def _headline(tests: Tests) -> str:
    """The topology whose matrix is shown: the one everybody knows, else the one with the most tests."""
    counts = Counter(str(test["topology"]) for test in tests if test.get("matrix", {}).get("cells"))
    return _HEADLINE if _HEADLINE in counts else next((name for name, _ in counts.most_common(1)), "")


def _headline_rows(tests: Tests, topology: str) -> list[Row]:
    """Rows that differ in `devices` alone: of all such groups, the one with the most values of it."""
    groups: dict[tuple[tuple[str, str], ...], list[Row]] = {}
    for row in _rows([test for test in tests if test["topology"] == topology]):
        rest = tuple((key, value) for key, value in row.settings if key != "devices")
        groups.setdefault(rest, []).append(row)
    if not groups:
        return []
    rows = max(groups.values(), key=lambda group: len({row.label for row in group}))
    labels = sorted({row.label for row in rows}, key=lambda label: (label != "(unset)", len(label), label))[:_ROWS]
    rows.sort(key=lambda row: -len(row.cells))  # columns in the order of a row that has them all
    having: dict[str, set[str]] = {}
    for row in rows:
        for flow, _ in row.cells:
            having.setdefault(flow, set()).add(row.label)
    # A column that one row has is of another test: it would tell nothing beside the others.
    flows = [flow for flow, with_it in having.items() if 2 * len(with_it) > len(labels)][:_COLUMNS]
    shown = (replace(row, cells=tuple(cell for cell in row.cells if cell[0] in flows), settings=()) for row in rows)
    chosen = (row for row in shown if row.cells and row.label in labels)
    return sorted(chosen, key=lambda row: (row.table, labels.index(row.label)))


def _surprises(tests: Tests) -> str:
    """How many flows a topology had, and how many of them people would not expect."""
    flows = [flow for test in tests for flow in test["flows"]]
    cells = [cell for row in _rows(tests) for _, cell in row.cells]
    leaks = sum(cell.loud and "pod address!" in cell.text for cell in cells)
    silent = sum(flow["verdict"] == "lost" for flow in flows)
    unmeasured = sum(flow["verdict"] == "unmeasured" for flow in flows)
    counts = {"with a pod's address outside": leaks, "without an answer": silent, "unmeasured": unmeasured}
    counts["not as predicted"] = sum(bool(flow.get("unpredicted")) for flow in flows)
    surprises = ", ".join(f"{count} {words}" for words, count in counts.items() if count)
    return f"{len(flows)} flows" + (f": {surprises}" if surprises else "")


def _compared(tests: Tests) -> str:
    """How many flows were compared with their prediction, and what came of it."""
    flows = [flow for test in tests for flow in test["flows"]]
    states = Counter(str(flow.get("compared", "not compared")) for flow in flows)
    agree = f"predictions: {states['agrees']} of {len(flows)} flows agree"
    return f"{agree}, {states['differs']} differ, {states['not compared']} were not compared"


def _unpredicted(tests: Tests) -> Iterator[str]:
    """Flows that took a path which was not predicted: a finding about the model, or about what was measured."""
    for test in tests:
        for flow in test["flows"]:
            if flow.get("unpredicted"):
                yield f"{test['test']}: {flow['from']} → {flow['to']}: {flow['unpredicted']}"


def shares(record: Mapping[str, Any]) -> Iterator[Shares]:
    """Of each flow of a test's record with MANY probes: the shares of every node that sent its requests on."""
    for flow in record["flows"]:
        if flow["sent"] < MANY:
            continue
        sent: dict[str, dict[str, int]] = {}
        for tap, seen in flow["transmitted_by"].items():
            node, _, nic = tap.partition(".")
            if seen["requests"]:
                sent.setdefault(node, {})[nic] = seen["requests"]
        for node, counts in sent.items():
            selected = record["nodes"][node]["devices"] if node in record["nodes"] else ()
            every = sorted({*counts, *(nic for nic in selected if not nic.startswith("cilium_"))})
            yield Shares(f"{flow['from']} → {flow['to']}", node, {nic: counts.get(nic, 0) for nic in every})


def charts(records: Tests) -> Iterator[str]:
    """A chart for each such flow of a run, under its test's name; nothing when there is none."""
    for record in records:
        bars = [line for split in shares(record) for line in split.chart().splitlines()]
        yield from (f"  {record['test']}", *(f"    {line}" for line in bars)) if bars else ()
