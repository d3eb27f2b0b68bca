"""Marks for tests that answer somebody: a claim that was made, or an issue that a user opened.

    @pytest.mark.claim("Cilium spreads pod traffic by itself", verdict="false", truth="only multipath routes do")
    @pytest.mark.issue(40521, "replies of a load balancer leave another NIC")

A claim's verdict is what its test proves: where the test fails, the verdict is not proved. `-m claim`, `-m issue` and
`-m issue_40521` choose them; `niclab claims` and `niclab issues` run them and print what was found.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from niclab.report.claims import VERDICTS, Claim


def claims(item: pytest.Item) -> Iterator[Claim]:
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
        yield Claim("claim", says, verdict=str(verdict), truth=str(mark.kwargs["truth"]))
    for mark in item.iter_markers("issue"):
        if len(mark.args) != 2 or not isinstance(mark.args[0], int) or not isinstance(mark.args[1], str):
            raise ValueError("the issue mark takes a number and what the issue is about")
        yield Claim("issue", mark.args[1], number=mark.args[0])


class Claims:
    """The part of the plugin that knows them: marks, and `-m issue_NUMBER`."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._known: set[str] = set()
        config.addinivalue_line("markers", "claim(says, verdict, truth): the test proves or refutes what is claimed")
        config.addinivalue_line("markers", "issue(number, about): the test shows an issue of Cilium's tracker")

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        try:
            answered = list(claims(item))
        except ValueError as error:
            raise pytest.UsageError(f"{item.nodeid}: {error}") from None
        for claim in answered:
            if claim.number is None:
                continue
            name = f"issue_{claim.number}"
            if name not in self._known:
                self._known.add(name)
                self._config.addinivalue_line("markers", f"{name}: {claim.says}")
            item.add_marker(name)
