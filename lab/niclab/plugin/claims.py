"""Tests that answer somebody: a claim that was made, or an issue that a user opened.

    @pytest.mark.claim("Cilium spreads pod traffic by itself", verdict="false", truth="only multipath routes do")
    @pytest.mark.issue(40521, "replies of a load balancer leave another NIC")

A claim's verdict is what its test proves: where the test fails, the verdict is not proved. `-m claim`, `-m issue` and
`-m issue_40521` choose them; `niclab claims` and `niclab issues` run them and print what was found.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

VERDICTS = ("true", "partly", "false")


@dataclass(frozen=True, slots=True)
class Story:
    """What one test answers. A claim has a verdict and the `truth`; an issue a number of Cilium's tracker."""

    kind: str
    says: str
    number: int | None = None
    verdict: str = ""
    truth: str = ""

    def folded(self) -> dict[str, Any]:
        """As it is in run.json."""
        told = {"kind": self.kind, "number": self.number, "says": self.says}
        return {**told, "verdict": self.verdict, "truth": self.truth} if self.kind == "claim" else told


@dataclass(frozen=True, slots=True)
class Told:
    """A story's outcome on one version: `proved` when every test of it passed; `seen` and `ran` are the evidence."""

    story: Mapping[str, Any]
    version: str
    outcomes: tuple[str, ...]
    seen: tuple[str, ...] = ()
    ran: tuple[str, ...] = ()
    tests: tuple[str, ...] = field(default=())

    @property
    def proved(self) -> bool:
        return bool(self.outcomes) and all(outcome == "passed" for outcome in self.outcomes)

    @property
    def verdict(self) -> str:
        """A claim's verdict, if its tests proved it."""
        if set(self.outcomes) == {"skipped"}:
            return "not measured"
        return str(self.story["verdict"]) if self.proved else "not proved"


def stories(item: pytest.Item) -> Iterator[Story]:
    """What an item's marks say it answers. Raises ValueError."""
    parameters: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    version = str(parameters.get("cilium_version", ""))
    for mark in item.iter_markers("claim"):
        says = mark.args[0] if len(mark.args) == 1 else None
        verdict = mark.kwargs.get("verdict")
        if isinstance(verdict, dict):
            minor = ".".join(version.split(".")[:2])
            if minor and minor not in verdict and "" not in verdict:
                raise ValueError(f"the claim mark has no verdict for {minor}")
            verdict = verdict.get(minor, verdict.get("", next(iter(verdict.values()))))
        if not isinstance(says, str) or verdict not in VERDICTS or not mark.kwargs.get("truth"):
            raise ValueError(f"the claim mark takes what is claimed, verdict= one of {', '.join(VERDICTS)}, and truth=")
        yield Story("claim", says, verdict=str(verdict), truth=str(mark.kwargs["truth"]))
    for mark in item.iter_markers("issue"):
        if len(mark.args) != 2 or not isinstance(mark.args[0], int) or not isinstance(mark.args[1], str):
            raise ValueError("the issue mark takes a number and what the issue is about")
        yield Story("issue", mark.args[1], number=mark.args[0])


class Stories:
    """The part of the plugin that knows them: marks, and `-m issue_NUMBER`."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._known: set[str] = set()
        config.addinivalue_line("markers", "claim(says, verdict, truth): the test proves or refutes what is claimed")
        config.addinivalue_line("markers", "issue(number, about): the test shows an issue of Cilium's tracker")

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        try:
            found = list(stories(item))
        except ValueError as error:
            raise pytest.UsageError(f"{item.nodeid}: {error}") from None
        for story in found:
            if story.number is None:
                continue
            name = f"issue_{story.number}"
            if name not in self._known:
                self._known.add(name)
                self._config.addinivalue_line("markers", f"{name}: {story.says}")
            item.add_marker(name)


def told(tests: Sequence[Mapping[str, Any]], kind: str) -> list[Told]:
    """The stories of a record (run.json's `tests`), in order, each with its evidence; one per version."""
    found: dict[tuple[str, str], list[tuple[Mapping[str, Any], Mapping[str, Any]]]] = {}
    for test in sorted(tests, key=lambda test: (str(test["test"]).partition("::")[0], test.get("line") or 0)):
        for story in test.get("stories", ()):
            if story["kind"] == kind:
                key = (str(story["number"] or story["says"]), str(test["cilium_version"]))
                found.setdefault(key, []).append((story, test))
    return [_told(version, together) for (_, version), together in found.items()]


def _told(version: str, together: list[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> Told:
    tests = [test for _, test in together]
    return Told(
        story=together[0][0],
        version=version,
        outcomes=tuple(str(test.get("outcome", "unknown")) for test in tests),
        seen=tuple(dict.fromkeys(line for test in tests for line in _seen(test))),
        ran=tuple(
            dict.fromkeys(
                f"{one['host']}$ {one['line']}\n{one['output']}" for test in tests for one in test["commands"]
            )
        ),
        tests=tuple(str(test["test"]) for test in tests),
    )


def _seen(test: Mapping[str, Any]) -> Iterator[str]:
    """What was measured, a line per flow (`devices=eth1: pod1→ext0 eth0 pod address!`); else what the agents said."""
    matrix = test.get("matrix") or {}
    label = matrix.get("label", "")
    for cell in matrix.get("cells", ()):
        yield f"devices {label}: {cell['flow']} {cell['text']}"
    for name, node in test.get("nodes", {}).items() if not matrix.get("cells") else ():
        exits = node["agent_exits"]
        yield f"devices {label}: {name} " + (
            f"agent exits: {exits}" if exits else f"selects {' '.join(node['devices'])}"
        )
