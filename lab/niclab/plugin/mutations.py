"""`@fails_without(...)`: what a scenario stands on. `pytest --mutations` takes it away, and the scenario must fail.

A scenario that passes all the same proves nothing. One that fails for another reason proves nothing either: a mutation
counts only if the lab was built, the flows were measured, and an assertion of the scenario's own failed.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import tempfile
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import EllipsisType
from typing import TYPE_CHECKING, Any, cast

import pytest

from niclab.errors import LabError
from niclab.plugin.marks import parameters

if TYPE_CHECKING:
    from niclab.check.amend import Amendments
    from niclab.lab import Lab
    from niclab.plugin.session import Wanted
    from niclab.settings import Settings

LISTS = ("routes", "rules", "sysctls", "node_ips")
"""What the topology mark adds to a topology, in lists of lines."""
NUMBER = "niclab.mutation"
"""Property of an item's reports: which of the scenario's mutations it is."""


@dataclass(frozen=True)
class Mutation:
    """A scenario's cause taken away. The fields are described at `fails_without`."""

    cause: str
    taken: Mapping[str, Any]
    instead: Mapping[str, Any]
    at: str
    version: str
    number: int = 0
    """Which of the scenario's mutations it is, counted from the decorator nearest to it."""

    def __str__(self) -> str:
        return f"without {self.cause}" + (f" at {self.at}" if self.at else "")

    @property
    def id(self) -> str:
        words = re.sub(r"[^\w=.,:+ -]+", "", f"without {self.cause}")
        return f"{self.number}: {words[:60].strip()}"

    def applied(self, wanted: Wanted, directory: Path) -> Wanted:
        """The lab a scenario asks for, without the cause. Edited topologies are written below `directory`.

        Raises LabError when there is nothing to take away.
        """
        return replace(
            wanted,
            settings=self._settings(wanted.settings),
            amendments=self._amendments(wanted.amendments),
            topology=self._topology(wanted.topology, directory),
        )

    def _settings(self, settings: Settings) -> Settings:
        from niclab.settings import LAB_BASELINE, Settings
        from niclab.settings.flags import Values

        values = dict(settings.values)
        for key, value in Settings.of(**_flags(self.taken)).values.items():
            if values.get(key) != value:
                raise self._nothing(f"{key} is {values.get(key)!r}, not {value!r}")
            del values[key]
            if key in LAB_BASELINE.values:
                values[key] = LAB_BASELINE.values[key]
        left = Settings(Values(values), settings.per_node, settings.warnings, settings.base)
        return left.merged(self.instead.get("settings", Settings())).merged(Settings.of(**_flags(self.instead)))

    def _amendments(self, amendments: Amendments) -> Amendments:
        changed: dict[str, Any] = {}
        for kind in LISTS:
            lines: tuple[str, ...] = getattr(amendments, kind)
            taken = self.taken.get(kind, ())
            taken = lines if isinstance(taken, EllipsisType) else tuple(taken)
            if kind in self.taken and (not taken or not set(taken) <= set(lines)):
                raise self._nothing(f"its {kind} are {', '.join(lines) or 'none'}")
            changed[kind] = (*(line for line in lines if line not in taken), *self.instead.get(kind, ()))
        if "default_routes" in self.taken:
            if amendments.default_routes:
                raise self._nothing("the topology's default routes are there")
            changed["default_routes"] = True
        if "nics" in self.taken and amendments.nics != self.taken["nics"]:
            raise self._nothing(f"its NICs are {amendments.nics or 'as the topology has them'}")
        if "nics" in self.taken or "nics" in self.instead:
            changed["nics"] = self.instead.get("nics")
        return replace(amendments, **changed)

    def _topology(self, topology: str, directory: Path) -> str:
        edits: Mapping[str, str] = self.instead.get("topology", {})
        if not edits:
            return topology
        from niclab.topology.file import find

        path = find(topology)
        text = path.read_text()
        for old, new in edits.items():
            if old not in text:
                raise self._nothing(f"{path} does not say {old!r}")
            text = text.replace(old, new)
        edited = directory / hashlib.sha256(text.encode()).hexdigest()[:16] / path.name
        edited.parent.mkdir(exist_ok=True)
        edited.write_text(text)
        return str(edited)

    def _nothing(self, why: str) -> LabError:
        return LabError(f"there is nothing to take away: {self}", why=why, fix="say what the scenario has")


