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
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pytest

from niclab.cli.arguments import shared
from niclab.errors import LabError
from niclab.plugin.marks import Marks
from niclab.plugin.mutations import Mutations, mutated

if TYPE_CHECKING:
    from niclab.lab import Lab
    from niclab.plugin.session import Session
    from niclab.request import Decided

_MARKERS = (
    (
        "topology(name, routes, rules, sysctls, node_ips, default_routes): the lab's topology, a name or the path of a "
        "YAML file, and what to add to it: lists of 'HOST: WORDS' or 'all: WORDS' (niclab.check.amend); marks add up"
    ),
    (
        "settings(*files, **flags): Cilium settings, on top of the lab's baseline unless a file stands for the whole "
        "configuration; files are looked up beside the test and above it; marks add up"
    ),
    "nics(kind): what the nodes' NICs are, physical or veth, whatever --nics says",
    "cilium(*versions): the Cilium versions this test is about, e.g. '1.18'",
    "needs(*features): what `niclab check` must find, e.g. 'bond'; else it is skipped",
    "fails_without(mutation): what the scenario stands on (niclab.fails_without)",
    "only(datapath, control_plane): the test is about labs of this kind alone",
    "claim(says, verdict, truth): the test proves or refutes what is claimed",
    "issue(number, about): the test shows an issue of Cilium's tracker",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("niclab", "niclab: which NIC carries what")
    for name in ("datapath", "control-plane", "cilium", "nics"):
        group.addoption(f"--{name}", **shared(name))
    group.addoption("--topology", metavar="NAME", help="run on this topology instead of the tests' own")
    group.addoption("--artifacts", metavar="DIR", default="artifacts", help="where records go (default: artifacts)")
    for name, help_ in (
        ("keep", "let the labs of failed tests stand, and say how to enter them"),
        ("pause-on-error", "stop at a failed lab test until Enter is pressed"),
        ("pcap", "write a pcapng for every lab test, not only failed ones"),
        ("mutations", "take away what scenarios stand on (fails_without): each must fail"),
    ):
        group.addoption(f"--{name}", action="store_true", help=help_)


def pytest_configure(config: pytest.Config) -> None:
    for marker in _MARKERS:
        config.addinivalue_line("markers", marker)
    if config.getoption("--pause-on-error") and getattr(config.option, "numprocesses", None):
        raise pytest.UsageError("--pause-on-error needs the terminal, which workers do not have: leave out -n")
    config.stash[_LABS] = Labs(config)
    config.pluginmanager.register(config.stash[_LABS], "niclab-labs")
    config.pluginmanager.register(config.stash[_LABS].marks, "niclab-marks")
    if config.getoption("--mutations"):
        config.pluginmanager.register(Mutations(config), "niclab-mutations")


def _uses_lab(item: pytest.Item) -> bool:
    """Whether the test gets its `lab` from here: a repository may have a `lab` fixture of its own, which means
    something else unless it asks for this one."""
    return niclab_lab.__name__ in getattr(item, "fixturenames", ())


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A lab test runs once per Cilium version it is about."""
    if not _uses_lab(metafunc.definition) or "cilium_version" in _parametrized(metafunc):
        return
    from niclab.request import default_versions

    marker = metafunc.definition.get_closest_marker("cilium")
    chosen = metafunc.config.getoption("--cilium") or default_versions(metafunc.config.stash[_LABS].decided)
    if marker:
        chosen = [version for version in chosen if version in marker.args]
    if "cilium_version" not in metafunc.fixturenames:
        metafunc.fixturenames.append("cilium_version")
    metafunc.parametrize("cilium_version", chosen, scope="session", ids=[f"cilium-{version}" for version in chosen])


def _parametrized(metafunc: pytest.Metafunc) -> set[str]:
    names: set[str] = set()
    for mark in metafunc.definition.iter_markers("parametrize"):
        argument = mark.args[0] if mark.args else mark.kwargs["argnames"]
        names |= {name.strip() for name in (argument.split(",") if isinstance(argument, str) else argument)}
    return names


@pytest.fixture
def lab(niclab_lab: Lab) -> Lab:
    """A lab of the test's topology, settings and Cilium version; shared, so leave it as it was."""
    return niclab_lab


@pytest.fixture
def niclab_lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """What `lab` returns. A test that gets its lab from this plugin has this name among its fixtures."""
    from niclab.topology import stacking

    labs = request.config.stash[_LABS]
    session, marks = labs.session, labs.marks
    try:
        wanted = session.request(request.node)
        marks.require(request.node, stacking.needs(wanted.topology))
        if lacking := wanted.lacks_kubernetes:
            marks.skip(request.node, {"kubernetes": f"agents are told of {lacking} by its objects"})
        lab = session.begin(request.node)
    except LabError as error:
        raise pytest.fail.Exception(f"the lab could not be built:\n{error}", pytrace=False) from None
    yield lab
    session.end(request.node)


class Labs:
    """The hooks that know this run's labs. Only what a run has lab tests for is made, and loaded."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._lacks_userns = False
        self.marks = Marks()
        self.shared_run: str | None = getattr(config, "workerinput", {}).get("niclab_run")
        """What the processes of one run under pytest-xdist have in common; None for a run of one process."""

    @cached_property
    def session(self) -> Session:
        """This run's state, made when the first lab test is met."""
        from niclab.plugin.session import Session

        return Session(self._config, self.decided, lambda: self.shared_run, mutated)

    @property
    def _met(self) -> Session | None:
        session: Session | None = vars(self).get("session")
        return session

    @cached_property
    def decided(self) -> Decided:
        """Who forwards pod packets in this run, and why."""
        from niclab.request import decide

        try:
            return decide(self._config.getoption("--datapath"))
        except LabError as error:
            raise pytest.UsageError(str(error)) from None

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        if any(map(_uses_lab, items)):
            self.session.group(items, _uses_lab)

    def pytest_report_collectionfinish(self, items: list[pytest.Item]) -> str | None:
        return f"niclab: {self.decided.words}" if any(map(_uses_lab, items)) else None

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Only now is it known whether a lab test will run, and only lab tests need root: without it the same pytest is
        run again in a user namespace. A worker of pytest-xdist cannot do that; it ends, and the controller does it."""
        if self._config.option.collectonly or not any(map(_uses_lab, session.items)):
            return
        from niclab.host.userns import is_able

        if not is_able() and hasattr(self._config, "workerinput"):
            self._lacks_userns = True
            pytest.exit("niclab: the lab's tests need a user namespace", returncode=pytest.ExitCode.USAGE_ERROR)
        self._enter_userns()
        try:
            self.session.check_options()
        except LabError as error:
            raise pytest.UsageError(str(error)) from None

    def _enter_userns(self) -> None:
        """Run the same pytest again in a user namespace, unless this is root; kept labs want one that outlives it."""
        from niclab.host.userns import enter_pytest

        try:
            enter_pytest(self._config, persistent=bool(self._config.getoption("--keep")))
        except LabError as error:
            raise pytest.UsageError(str(error)) from None

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Workers of pytest-xdist write into one directory, which the first that needs it makes."""
        self.shared_run = self.shared_run or secrets.token_hex(8)
        node.workerinput["niclab_run"] = self.shared_run

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        if getattr(node, "workeroutput", {}).get("niclab_lacks_userns"):
            self._enter_userns()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> None:
        """Skip what is about labs of another kind; the lab stands already, so that the record says what was skipped."""
        wanted = {key: value for mark in item.iter_markers("only") for key, value in mark.kwargs.items()}
        if wanted and _uses_lab(item) and isinstance(item, pytest.Function):
            lab = item.funcargs[niclab_lab.__name__]
            if any(getattr(lab, key) != value for key, value in wanted.items()):
                pytest.skip("only with " + " ".join(f"--{k.replace('_', '-')} {v}" for k, v in wanted.items()))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if self._met:
            self._met.report(item, report)
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Takes the records off the reports: they come back from every worker, also from one that crashes later."""
        record = getattr(report, "niclab", None)
        # Records and matrices show scenarios as they are, not mutations of them.
        if (
            record is not None
            and not hasattr(self._config, "workerinput")
            and not self._config.getoption("--mutations")
        ):
            self.session.absorb(record)

    def pytest_assertrepr_compare(self, op: str, left: object, right: object) -> list[str] | None:
        """A comparison of NICs that fails shows the way the packet took."""
        if "niclab.flow.verdict" not in sys.modules:  # then nothing compared is ours
            return None
        from niclab.flow.verdict import compared

        return compared(op, left, right)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for line in self._met.summary() if self._met else ():
            terminalreporter.write_line(line)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        if self._lacks_userns:
            worker: Any = self._config
            worker.workeroutput["niclab_lacks_userns"] = True  # pytest-xdist's
        if self._met:
            self._met.finish()

    def pytest_unconfigure(self) -> None:
        if self._met:
            self._met.close()


_LABS: pytest.StashKey[Labs] = pytest.StashKey()
