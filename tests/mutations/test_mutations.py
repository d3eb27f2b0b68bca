"""Every scenario fails when what it stands on is taken away; one that does not would prove nothing.

An item per mutation: `pytest tests/mutations -k devices_matrix`. The scenarios of all selected mutations are run at
once, in a few processes of `pytest --mutations`: most of their time is waiting.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import scenarios
from niclab.plugin.mutations import NUMBER, mutations_of

from tests.support.arena import able

SCENARIOS = Path(scenarios.__file__).parent
PROCESSES = 4
SLOW = {"test_bgp": 4}
"""Files whose scenarios take longer than others', and how many times as long."""


@dataclass(frozen=True)
class Case:
    """One mutation of one scenario."""

    module: str
    function: str
    number: int


Outcome = tuple[str, str]
"""passed, failed, error or skipped; and why."""


def every_scenario() -> Iterator[tuple[str, str, list[pytest.Mark]]]:
    """(module, function, marks) of every scenario there is."""
    for path in sorted(SCENARIOS.glob("test_*.py")):
        module = importlib.import_module(f"scenarios.{path.stem}")
        for name, scenario in vars(module).items():
            if name.startswith("test_"):
                yield path.stem, name, list(getattr(scenario, "pytestmark", ()))


def cases() -> Iterator[Any]:
    for module, function, marks in every_scenario():
        for number, mutation in enumerate(mutations_of(marks)):
            words = f"{module.removeprefix('test_')}-{function.removeprefix('test_')} {mutation}"
            yield pytest.param(Case(module, function, number), id=words.replace("::", ":"))


@pytest.mark.parametrize(("module", "function", "marks"), [pytest.param(*one, id=one[1]) for one in every_scenario()])
def test_a_scenario_says_what_it_stands_on(module: str, function: str, marks: list[pytest.Mark]) -> None:
    """With `fails_without`; only a scenario that runs on nothing but real agents cannot be tried here."""
    only_real = any(mark.name == "only" and mark.kwargs.get("datapath") == "cilium" for mark in marks)
    assert bool(mutations_of(marks)) != only_real, f"{module}.py: nothing says what {function} stands on"


@pytest.fixture(scope="session")
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Mapping[Case, list[Outcome]]:
    """What became of each selected mutation, in every row that it is about."""
    parameters = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    selected = {each["case"] for each in parameters if isinstance(each.get("case"), Case)}
    # pytest makes its directory for all of these when the first is asked for: not by two threads at once.
    jobs = [(part, tmp_path_factory.mktemp("mutations")) for part in parts(selected)]
    with ThreadPoolExecutor(PROCESSES) as pool:
        runs = pool.map(lambda job: run(*job), jobs)
        return {case: rows for run in runs for case, rows in run.items()}


def parts(selected: Iterable[Case]) -> Iterator[list[str]]:
    """The selected scenarios as test ids, a list for each process; a file is not divided, for its tests share labs."""
    files: defaultdict[str, list[Case]] = defaultdict(list)
    for case in selected:
        files[case.module].append(case)
    lists: list[list[Case]] = [[] for _ in range(PROCESSES)]
    loads = [0] * PROCESSES
    for module, together in sorted(files.items(), key=lambda each: -len(each[1]) * SLOW.get(each[0], 1)):
        least = loads.index(min(loads))
        lists[least] += together
        loads[least] += len(together) * SLOW.get(module, 1)
    for together in filter(None, lists):
        yield sorted({f"{SCENARIOS / case.module}.py::{case.function}" for case in together})


def run(scenarios: list[str], directory: Path) -> Mapping[Case, list[Outcome]]:
    """`pytest --mutations` of these scenarios."""
    report = directory / "report.xml"
    command = [sys.executable, "-m", "pytest", *scenarios, "--mutations", "--datapath", "builtin"]
    command += ["--cilium", "1.18", "--cilium", "1.20", "--artifacts", str(directory), "--junitxml", str(report), "-q"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED), done.stdout + done.stderr
    outcomes: defaultdict[Case, list[Outcome]] = defaultdict(list)
    for test in ET.parse(report).iter("testcase"):
        number = test.find(f"properties/property[@name='{NUMBER}']")
        assert number is not None
        function = test.attrib["name"].partition("[")[0]
        case = Case(test.attrib["classname"].rpartition(".")[2], function, int(number.attrib["value"]))
        outcomes[case].append(outcome(test))
    return outcomes


def outcome(test: ET.Element) -> Outcome:
    for kind in ("error", "failure", "skipped"):
        if (child := test.find(kind)) is not None:
            return kind, child.attrib["message"] if kind == "skipped" else child.text or child.attrib["message"]
    return "passed", ""


@able
@pytest.mark.timeout(900)
@pytest.mark.parametrize("case", [*cases()])
def test_without_its_cause_a_scenario_fails(case: Case, outcomes: Mapping[Case, list[Outcome]]) -> None:
    """By an assertion of its own, in a lab that was built, was measured, and did what is predicted."""
    rows = outcomes[case]
    assert rows
    wrong = [why for kind, why in rows if kind in ("error", "failure")]
    assert not wrong, "\n".join(wrong)
    skipped = [why for kind, why in rows if kind == "skipped"]
    if skipped:
        assert all(why.startswith("needs ") for why in skipped), skipped
        pytest.skip(skipped[0])
