"""The pytest plugin: labs as fixtures, one per topology, settings and version, shared by tests that ask for the same.

    @pytest.mark.topology("two-nic")
    @pytest.mark.settings(routing="tunnel", devices="eth1")
    def test_tunnel(lab): ...

Only tests that use the `lab` fixture are touched; in a run without them the plugin does nothing and loads nothing.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from niclab.errors import LabError
from niclab.plugin import options
from niclab.plugin.claims import Claims
from niclab.plugin.marks import Needs
from niclab.plugin.mutations import Mutations

if TYPE_CHECKING:
    from niclab.lab import Lab
    from niclab.plugin.session import Session
    from niclab.request import Decided

_SESSION: pytest.StashKey[Session] = pytest.StashKey()
_RUN: pytest.StashKey[str] = pytest.StashKey()
"""What the processes of one run under pytest-xdist have in common."""
_DATAPATH: pytest.StashKey[Decided] = pytest.StashKey()
_NEEDS: pytest.StashKey[Needs] = pytest.StashKey()
_LACKS_USERNS: pytest.StashKey[bool] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("niclab", "niclab: which NIC carries what")
    group.addoption("--datapath", **options.DATAPATH)
    group.addoption("--control-plane", **options.CONTROL_PLANE)
    group.addoption("--topology", metavar="NAME", help="run on this topology instead of the tests' own")
    group.addoption("--cilium", **options.CILIUM)
    group.addoption("--keep", action="store_true", help="let the labs of failed tests stand, and say how to enter them")
    group.addoption("--pause-on-error", action="store_true", help="stop at a failed lab test until Enter is pressed")
    group.addoption("--pcap", action="store_true", help="write a pcapng for every lab test, not only failed ones")
    group.addoption(
        "--mutations", action="store_true", help="take away what scenarios stand on (fails_without): each must fail"
    )
    group.addoption("--artifacts", metavar="DIR", default="artifacts", help="where records go (default: artifacts)")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "topology(name, routes, rules, sysctls, node_ips, default_routes): the lab's topology, a name or the path of a "
        "YAML file, and what to add to it: lists of 'HOST: WORDS' or 'all: WORDS' (niclab.check.amend); marks add up",
    )
    config.addinivalue_line(
        "markers",
        "settings(*files, **flags): Cilium settings, on top of the lab's baseline unless a file stands for the whole "
        "configuration; files are looked up beside the test and above it; marks add up",
    )
    config.addinivalue_line("markers", "cilium(*versions): the Cilium versions this test is about, e.g. '1.18'")
    config.addinivalue_line(
        "markers", "needs(*features): what `niclab check` must find, e.g. 'bond'; else it is skipped"
    )
    config.addinivalue_line("markers", "fails_without(mutation): what the scenario stands on (niclab.fails_without)")
    config.addinivalue_line("markers", "only(datapath, control_plane): the test is about labs of this kind alone")
    if config.getoption("--pause-on-error") and getattr(config.option, "numprocesses", None):
        raise pytest.UsageError("--pause-on-error needs the terminal, which workers do not have: leave out -n")
    config.stash[_NEEDS] = Needs()
    config.pluginmanager.register(config.stash[_NEEDS], "niclab-needs")
    config.pluginmanager.register(Claims(config), "niclab-claims")
    if config.getoption("--mutations"):
        config.pluginmanager.register(Mutations(config), "niclab-mutations")
    elif not hasattr(config, "workerinput"):  # records and matrices show scenarios as they are
        config.pluginmanager.register(_Collector(config), "niclab-collector")


def _session(config: pytest.Config) -> Session:
    """This run's state, made when the first lab test is met."""
    found = config.stash.get(_SESSION, None)
    if found is None:
        from niclab.plugin.session import Session

        found = config.stash[_SESSION] = Session(config, datapath(config), lambda: config.stash.get(_RUN, None))
    return found


