"""A plugin for the pytest that runs the twisted scenarios: `python -m pytest -p tests.causes.plugin --twisted FILE`.

Each scenario is run once for each of its twists; what became of each is written to the file.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Generator
from pathlib import Path
from typing import Any, cast

import pytest
from niclab import Lab
from niclab.agents.frr.speaker import Speaker

from tests.mutations.causes.table import TWISTS
from tests.mutations.causes.twist import Twist

_CHANGED = {"Lab": Lab, "Speaker": Speaker}
_HOLD_TIME = 3.0


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--twisted", metavar="FILE", required=True, help="where to write what became of each scenario")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Twisted(Path(config.getoption("--twisted"))))


class Twisted:
    """Scenario and twist → what became of each phase: an outcome, the exception's kind, and what it said."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._became: dict[str, dict[str, tuple[str, str, str]]] = {}

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        table = TWISTS.get(Path(metafunc.definition.path).name, ())
        found = {str(number): one for number, one in enumerate(table) if one.scenario == metafunc.definition.name}
        metafunc.fixturenames.append("twist")
        metafunc.parametrize("twist", found.values(), ids=found.keys())

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if _is_twisted(item)]
        for item in items:
            _take_away(item, _twist(item), self._path.parent)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None]:
        assert isinstance(item, pytest.Function)
        twist, lab = _twist(item), cast(Lab, item.funcargs["lab"])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                Speaker.must_learn, "__kwdefaults__", {"within": _HOLD_TIME + 0.5 if "frozen" in twist.undone else 1.0}
            )
            if twist.undone:
                kind, _, verb = twist.undone.partition(".")
                patch.setattr(_CHANGED[kind], verb, lambda *_, **__: contextlib.nullcontext())
            if twist.before:
                host, _, words = twist.before.partition(": ")
                lab.run(host, *words.split())
                lab.changed_after = len(lab.flows)  # of no use to the next
            yield

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        error = call.excinfo
        kind = "/".join(one.__name__ for one in error.type.__mro__) if error else ""
        phases = self._became.setdefault(item.nodeid, {})
        phases[report.when] = (report.outcome, kind, str(error.value) if error else "")
        if report.failed and report.when == "call":  # nobody needs to find out why
            report.outcome, report.longrepr = "passed", None
        return report

    def pytest_sessionfinish(self) -> None:
        if self._became:
            self._path.write_text(json.dumps(self._became))


def _twist(item: pytest.Item) -> Twist:
    found: Twist = _parameters(item)["twist"]
    return found


def _parameters(item: pytest.Item) -> dict[str, Any]:
    found: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    return found


def _is_twisted(item: pytest.Item) -> bool:
    twist = _parameters(item).get("twist")
    if not isinstance(twist, Twist) or _parameters(item)["cilium_version"] != twist.version:
        return False
    return twist.only in item.name.partition("[")[2]


def _take_away(item: pytest.Item, twist: Twist, directory: Path) -> None:
    """The test's marks without what the twist takes away, and with what it has instead."""
    item.own_markers[:] = [
        getattr(pytest.mark, mark.name)(
            *mark.args, **{k: v for k, v in mark.kwargs.items() if k not in twist.without}
        ).mark
        if mark.name == "topology"
        else mark
        for mark in item.own_markers
    ]
    name = next((mark.args[0] for mark in item.iter_markers("topology") if mark.args), "two-nic")
    place = twist.topology(name, directory) if twist.instead else name
    item.add_marker(pytest.mark.topology(place, **twist.amended), append=False)
    item.add_marker(pytest.mark.settings(twist.settings), append=False)
