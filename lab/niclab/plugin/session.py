"""What one pytest run knows: the labs that stand, the flows measured, and where the record goes.

A lab is built when a test first asks for it, and shared by tests that ask for the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from niclab.check import load
from niclab.check.amend import Amendments, amend
from niclab.cilium.version import DEFAULT_VERSION
from niclab.errors import LabError
from niclab.flow.verdict import FlowResult
from niclab.host import ledgers, userns
from niclab.lab import Lab, datapath_class
from niclab.plugin.marks import claims, parameters
from niclab.report import pcapng, run, summary
from niclab.report.matrix import row
from niclab.report.record import Record
from niclab.request import DatapathName, Decided, Request, choose, resolve
from niclab.settings import Settings, effective
from niclab.settings.formats import load as load_settings
from niclab.topology.model import NicKind

if TYPE_CHECKING:
    from niclab.agents.controlplane import Kind


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a test asks for; tests with equal wants share a lab."""

    topology: str
    settings: Settings
    version: str
    amendments: Amendments

    def without(self, keys: Collection[str]) -> object:
        """All but these settings: equal for labs that one lab can be after another when it is given these anew."""
        others = tuple(sorted((key, value) for key, value in self.settings.values.items() if key not in keys))
        return self.topology, self.version, self.amendments, others, self.settings.per_node

    @classmethod
    def by(cls, item: pytest.Item, *, topology: str | None, nics: NicKind | None = None) -> Wanted:
        """What a test's marks ask for, on `topology` when that is given, with `nics` where no mark says otherwise.

        Raises LabError.
        """
        version = str(parameters(item).get("cilium_version", DEFAULT_VERSION))
        return cls(_topology(item, topology), _settings(item), version, Amendments(nics=nics).merged(_amendments(item)))


def _topology(item: pytest.Item, chosen: str | None) -> str:
    """A path when the topology is in, or in `topologies/` of, a directory of the tests'; else the name, for `load`."""
    name: object = chosen
    if chosen is None:
        naming = (mark.args for mark in item.iter_markers("topology") if mark.args or not mark.kwargs)
        names = next(naming, ("two-nic",))
        name = names[0] if len(names) == 1 else None
    if not isinstance(name, str | Path):
        raise LabError("the topology mark takes one name or path", fix='e.g. @pytest.mark.topology("two-nic")')
    places = [Path.cwd(), item.config.rootpath] if chosen is not None else _above(item)
    is_path = Path(name).suffix in (".yaml", ".yml", ".json") or "/" in str(name)
    path = _first_file(places, name if is_path else f"topologies/{name}.yaml")
    return str(path or name)


def _amendments(item: pytest.Item) -> Amendments:
    """What a test's topology and nics marks say beside the name; marks add up, the test's own last."""
    amendments = Amendments()
    for mark in reversed(list(item.iter_markers("nics"))):
        try:
            amendments = amendments.merged(Amendments.of({"nics": mark.args[0] if mark.args else None}))
        except ValueError as error:
            fix = 'e.g. @pytest.mark.nics("veth")'
            raise LabError("the nics mark takes physical or veth", why=str(error), fix=fix) from None
    for mark in reversed(list(item.iter_markers("topology"))):
        try:
            amendments = amendments.merged(Amendments.of(mark.kwargs))
        except ValueError as error:
            fix = 'e.g. @pytest.mark.topology("two-nic", routes=["all: 10.9.0.0/16 via 10.0.1.254"])'
            raise LabError("the topology mark does not take this", why=str(error), fix=fix) from None
    return amendments


def _settings(item: pytest.Item) -> Settings:
    """What a test's settings marks say; marks add up, the test's own last. Raises LabError, InputError."""
    parts: list[Settings] = []
    for mark in reversed(list(item.iter_markers("settings"))):
        for given in mark.args:
            if isinstance(given, Settings):
                parts.append(given)
            elif not isinstance(given, str | Path) or "=" in str(given):
                raise LabError(
                    f"the settings mark takes files, Settings or flags, not {given!r}",
                    fix='e.g. @pytest.mark.settings("values.yaml", routing="tunnel", devices="eth1")',
                )
            elif path := _first_file(_above(item), given):
                parts.append(load_settings(path))
            else:
                raise LabError(
                    f"there is no settings file {str(given)!r}",
                    why=f"looked in {', '.join(map(str, _above(item)))}",
                    fix="put it beside the test, or in a directory above it",
                )
        parts.append(Settings.of(**mark.kwargs))
    return effective(parts)


