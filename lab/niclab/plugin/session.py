"""What one pytest run knows: the labs that stand, the flows measured, and where the record goes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from niclab.errors import LabError
from niclab.flow.verdict import FlowResult
from niclab.host import ledgers, userns
from niclab.lab import Lab, datapath_class
from niclab.plugin.marks import claims
from niclab.plugin.mutations import mutated
from niclab.plugin.pool import Pool, Wanted
from niclab.report import pcapng, run, summary
from niclab.report.matrix import row
from niclab.report.record import Record
from niclab.request import Decided, Request, choose

_BEGUN: pytest.StashKey[tuple[Lab, int, int]] = pytest.StashKey()
_RECORD: pytest.StashKey[dict[str, Any]] = pytest.StashKey()
_ORDER: pytest.StashKey[int] = pytest.StashKey()
_WANTED: pytest.StashKey[Wanted] = pytest.StashKey()


class Session:
    """State of one pytest process. Under pytest-xdist each worker has one, and the controller, which collects."""

    def __init__(self, config: pytest.Config, decided: Decided, shared_run: Callable[[], str | None]) -> None:
        """`shared_run`: what the processes of a run under pytest-xdist have in common; None for one process."""
        self._config = config
        self._decided = decided
        self._shared_run = shared_run
        self._is_worker = hasattr(config, "workerinput")
        self._artifacts = Path(config.invocation_params.dir, config.getoption("--artifacts"))
        self._pool = Pool(decided.datapath, config.getoption("--control-plane"), self._put_away)
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
            item.stash[_WANTED] = mutated(item, Wanted.by(item, topology=self._config.getoption("--topology")))
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
        cells = row(lab.title, ",".join(first.devices) or "(unset)", shown, distinct).folded()
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

    def close(self) -> None:
        self._pool.close()

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
