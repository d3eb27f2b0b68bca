"""What one pytest run knows: the labs that stand, the flows measured, and where the record goes."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.lab import Lab
from lab.prediction import World
from lab.record import capture
from lab.record.matrix import Cell, Row, render, row
from lab.record.model import Trace
from lab.settings import LAB_BASELINE, Settings
from lab.topology import Topology, load

_STANDING = 4
"""How many labs stand at once: enough for tests that alternate, few enough for a small machine."""

_BEGUN: pytest.StashKey[tuple[Lab, int]] = pytest.StashKey()
Key = tuple[str, Settings, str]


class Session:
    """State of one pytest run; a worker of pytest-xdist has its own, and hands its rows to the controller's."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._labs: OrderedDict[Key, Lab] = OrderedDict()
        self._topologies: dict[str, Topology] = {}
        self._rows: list[Row] = []
        self._records: list[dict[str, Any]] = []
        self._directory: Path | None = None
        self._kept: list[str] = []

    @property
    def is_worker(self) -> bool:
        return hasattr(self._config, "workerinput")

    def group(self, items: list[pytest.Item]) -> None:
        """Within each file bring tests of the same lab together, in the order in which their labs are first asked for."""
        first: dict[tuple[Path, Key], int] = {}
        places: dict[pytest.Item, tuple[Path, int]] = {}
        for number, item in enumerate(items):
            uses_lab = "lab" in getattr(item, "fixturenames", ())
            place = first.setdefault((item.path, self._key(item)), number) if uses_lab else number
            places[item] = (item.path, place)
        files = {path: number for number, path in enumerate(dict.fromkeys(item.path for item in items))}
        items.sort(key=lambda item: (files[places[item][0]], places[item][1]))

    def _key(self, node: Any) -> Key:
        marker = node.get_closest_marker("topology")
        name = self._config.getoption("--topology") or (str(marker.args[0]) if marker else "two-nic")
        settings = LAB_BASELINE
        for mark in reversed(list(node.iter_markers("settings"))):
            for given in mark.args:
                settings = settings.merged(given)
            settings = settings.merged(Settings.of(**mark.kwargs))
        version = str(node.callspec.params.get("cilium_version", "1.20")) if hasattr(node, "callspec") else "1.20"
        return name, settings, version

    def lab_for(self, request: pytest.FixtureRequest) -> Lab:
        """A lab as the test's marks ask for. Raises LabError."""
        key = name, settings, version = self._key(request.node)
        if key in self._labs:
            self._labs.move_to_end(key)
            return self._labs[key]
        while len(self._labs) >= _STANDING:
            self._labs.popitem(last=False)[1].close()
        if name not in self._topologies:
            self._topologies[name] = load(name)
        made = Lab.deploy(
            self._topologies[name], settings, datapath=self._config.getoption("--datapath"), cilium_version=version
        )
        self._labs[key] = made
        return made

    def begin(self, item: pytest.Item, lab: Lab) -> None:
        lab.forget_captures()
        item.stash[_BEGUN] = (lab, len(lab.flows))

    def end(self, item: pytest.Item, lab: Lab) -> None:
        """Take down the test's flows: rows of the matrix, and the record."""
        results = lab.flows[item.stash[_BEGUN][1] :]
        if not results:
            return
        first = lab.settings.for_node(next(iter(lab.topology.nodes)))
        self._rows.append(row(lab.title, ",".join(first.devices) or "(unset)", results))
        self._records.append({"test": item.nodeid, **json.loads(Trace.of(lab, results).to_json())})

    def report(self, item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport) -> None:
        """Properties for JUnit; for a failed test the capture, the lines to paste, and the pause."""
        begun = item.stash.get(_BEGUN, None)
        if begun is None or call.when != "call":
            return
        lab, start = begun
        results = lab.flows[start:]
        report.user_properties += [
            ("niclab.said", "; ".join(f"{node}: {said}" for node, said in lab.said.items())),
            ("niclab.expected", _expected(lab, results)),
            (
                "niclab.observed",
                "; ".join(f"{r.name}: {r.verdict} by {', '.join(r.transmitted_by) or 'no NIC'}" for r in results),
            ),
        ]
        if report.failed or self._config.getoption("--pcap"):
            path = self.directory / f"{_file_name(item.nodeid)}.pcapng"
            capture.write(lab, path, exist_ok=True)
            report.sections.append(("niclab capture", str(path)))
        if report.failed:
            lines = [f"{host}: {lab.exec_line(host)}" for host in lab.namespaces]
            if self._config.getoption("--keep"):
                lab.keep()
                self._kept.append(lab.id)
                report.sections.append(("niclab lab kept", "\n".join([*lines, f"niclab down {lab.id}"])))
            if self._config.getoption("--pause-on-error"):
                self._pause(report, lines)

    def _pause(self, report: pytest.TestReport, lines: list[str]) -> None:
        manager = self._config.pluginmanager.getplugin("capturemanager")
        suspended = manager.global_and_fixture_disabled() if manager else contextlib.nullcontext()
        with suspended, contextlib.suppress(EOFError):
            print(f"\n{report.longreprtext}\n", *lines, sep="\n")
            input("the lab stands; press Enter to go on ")

    @property
    def directory(self) -> Path:
        """This run's own directory under --artifacts; older runs' are never overwritten."""
        if self._directory is None:
            given = getattr(self._config, "workerinput", {}).get("niclab_directory")
            self._directory = Path(given) if given else _new_directory(Path(self._config.getoption("--artifacts")))
            self._directory.mkdir(parents=True, exist_ok=True)
        return self._directory

    def absorb(self, handed: dict[str, Any]) -> None:
        """Take over what a worker measured."""
        self._rows += [
            Row(table, label, tuple((name, Cell(text, loud)) for name, text, loud in cells))
            for table, label, cells in handed.get("rows", [])
        ]
        self._records += handed.get("records", [])

    def finish(self) -> None:
        """At the end of the run: take down every lab; write the record, or as a worker hand it over."""
        self.close()
        if self.is_worker:
            cells = [
                (one.table, one.label, [(name, cell.text, cell.loud) for name, cell in one.cells]) for one in self._rows
            ]
            self._config.workeroutput["niclab"] = {"rows": cells, "records": self._records}  # type: ignore[attr-defined]  # pytest-xdist sets it
        elif self._records:
            run = {"version": 1, "datapath": self._config.getoption("--datapath"), "tests": self._records}
            (self.directory / "run.json").write_text(json.dumps(run, indent=1) + "\n")

    def close(self) -> None:
        while self._labs:
            self._labs.popitem()[1].close()

    def summary(self) -> Iterator[str]:
        """What the terminal shows at the end."""
        if self.is_worker or not self._records:
            return
        yield ""
        yield from render(_sorted(self._rows), width=self._width()).splitlines()
        yield ""
        yield f"record: {os.path.relpath(self.directory / 'run.json')}"
        for lab_id in self._kept:
            yield f"kept: niclab inspect --id {lab_id} · niclab down {lab_id}"

    def _width(self) -> int:
        reporter = self._config.pluginmanager.getplugin("terminalreporter")
        return max(100, reporter._tw.fullwidth) if reporter else 100


def _expected(lab: Lab, results: list[Any]) -> str:
    world = World(lab.decisions)
    return "; ".join(
        f"{result.name}: {' or '.join(map(str, world.predict(result.flow))) or 'not sent'}" for result in results
    )


def _sorted(rows: list[Row]) -> list[Row]:
    """Tables by name; rows in the order in which they were measured."""
    return sorted(rows, key=lambda one: one.table)


def _file_name(nodeid: str) -> str:
    name = re.sub(r"[^A-Za-z0-9.=-]+", "-", nodeid.rpartition("/")[2]).strip("-")
    return name[:150]


def _new_directory(parent: Path) -> Path:
    """The first of `run-1`, `run-2` … that is not there yet; made here, so that two runs never share one."""
    parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        path = parent / f"run-{number}"
        try:
            path.mkdir()
        except FileExistsError:
            number += 1
            continue
        return path
