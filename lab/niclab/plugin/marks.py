"""`@pytest.mark.needs("bond", "frr")`: a test runs where the kernel and the machine have that, and is skipped
elsewhere.

What there is, is really tried, once in a process and only when a test needs something (`niclab check` shows the same).
`-m needs_bond` chooses the tests that need bonds. Works for every test, with a lab or without.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

if TYPE_CHECKING:
    from niclab.host.features import Feature

_LACKS = "niclab_lacks"
"""Property of a skipped test's report: what it lacked; reports come back from workers of pytest-xdist."""


def lacking(names: Iterable[str], features: Iterable[Feature]) -> dict[str, str]:
    """Name → why it is not there, for each that is not. Raises ValueError for a name that no feature has."""
    known = {feature.name: feature for feature in features}
    found: dict[str, str] = {}
    for name in names:
        if name not in known:
            from niclab.errors import nearest

            raise ValueError(f"no feature is named {name!r}: {nearest(name, known)}")
        if not known[name].present:
            found[name] = f"{known[name].detail} ({known[name].install})"
    return found


def marker_name(feature: str) -> str:
    """The mark that `-m` chooses by: `needs_bond`, `needs_nftables_NAT`."""
    return "needs_" + re.sub(r"\W", "_", feature)


def needed_by(item: pytest.Item) -> tuple[str, ...]:
    """Every feature an item needs, as its marks say it."""
    return tuple(dict.fromkeys(name for mark in item.iter_markers("needs") for name in mark.args))


class Needs:
    """The part of the plugin that knows about needs."""

    def __init__(self) -> None:
        self._features: tuple[Feature, ...] | None = None
        self._skips: Counter[str] = Counter()

    @property
    def features(self) -> tuple[Feature, ...]:
        if self._features is None:
            from niclab.host.features import probe

            self._features = probe()
        return self._features

    def check(self, names: Iterable[str]) -> Mapping[str, str]:
        """What of this is not there, and why. Raises ValueError for an unknown name; nothing is probed for nothing."""
        wanted = tuple(names)
        return lacking(wanted, self.features) if wanted else {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        for name in dict.fromkeys(name for item in items for name in needed_by(item)):
            config.addinivalue_line("markers", f"{marker_name(name)}: needs {name} (from the mark `needs`)")
        for item in items:
            for name in needed_by(item):
                item.add_marker(marker_name(name))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        self.require(item, needed_by(item))

    def require(self, item: pytest.Item, names: Iterable[str]) -> None:
        """Skip the test if something is not there."""
        try:
            lacks = self.check(names)
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
        if report.when != "setup" or not report.skipped:
            return
        for key, value in report.user_properties:
            if key == _LACKS:
                self._skips.update(str(value).split(", "))

    def summary(self) -> Iterator[str]:
        """How many tests were skipped for want of what: `skipped for want of bond: 3 · vlan: 2`."""
        if self._skips:
            counts = " · ".join(f"{name}: {count}" for name, count in self._skips.most_common())
            yield f"skipped for want of {counts}; niclab check says more"

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for line in self.summary():
            terminalreporter.write_line(line)


__all__ = ["Needs", "lacking", "marker_name", "needed_by"]