def _above(item: pytest.Item) -> list[Path]:
    """The directories a test's files may be in: its own and those above, up to the root of the tests."""
    places, root = list(item.path.parents), item.config.rootpath
    return places[: places.index(root) + 1] if root in places else places


def _first_file(places: Iterable[Path], name: str | Path) -> Path | None:
    return next((place / name for place in places if (place / name).is_file()), None)


class Pool:
    """The labs that stand, the least recently used ones first, and what each was asked for, resolved once."""

    def __init__(self, datapath: DatapathName, control_plane: Kind | None, put_away: Callable[[Lab], None]) -> None:
        self._datapath: DatapathName = datapath
        self._control_plane = control_plane
        self._put_away = put_away
        self._class = datapath_class(datapath)
        self._labs: OrderedDict[Wanted, Lab] = OrderedDict()
        self._topology = cache(load)
        self.request = cache(self._resolved)
        """What is asked for, in full, resolved once. Raises LabError."""

    def order(self, wanted: Wanted, file: object) -> tuple[object, object]:
        """What should run together: labs that can become each other over all files, others within a file."""
        if self._class.CHANGEABLE:
            return wanted.without(self._class.CHANGEABLE), wanted
        return file, (file, wanted)

    def _resolved(self, wanted: Wanted) -> Request:
        return resolve(
            amend(self._topology(wanted.topology), wanted.amendments),
            wanted.settings,
            datapath=self._datapath,
            cilium_version=wanted.version,
            control_plane=self._control_plane,
        )

    def lab(self, wanted: Wanted) -> Lab:
        """A lab as it is wanted. Raises LabError."""
        if wanted in self._labs:
            self._labs.move_to_end(wanted)
            return self._labs[wanted]
        request = self.request(wanted)
        lab = self._changed(wanted)
        if lab is None:
            while len(self._labs) >= self._class.LABS_AT_ONCE:
                self._close(self._labs.popitem(last=False)[1])
            lab = Lab.of(request)
        self._labs[wanted] = lab
        return lab

    def _changed(self, wanted: Wanted) -> Lab | None:
        """A standing lab whose agents only had to be given other devices: faster than a new one."""
        for known, lab in self._labs.items():
            if replace(known, settings=wanted.settings) == wanted and lab.can_change_to(wanted.settings):
                del self._labs[known]
                try:
                    lab.change(wanted.settings)
                except BaseException:
                    self._close(lab)
                    raise
                return lab
        return None

    def _close(self, lab: Lab) -> None:
        try:
            self._put_away(lab)
        finally:
            lab.close()

    def discard(self, lab: Lab) -> None:
        """Take one lab down: whoever wants it next gets a new one."""
        for wanted in [wanted for wanted, known in self._labs.items() if known is lab]:
            self._close(self._labs.pop(wanted))

    def close(self) -> None:
        """Take every lab down, also when taking down one of them fails."""
        with contextlib.ExitStack() as undo:
            while self._labs:
                undo.callback(self._close, self._labs.popitem()[1])


_BEGUN: pytest.StashKey[tuple[Lab, int, int]] = pytest.StashKey()
_RECORD: pytest.StashKey[dict[str, Any]] = pytest.StashKey()
_ORDER: pytest.StashKey[int] = pytest.StashKey()
_WANTED: pytest.StashKey[Wanted] = pytest.StashKey()


