"""Marks by which a test says what it needs and what it answers; `-m` chooses by each.

    @pytest.mark.needs("bond", "frr")                              skipped where the kernel or the machine lacks them
    @pytest.mark.claim("Cilium spreads pod traffic by itself", verdict="false", truth="only multipath routes do")
    @pytest.mark.issue(40521, "replies of a load balancer leave another NIC")

What there is, is really tried, once in a process and only when a test needs something (`niclab check` shows the same).
A claim's verdict is what its test proves: where the test fails, the verdict is not proved. `-m needs_bond`, `-m claim`,
`-m issue` and `-m issue_40521` choose tests; `niclab claims` and `niclab issues` run theirs and print what was found.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from niclab.report.claims import VERDICTS, Claim

if TYPE_CHECKING:
    from niclab.host.features import Feature

_LACKS = "niclab_lacks"
"""Property of a skipped test's report: what it lacked; reports come back from workers of pytest-xdist."""


def parameters(item: pytest.Item) -> Mapping[str, Any]:
    """The values of the row that an item is."""
    values: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    return values


def lacking(names: Iterable[str], features: Iterable[Feature]) -> dict[str, str]:
    """Name → why it is not there, for each that is not. Raises ValueError for a name that no feature has."""
    known = {feature.name: feature for feature in features}
    for name in names:
        if name not in known:
            from niclab.errors import nearest

            raise ValueError(f"no feature is named {name!r}: {nearest(name, known)}")
    missing = (known[name] for name in names if not known[name].present)
    return {feature.name: f"{feature.detail} ({feature.install})" for feature in missing}


def marker_name(feature: str) -> str:
    """The mark that `-m` chooses by: `needs_bond`, `needs_nftables_NAT`."""
    return "needs_" + re.sub(r"\W", "_", feature)


def needed_by(item: pytest.Item) -> tuple[str, ...]:
    """Every feature an item needs, as its marks say it."""
    return tuple(dict.fromkeys(name for mark in item.iter_markers("needs") for name in mark.args))


def claims(item: pytest.Item) -> Iterator[Claim]:
    """What an item's marks say it answers. Raises ValueError."""
    minor = ".".join(str(parameters(item).get("cilium_version", "")).split(".")[:2])
    for mark in item.iter_markers("claim"):
        says = mark.args[0] if len(mark.args) == 1 else None
        verdict = mark.kwargs.get("verdict")
        if isinstance(verdict, dict):
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


class Marks:
    """The part of the plugin that knows them. Needs work for every test, with a lab or without."""

    def __init__(self) -> None:
        self._features: tuple[Feature, ...] = ()
        self._skips: Counter[str] = Counter()
        self._known: set[str] = set()

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        try:
            issues = {f"issue_{claim.number}": claim.says for claim in claims(item) if claim.number is not None}
        except ValueError as error:
            raise pytest.UsageError(f"{item.nodeid}: {error}") from None
        needs = {marker_name(name): f"needs {name} (from the mark `needs`)" for name in needed_by(item)}
        for name, words in {**issues, **needs}.items():
            if name not in self._known:
                self._known.add(name)
                item.config.addinivalue_line("markers", f"{name}: {words}")
            item.add_marker(name)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        self.require(item, needed_by(item))

    def require(self, item: pytest.Item, names: Iterable[str]) -> None:
        """Skip the test if something is not there; nothing is probed for nothing."""
        wanted = tuple(names)
        if wanted and not self._features:
            from niclab.host.features import probe

            self._features = probe()
        try:
            lacks = lacking(wanted, self._features)
        except ValueError as error:
            raise pytest.fail.Exception(str(error), pytrace=False) from None
        if lacks:
            self.skip(item, lacks)

    def skip(self, item: pytest.Item, lacks: Mapping[str, str]) -> NoReturn:
        """Skip the test for want of these, each with why it is not there, and count it."""
        item.user_properties.append((_LACKS, ", ".join(lacks)))
        reasons = "; ".join(f"{name}: {why}" for name, why in lacks.items())
        raise pytest.skip.Exception(f"needs {reasons}")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """A test that this plugin skips is named as the place of the skip."""
        report = yield
        skip = report.longrepr if report.skipped else None
        if isinstance(skip, tuple) and Path(skip[0]).parent == Path(__file__).parent:
            path, line, _ = item.reportinfo()
            report.longrepr = (str(path), (line or 0) + 1, skip[2])
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "setup" and report.skipped:
            for key, value in report.user_properties:
                self._skips.update(str(value).split(", ") if key == _LACKS else ())

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """How many tests were skipped for want of what: `skipped for want of bond: 3 · vlan: 2`."""
        if self._skips:
            counts = " · ".join(f"{name}: {count}" for name, count in self._skips.most_common())
            terminalreporter.write_line(f"skipped for want of {counts}; niclab check says more")
