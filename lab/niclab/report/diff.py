"""Two records compared: which flows moved to another NIC, changed their source, or fared otherwise. Pure.

Flows are matched by topology, settings and ends, whatever version or datapath measured them; a pod's address counts as
its name, because agents give out addresses as they please.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from niclab.report import run

Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Change:
    """One thing about one flow, or one node, that is not as it was."""

    topology: str
    settings: str
    flow: str
    what: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.flow}  {self.what}: {self.before} → {self.after}"


@dataclass(frozen=True, slots=True)
class Difference:
    """`compared` flows are in both records; `only` names those that are in one."""

    changes: tuple[Change, ...]
    compared: int
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]


def read(path: Path) -> list[dict[str, Any]]:
    """The measured labs of a run.json, or of what `niclab trace -o json` printed. Raises LabError."""
    record = run.parsed(path)
    if isinstance(record, dict) and "flows" in record:
        run.check_test(path, record, "the record")
        return [record]
    tests: list[dict[str, Any]] = run.read(path)["tests"]
    return tests


def versions(tests: Iterable[Mapping[str, Any]]) -> list[str]:
    """The Cilium versions in a record, in the order in which they come."""
    return list(dict.fromkeys(str(test["cilium_version"]) for test in tests))


def compare(before: Iterable[Mapping[str, Any]], after: Iterable[Mapping[str, Any]]) -> Difference:
    """What changed from one record to the other."""
    (old, chances), (new, new_chances) = _flows(before), _flows(after)
    both = [key for key in old if key in new]
    return Difference(
        tuple(
            Change(*key, what, value, new[key][what])
            for key in both
            # A hash's choice is no change: both took one of the same several ways that were predicted.
            if not chances.get(key) or chances[key] != new_chances.get(key)
            for what, value in old[key].items()
            if value != new[key][what]
        ),
        len(both),
        tuple(" · ".join(key) for key in old if key not in new),
        tuple(" · ".join(key) for key in new if key not in old),
    )


def _flows(tests: Iterable[Mapping[str, Any]]) -> tuple[dict[Key, dict[str, str]], dict[Key, frozenset[str]]]:
    """What is known of every flow and node; and the ways of those flows that chance decides, as they were predicted."""
    facts: dict[Key, dict[str, str]] = {}
    chances: dict[Key, frozenset[str]] = {}
    for test in tests:
        settings = ", ".join(f"{key}={value}" for key, value in sorted(test.get("settings", {}).items()))
        names = {address: name for name, address in test.get("addresses", {}).items()}
        for node, reported in test.get("nodes", {}).items():
            facts[test["topology"], settings, node] = {
                "devices": " ".join(reported["devices"]) or "none",
                "direct routing device": reported["direct_routing_device"] or "none",
                "agent": reported["agent_exits"] or "runs",
            }
        for flow in test["flows"]:
            end = flow["to"] + ("" if flow["protocol"] == "icmp" else f":{flow['protocol']}")
            key = (test["topology"], settings, f"{flow['from']} → {end}")
            facts[key] = _facts(flow, names)
            ways = frozenset(_named(way, names) for way in flow.get("expected", ()))
            if flow.get("compared") == "agrees" and len(ways) > 1:
                chances[key] = ways
    return facts, chances


def _named(way: str, names: Mapping[str, str]) -> str:
    """A way's words with names for addresses."""
    return " ".join(names.get(word.rstrip(",;"), word) for word in way.split())


def _facts(flow: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, str]:
    def named(sources: Iterable[Iterable[str]]) -> str:
        return ", ".join(sorted({names.get(address, address) for each in sources for address in each})) or "none"

    sent = flow["transmitted_by"]
    requests = {tap: nic["inner_src"] for tap, nic in sent.items() if nic["requests"]}
    replies = {tap: nic["inner_src"] for tap, nic in sent.items() if nic["replies"]}
    outer = {f"{names.get(a, a)}→{names.get(b, b)}" for nic in sent.values() for a, b in nic["outer"]}
    return {
        "requests by": ", ".join(sorted(requests)) or "no NIC",
        "replies by": ", ".join(sorted(replies)) or "no NIC",
        "source": named(requests.values()),
        "source of replies": named(sources for tap, sources in replies.items() if tap not in requests),
        "tunnel": ", ".join(sorted(outer)) or "none",
        "seen by the server": named(flow["server_saw_source"].values()),
        "verdict": flow["verdict"],
    }


def render(difference: Difference) -> str:
    """The changes, under a line for each lab."""
    lines: list[str] = []
    here: tuple[str, str] | None = None
    for change in difference.changes:
        if (change.topology, change.settings) != here:
            here = (change.topology, change.settings)
            lines += ["", f"{change.topology} · {change.settings}"] if lines else [" · ".join(here)]
        lines.append(f"  {change}")
    changed = len({(c.topology, c.settings, c.flow) for c in difference.changes})
    lines += ["", f"{changed} of {difference.compared} compared flows and nodes changed"]
    for title, names in (("only in the first", difference.only_before), ("only in the second", difference.only_after)):
        if names:
            lines.append(f"{title}: {len(names)}")
    return "\n".join(lines).lstrip("\n")
