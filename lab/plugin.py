"""The pytest plugin: labs as fixtures, one per topology, settings and version, shared by the tests that ask for the same.

    @pytest.mark.topology("two-nic")
    @pytest.mark.settings(routing="tunnel", devices="eth1")
    def test_tunnel(lab): ...

Only tests that use the `lab` fixture are touched; the plugin is inert elsewhere.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lab.errors import LabError

if TYPE_CHECKING:
    from lab.lab import Lab
    from lab.session import Session

SESSION: pytest.StashKey[Session] = pytest.StashKey()
VERSIONS = ("1.18", "1.20")
"""Versions a lab test runs on by default: around the change of the single-device rule."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("niclab", "niclab: which NIC carries what")
    group.addoption("--datapath", choices=("builtin",), default="builtin", help="who forwards pod packets")
    group.addoption("--topology", metavar="NAME", help="run on this topology instead of the tests' own")
    group.addoption(
        "--cilium", action="append", metavar="X.Y", help=f"Cilium version, repeatable (default: {' and '.join(VERSIONS)})"
    )
    group.addoption("--keep", action="store_true", help="let the labs of failed tests stand, and say how to enter them")
    group.addoption("--pause-on-error", action="store_true", help="stop at a failed lab test until Enter is pressed")
    group.addoption("--pcap", action="store_true", help="write a pcapng for every lab test, not only failed ones")
    group.addoption("--artifacts", metavar="DIR", default="artifacts", help="where records go (default: artifacts)")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "topology(name): the lab's topology, a name or the path of a YAML file")
    config.addinivalue_line("markers", "settings(**flags): Cilium settings on top of the lab's baseline; marks add up")
    config.addinivalue_line("markers", "cilium(*versions): the Cilium versions this test is about, e.g. '1.18'")
    from lab.session import Session

    config.stash[SESSION] = Session(config)


def pytest_unconfigure(config: pytest.Config) -> None:
    session = config.stash.get(SESSION, None)
    if session is not None:
        session.close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A lab test runs once per Cilium version it is about."""
    if "lab" not in metafunc.fixturenames or "cilium_version" in _parametrized(metafunc):
        return
    marker = metafunc.definition.get_closest_marker("cilium")
    chosen = tuple(metafunc.config.getoption("--cilium") or VERSIONS)
    if marker:
        chosen = tuple(version for version in chosen if version in marker.args)
    if "cilium_version" not in metafunc.fixturenames:
        metafunc.fixturenames.append("cilium_version")
    metafunc.parametrize("cilium_version", chosen, scope="session", ids=[f"cilium-{version}" for version in chosen])


def _parametrized(metafunc: pytest.Metafunc) -> set[str]:
    names: set[str] = set()
    for mark in metafunc.definition.iter_markers("parametrize"):
        argument = mark.args[0]
        names |= {name.strip() for name in (argument.split(",") if isinstance(argument, str) else argument)}
    return names


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Only when lab tests are there is root needed; without it the same pytest is run again in a user namespace."""
    if config.option.collectonly or not any("lab" in getattr(item, "fixturenames", ()) for item in items):
        return
    config.stash[SESSION].group(items)
    from lab.rootless import reenter_pytest

    try:
        reenter_pytest(config)
    except LabError as error:
        raise pytest.UsageError(str(error)) from None


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A lab of the test's topology, settings and Cilium version; shared, so leave it as it was."""
    session = request.config.stash[SESSION]
    try:
        found = session.lab_for(request)
    except LabError as error:
        pytest.fail(f"the lab could not be built:\n{error}", pytrace=False)
    session.begin(request.node, found)
    yield found
    session.end(request.node, found)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    item.config.stash[SESSION].report(item, call, report)
    return report


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """A comparison of NICs that fails shows the way the packet took."""
    from lab.verdict import NicSet

    nics = left if isinstance(left, NicSet) else right if isinstance(right, NicSet) else None
    if nics is None:
        return None
    wanted = right if nics is left else left
    shown = "{" + ", ".join(map(repr, sorted(wanted))) + "}" if isinstance(wanted, set | frozenset) else repr(wanted)
    return [f"{nics.flow.name}: {nics!r} {op} {shown}", *nics.flow.explanation.splitlines()]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in config.stash[SESSION].summary():
        terminalreporter.write_line(line)


def pytest_report_header(config: pytest.Config) -> list[str]:
    if config.getoption("--datapath") == "builtin":
        return ["niclab: built-in datapath, a model of Cilium made of kernel parts"]
    return []


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Under pytest-xdist the workers' records come back with their last message."""
    output = getattr(node, "workeroutput", {})
    node.config.stash[SESSION].absorb(output.get("niclab", []))


def pytest_sessionfinish(session: pytest.Session) -> None:
    session.config.stash[SESSION].finish()


__all__ = ["SESSION", "VERSIONS", "Path", "lab"]