def pytest_unconfigure(config: pytest.Config) -> None:
    session = config.stash.get(_SESSION, None)
    if session is not None:
        session.close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A lab test runs once per Cilium version it is about."""
    if not _uses_lab(metafunc.definition) or "cilium_version" in _parametrized(metafunc):
        return
    marker = metafunc.definition.get_closest_marker("cilium")
    chosen = tuple(metafunc.config.getoption("--cilium") or _default_versions(metafunc.config))
    if marker:
        chosen = tuple(version for version in chosen if version in marker.args)
    if "cilium_version" not in metafunc.fixturenames:
        metafunc.fixturenames.append("cilium_version")
    metafunc.parametrize("cilium_version", chosen, scope="session", ids=[f"cilium-{version}" for version in chosen])


def _default_versions(config: pytest.Config) -> tuple[str, ...]:
    from niclab.request import default_versions

    return default_versions(datapath(config))


def datapath(config: pytest.Config) -> Decided:
    """Who forwards pod packets in this run, and why."""
    found = config.stash.get(_DATAPATH, None)
    if found is None:
        from niclab.request import decide

        try:
            found = decide(config.getoption("--datapath"))
        except LabError as error:
            raise pytest.UsageError(str(error)) from None
        config.stash[_DATAPATH] = found
    return found


def _parametrized(metafunc: pytest.Metafunc) -> set[str]:
    names: set[str] = set()
    for mark in metafunc.definition.iter_markers("parametrize"):
        argument = mark.args[0] if mark.args else mark.kwargs["argnames"]
        names |= {name.strip() for name in (argument.split(",") if isinstance(argument, str) else argument)}
    return names


def _uses_lab(item: pytest.Item) -> bool:
    """Whether the test gets its `lab` from here: a repository may have a `lab` fixture of its own, which means
    something else unless it asks for this one."""
    return niclab_lab.__name__ in getattr(item, "fixturenames", ())


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if any(map(_uses_lab, items)):
        _session(config).group(items, _uses_lab)


def pytest_report_collectionfinish(config: pytest.Config, items: list[pytest.Item]) -> str | None:
    if not any(map(_uses_lab, items)):
        return None
    return f"niclab: {datapath(config).words}"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Only now is it known whether a lab test will run, and only lab tests need root: without it the same pytest is run
    again in a user namespace. A worker of pytest-xdist cannot do that; it ends, and the controller does it."""
    config = session.config
    if config.option.collectonly or not any(map(_uses_lab, session.items)):
        return
    from niclab.host.userns import is_able

    if not is_able() and hasattr(config, "workerinput"):
        config.stash[_LACKS_USERNS] = True
        pytest.exit("niclab: the lab's tests need a user namespace", returncode=pytest.ExitCode.USAGE_ERROR)
    _enter_userns(config)
    try:
        _session(config).check_options()
    except LabError as error:
        raise pytest.UsageError(str(error)) from None


def _enter_userns(config: pytest.Config) -> None:
    """Run the same pytest again in a user namespace, unless this is root; kept labs want one that outlives the run."""
    from niclab.host.userns import enter_pytest

    keep = bool(config.getoption("--keep"))
    try:
        enter_pytest(config, persistent=keep)
    except LabError as error:
        raise pytest.UsageError(str(error)) from None


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Workers of pytest-xdist write into one directory, which the first that needs it makes."""
    node.workerinput["niclab_run"] = node.config.stash.setdefault(_RUN, secrets.token_hex(8))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    if getattr(node, "workeroutput", {}).get("niclab_lacks_userns"):
        _enter_userns(node.config)


@pytest.fixture
def lab(niclab_lab: Lab) -> Lab:
    """A lab of the test's topology, settings and Cilium version; shared, so leave it as it was."""
    return niclab_lab


@pytest.fixture
def niclab_lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """What `lab` returns. A test that gets its lab from this plugin has this name among its fixtures."""
    from niclab.topology import stacking

    session = _session(request.config)
    needs: Needs = request.config.stash[_NEEDS]
    try:
        wanted = session.request(request.node)
        needs.require(request.node, stacking.needs(wanted.topology))
        if lacking := wanted.lacks_kubernetes:
            needs.skip(request.node, {"kubernetes": f"agents are told of {lacking} by its objects"})
        found = session.begin(request.node)
    except LabError as error:
        raise pytest.fail.Exception(f"the lab could not be built:\n{error}", pytrace=False) from None
    yield found
    session.end(request.node)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Skip what is about labs of another kind; the lab stands already, so that the record says what was skipped."""
    wanted = {key: value for mark in item.iter_markers("only") for key, value in mark.kwargs.items()}
    if wanted and _uses_lab(item) and isinstance(item, pytest.Function):
        lab = item.funcargs[niclab_lab.__name__]
        if any(getattr(lab, key) != value for key, value in wanted.items()):
            pytest.skip("only with " + " ".join(f"--{k.replace('_', '-')} {v}" for k, v in wanted.items()))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    session = item.config.stash.get(_SESSION, None)
    if session is not None:
        session.report(item, report)
    return report


class _Collector:
    """Takes the records off the reports: they come back from every worker, also from one that crashes later."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        record = getattr(report, "niclab", None)
        if record is not None:
            _session(self._config).absorb(record)


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """A comparison of NICs that fails shows the way the packet took."""
    if "niclab.flow.verdict" not in sys.modules:  # then nothing compared is ours
        return None
    from niclab.flow.verdict import compared

    return compared(op, left, right)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    session = config.stash.get(_SESSION, None)
    for line in session.summary() if session is not None else ():
        terminalreporter.write_line(line)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    config = session.config
    if config.stash.get(_LACKS_USERNS, False):
        worker: Any = config
        worker.workeroutput["niclab_lacks_userns"] = True  # pytest-xdist's
    found = config.stash.get(_SESSION, None)
    if found is not None:
        found.finish()