def _flags(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Those keywords that are settings of Cilium's."""
    others = (*LISTS, "default_routes", "nics", "topology", "call", "run", "settings")
    return {key: value for key, value in given.items() if key not in others}


def fails_without(
    cause: str = "", /, *, instead: object = None, at: str = "", version: str = "", **taken: Any
) -> pytest.MarkDecorator:
    """Say what a scenario stands on. Repeatable: each is a *mutation*, a lab in which the scenario must fail.

    `pytest --mutations` runs every scenario once for each of its mutations, and each passes when the scenario fails
    by an assertion of its own. Keywords name what is taken away; the scenario must have it:

        @fails_without(devices="eth1")                             a setting of Cilium's: the lab's baseline is left
        @fails_without(devices="eth0,eth1", instead="eth0")        another value of it
        @fails_without(rules=...)                                  all rules that the topology mark adds; likewise
                                                                   routes=..., sysctls=..., node_ips=...
        @fails_without(routes=["node1: …"], instead=["node1: …"])  some of them, and what is there instead
        @fails_without(default_routes=False)                       that the topology mark drops the default routes
        @fails_without(nics="veth")                                that the nodes are containers
        @fails_without(topology="mtu: 1400", instead="mtu: 1500")  text of the topology's file; `instead`: or nothing
        @fails_without(call="link_down")                           a method of Lab or of `lab.bgp(…)` does nothing

    What the scenario has without saying so is named in words, and `instead` says what there is in its place, as
    Settings or by the same keywords. `run` is a command on a host, before the scenario:

        @fails_without("the node IPs on eth0", instead={"node_ips": ["node1: 10.0.1.1"]})
        @fails_without("BPF host routing", instead={"enable_host_legacy_routing": True})
        @fails_without("eth1 in two places", instead={"topology": {"mtu: 1400": "mtu: 1500", "f1": "f0"}})
        @fails_without("NICs without pod addresses", instead={"run": "node1: ip address add 10.244.1.9/32 dev eth1"})

    `at`: the row of a parametrised scenario, as pytest's id shows it beside the version; by default every row must
    fail. `version`: the version of Cilium; by default the newest that the scenario runs on.
    """
    replaced = _replaced(taken, instead)
    unknown = [key for key in (*taken, *replaced) if not key.isidentifier()]
    if unknown or not (cause or taken) or not (taken or replaced):
        raise TypeError(f"fails_without takes a cause away: {cause!r}, {taken}, instead={instead!r}")
    return pytest.mark.fails_without(Mutation(cause or _words(taken), taken, replaced, at, version))


def _replaced(taken: Mapping[str, Any], instead: object) -> Mapping[str, Any]:
    """What is there instead, by keyword."""
    if isinstance(taken.get("topology"), str) and isinstance(instead, str | None):
        return {"topology": {taken["topology"]: instead or ""}}
    if instead is None:
        return {}
    if isinstance(instead, Mapping):
        return dict(instead)
    if hasattr(instead, "per_node"):
        return {"settings": instead}
    if len(taken) != 1:
        raise TypeError(f"instead={instead!r} is in the place of one thing, not of {', '.join(taken) or 'nothing'}")
    return dict.fromkeys(taken, instead)


def _words(taken: Mapping[str, Any]) -> str:
    """A cause that nobody put into words: `devices=eth1`, `rules`, `link_down`, `mtu: 1400`."""
    plain = {key: " ".join(str(value).split()) for key, value in taken.items() if key in ("call", "topology")}
    return ", ".join(plain.get(key) or (key if key in LISTS else f"{key}={value}") for key, value in taken.items())


def mutations_of(marks: Iterable[pytest.Mark]) -> list[Mutation]:
    """The mutations among a test's marks, the decorator nearest to it first."""
    mutations = (mark.args[0] for mark in marks if mark.name == "fails_without")
    return [replace(mutation, number=number) for number, mutation in enumerate(mutations)]


def mutation_of(item: pytest.Item) -> Mutation | None:
    """The mutation an item is run with; None in an ordinary run."""
    mutation = parameters(item).get("mutation")
    return mutation if isinstance(mutation, Mutation) else None


EDITED: pytest.StashKey[Path] = pytest.StashKey()
"""Where a run writes edited topologies."""


def mutated(item: pytest.Item, wanted: Wanted) -> Wanted:
    """The lab an item is to have: in a run of mutations without the scenario's cause. Raises LabError."""
    mutation = mutation_of(item)
    return wanted if mutation is None else mutation.applied(wanted, item.config.stash[EDITED])


class Mutations:
    """The part of the plugin that `--mutations` turns on."""

    def __init__(self, config: pytest.Config) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="niclab-mutations-")
        config.stash[EDITED] = Path(self._directory.name)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        mutations = mutations_of(metafunc.definition.iter_markers("fails_without"))
        if mutations:
            metafunc.fixturenames.append("mutation")
            metafunc.parametrize("mutation", mutations, ids=[mutation.id for mutation in mutations])

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        newest = _newest(items)
        chosen = {item: mutation for item in items if (mutation := _chosen(item, newest))}
        named = {(_function(item), mutation.number) for item, mutation in chosen.items()}
        versions = config.getoption("--cilium")
        missing: dict[object, str] = {}
        for item in items:
            mutation = mutation_of(item)
            if mutation is None or (versions and mutation.version not in ("", *versions)):
                continue
            if (scenario := (_function(item), mutation.number)) not in named:
                missing[scenario] = f"{scenario[0][1]}: {mutation}, version {mutation.version or 'any'}"
        if missing and not any("[" in argument for argument in config.args):
            raise pytest.UsageError("no row or version of the scenario is meant by: " + "; ".join(missing.values()))
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = chosen
        for item, mutation in chosen.items():
            item.user_properties.append((NUMBER, str(mutation.number)))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None]:
        mutation = mutation_of(item)
        with pytest.MonkeyPatch.context() as patch:
            if mutation is not None and "call" in mutation.taken:
                for holder in _holders(mutation.taken["call"]):
                    patch.setattr(holder, mutation.taken["call"], lambda *_, **__: contextlib.nullcontext())
            if mutation is not None and "run" in mutation.instead:
                host, _, words = str(mutation.instead["run"]).partition(": ")
                lab = cast("Lab", cast("pytest.Function", item).funcargs["lab"])
                lab.run(host, *words.split())
                lab.changed_after = len(lab.flows)  # of no use to the next test
            yield

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """A scenario that fails as it must is a test that passes, and nobody needs its capture."""
        report = yield
        mutation = mutation_of(item)
        if mutation is None or report.when != "call" or report.skipped:
            return report
        complaint = _complaint(call)
        report.outcome = "failed" if complaint else "passed"
        report.longrepr = f"{item.nodeid}\n{mutation}: {complaint}" if complaint else None
        return report

    def pytest_unconfigure(self) -> None:
        self._directory.cleanup()


