"""Bar charts of a run: how the flows that were sent many times were shared out over nodes' NICs. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from niclab.flow.shares import Shares

MANY = 100
"""Probes of a flow from which on its shares are worth a picture: an interval of ten per cent either way."""


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


def charts(records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A chart for each such flow of a run, under its test's name; nothing when there is none."""
    for record in records:
        if found := list(shares(record)):
            yield f"  {record['test']}"
            yield from (f"    {line}" for one in found for line in one.chart().splitlines())