class Session:
    """State of one pytest process. Under pytest-xdist each worker has one, and the controller, which collects."""

    def __init__(
        self,
        config: pytest.Config,
        decided: Decided,
        shared_run: Callable[[], str | None],
        mutated: Callable[[pytest.Item, Wanted], Wanted],
    ) -> None:
        """`shared_run`: what the processes of a run under pytest-xdist have in common; None for one process.

        `mutated`: what an item is to have, which wants this by its marks.
        """
        self._mutated = mutated
        self._config = config
        self._decided = decided
        self._shared_run = shared_run
        self._is_worker = hasattr(config, "workerinput")
        self._artifacts = Path(config.invocation_params.dir, config.getoption("--artifacts"))
        self._pool = Pool(decided.datapath, config.getoption("--control-plane"), self._put_away)
        self.close = self._pool.close
        self._records: list[dict[str, Any]] = []
        self._directory: Path | None = None
        self._kept: list[str] = []
        self._complaint = ""

    def check_options(self) -> None:
        """Raises LabError for what would make every lab test fail."""
        for version in self._config.getoption("--cilium") or (None,):
            choose(self._decided, version, self._config.getoption("--control-plane"))

    def group(self, items: list[pytest.Item], uses_lab: Callable[[pytest.Item], bool]) -> None:
        """Bring tests of the same lab together, in the order in which labs are first asked for.

        Within each file; over all files where the agents of a lab can be given other settings in place, for to build a
        lab of theirs takes seconds.
        """
        first: dict[object, int] = {}
        places: dict[pytest.Item, tuple[int, ...]] = {}
        for number, item in enumerate(items):
            first.setdefault(item.path, number)
            keys: tuple[object, object] = (item.path, item)
            if uses_lab(item):
                with contextlib.suppress(LabError):  # said when the test runs
                    keys = self._pool.order(self._wanted(item), item.path)
            places[item] = tuple(first.setdefault(key, number) for key in keys)
        items.sort(key=places.__getitem__)
        for number, item in enumerate(items):
            item.stash[_ORDER] = number

    def _wanted(self, item: pytest.Item) -> Wanted:
        if _WANTED not in item.stash:
            chosen = self._config.getoption
            wanted = Wanted.by(item, topology=chosen("--topology"), nics=chosen("--nics"))
            item.stash[_WANTED] = self._mutated(item, wanted)
        return item.stash[_WANTED]

    def request(self, item: pytest.Item) -> Request:
        """What the test's marks ask for, in full. Raises LabError."""
        return self._pool.request(self._wanted(item))

    def begin(self, item: pytest.Item) -> Lab:
        """A lab as the test's marks ask for. Raises LabError."""
        lab = self._pool.lab(self._wanted(item))
        lab.captures.clear()
        item.stash[_BEGUN] = (lab, len(lab.flows), len(lab.commands))
        item.stash[_RECORD] = {}
        return lab

    def _put_away(self, lab: Lab) -> None:
        """Before a lab is taken down: keep what real agents logged and said."""
        if datapath_class(lab.datapath).KEEPS_LOGS:
            lab.collect(self.directory / f"{lab.topology.name}-cilium-{lab.version}-{lab.id}")

    def end(self, item: pytest.Item) -> None:
        """Write the test's record: it goes with the report of its teardown."""
        lab, start, commands = item.stash[_BEGUN]
        results = lab.flows[start:]
        if lab.changed_after is not None or not all(result.measurement.holds for result in results):
            self._pool.discard(lab)  # its agents remember, or its taps are blind: of no use to the next test
        answered = [claim.folded() for claim in claims(item)]
        ran = [command.folded() for command in lab.commands[commands:]]
        if not (results or ran or answered):
            return
        first = lab.settings.for_node(next(iter(lab.topology.nodes)))
        own = {f"{node.name}: {key}": value for node in lab.settings.per_node for key, value in node.values.items()}
        distinct = {**lab.settings.values, **own, **self._wanted(item).amendments.described}
        # The matrix shows settings, not what a test did to the lab.
        shown = results if lab.changed_after is None else results[: max(0, lab.changed_after - start)]
        devices = (",".join(first.devices) or "(unset)") + ("" if lab.request.nics == "physical" else " on veth")
        cells = row(lab.title, devices, shown, distinct).folded()
        item.stash[_RECORD].update(
            {
                "test": item.nodeid,
                "line": item.location[1],
                "order": item.stash.get(_ORDER, 0),
                **json.loads(Record.of(lab, results).to_json()),
                "claims": answered,
                "commands": ran,
                "matrix": cells,
            }
        )

    def report(self, item: pytest.Item, report: pytest.TestReport) -> None:
        """A report of one of the test's phases: what JUnit gets; of a failed one all that helps to find out why."""
        if _BEGUN not in item.stash:
            return
        lab, start, _ = item.stash[_BEGUN]
        results = lab.flows[start:]
        record = item.stash[_RECORD]
        if report.when == "call":
            properties = _properties(lab, results)
            item.user_properties += properties  # JUnit's are taken from the last phase's report
            report.user_properties += properties
        if report.when == "call" or report.failed:
            record["outcome"] = report.outcome
        if report.failed or (report.when == "call" and self._config.getoption("--pcap")):
            report.sections.append(("niclab pcapng", self._capture(item, lab, record)))
        if report.failed:
            self._failed(lab, results, report, record)
        if report.when == "teardown":
            item.stash[_RECORD] = {}
            vars(report)["niclab"] = record  # pytest-xdist hands over whatever a report holds

    def _capture(self, item: pytest.Item, lab: Lab, record: dict[str, Any]) -> str:
        """Where the capture is, or why there is none."""
        if not lab.captures:
            return "none: the test ended before a frame was captured"
        path = self.directory / f"{_file_name(item.nodeid)}.pcapng"
        try:
            pcapng.write(lab, path, exist_ok=True)
        except LabError as error:
            return str(error)
        record["pcapng"] = path.name
        return str(path)

    def _failed(self, lab: Lab, results: list[FlowResult], report: pytest.TestReport, record: dict[str, Any]) -> None:
        shown = {line.removeprefix("E").strip() for line in report.longreprtext.splitlines()}
        unshown = [flow for flow in results if not shown.issuperset(map(str.strip, flow.explanation.splitlines()))]
        if unshown:
            text = "\n".join(f"{flow.name}: {flow.outcome}\n{flow.explanation}" for flow in unshown)
            report.sections.append(("niclab flows", text))
        enter = [f"{host}: {lab.exec_line(host)}" for host in lab.namespaces]
        if self._config.getoption("--keep"):
            lab.keep()
            record["kept"] = lab.id
            report.sections.append(("niclab lab kept", "\n".join([*enter, f"niclab down {lab.id}"])))
        if self._config.getoption("--pause-on-error"):
            self._pause(report, enter)

    def _pause(self, report: pytest.TestReport, lines: list[str]) -> None:
        manager: Any = self._config.pluginmanager.getplugin("capturemanager")
        if manager is not None:
            manager.suspend(in_=True)
        try:
            print(f"\n{report.longreprtext}\n", *lines, "the lab stands; press Enter to go on", sep="\n", flush=True)
            input()
        except EOFError:
            print("no terminal to wait for: going on")
        finally:
            if manager is not None:
                manager.resume()

    @property
    def directory(self) -> Path:
        """This run's own directory under --artifacts; older runs' are never overwritten. Raises LabError."""
        if self._directory is None:
            self._directory = run.directory(self._artifacts, self._shared_run())
        return self._directory

    def absorb(self, record: dict[str, Any]) -> None:
        """Take a test's record over from its report."""
        if record.get("kept") and record["kept"] not in self._kept:
            self._kept.append(record["kept"])
        if "test" in record:
            self._records.append(record)

    def finish(self) -> None:
        """At the end of the run: take down every lab and write the record."""
        self.close()
        if self._is_worker:
            return
        self._records.sort(key=lambda record: int(record["order"]))
        try:
            if self._records:
                tests = [{key: value for key, value in test.items() if key != "order"} for test in self._records]
                run.write(self.directory / "run.json", datapath=self._decided.datapath, tests=tests)
        except LabError as error:
            self._complaint = str(error)
        if shared := self._shared_run():
            run.end_sharing(self._artifacts, shared)
        if not self._kept:
            userns.end_if_unused(ledgers.labs)

    def summary(self) -> Iterator[str]:
        """What the terminal shows at the end."""
        if self._is_worker:
            return
        if self._records:
            yield ""
            yield from summary.screen(self._records, width=max(100, shutil.get_terminal_size().columns))
            yield from self._warnings()
            path = self.directory / "run.json"
            path = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
            yield self._complaint or f"record: {path} (every matrix: niclab matrix {path})"
        for lab_id in self._kept:
            yield f"kept: niclab inspect --id {lab_id} · niclab down {lab_id}"

    def _warnings(self) -> Iterator[str]:
        """What was noticed about the settings of all tests, and about the datapath: each thing once."""
        if self._decided.not_agents:
            yield f"warning: not real agents but the built-in model: {self._decided.not_agents}"
        for line in dict.fromkeys(line for record in self._records for line in record["warnings"]):
            yield f"warning: {line}"


def _properties(lab: Lab, results: list[FlowResult]) -> list[tuple[str, object]]:
    lines = {
        "reported": [f"{node}: {reported}" for node, reported in lab.reported.items()],
        "expected": [f"{flow.name}: {' or '.join(map(str, flow.expected)) or 'not sent'}" for flow in results],
        "observed": [
            f"{flow.name}: {flow.verdict} by {', '.join(flow.transmitted_by) or 'no NIC'}" for flow in results
        ],
    }
    return [(f"niclab.{name}", "; ".join(each)) for name, each in lines.items()]


def _file_name(nodeid: str) -> str:
    name = re.sub(r"[^A-Za-z0-9.=-]+", "-", nodeid).strip("-")
    if len(name) <= 150:
        return name
    return f"{name[:140]}-{hashlib.sha256(nodeid.encode()).hexdigest()[:8]}"