def _complaint(call: pytest.CallInfo[None]) -> str:
    """Why the scenario did not fail as it must; empty when it did."""
    if call.excinfo is None:
        return "the scenario passes all the same: strengthen it"
    if not call.excinfo.errisinstance(AssertionError):
        return f"the scenario broke off with {call.excinfo.exconly()}"
    from niclab.flow.verdict import Unmeasured

    return f"nothing was measured: {call.excinfo.value}" if call.excinfo.errisinstance(Unmeasured) else ""


def _holders(call: str) -> tuple[type, ...]:
    """The classes with a method of that name. Raises AttributeError."""
    from niclab.agents.frr.speakers import Speaker
    from niclab.lab import Lab

    holders = tuple(each for each in (Lab, Speaker) if hasattr(each, call))
    if not holders:
        raise AttributeError(f"fails_without(call={call!r}): neither a lab nor lab.bgp(…) has such a method")
    return holders


def _chosen(item: pytest.Item, newest: Mapping[object, str]) -> Mutation | None:
    """An item's mutation, if it is about this row and this version."""
    mutation, version = mutation_of(item), str(parameters(item).get("cilium_version", ""))
    if mutation is None or version != (mutation.version or newest[_function(item)]):
        return None
    row = item.name.partition("[")[2].removesuffix("]")
    row = row.replace(mutation.id, "").replace(f"cilium-{version}", "").strip("-")
    return mutation if mutation.at in ("", row) else None


def _function(item: pytest.Item) -> tuple[Path, str]:
    return item.path, item.nodeid.partition("[")[0]


def _newest(items: list[pytest.Item]) -> Mapping[object, str]:
    """Test function → the newest version of Cilium it is run on."""
    from niclab.cilium.version import Version

    # The first of those that are alike: sorting keeps their order, and what comes later counts.
    versions = [(_function(item), str(parameters(item).get("cilium_version", ""))) for item in reversed(items)]
    return dict(sorted(versions, key=lambda each: Version.parse(each[1]) if each[1] else Version(0, 0)))
