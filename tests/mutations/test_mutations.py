"""Every scenario fails when its cause is taken away; one that does not would prove nothing."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import scenarios

from tests.mutations.causes.paths import PATHS
from tests.mutations.causes.services import SERVICES
from tests.mutations.causes.stories import ONLY_REAL, STORIES
from tests.mutations.causes.table import TWISTS
from tests.mutations.causes.twist import Table
from tests.support.arena import able

SCENARIOS = Path(scenarios.__file__).parent
STACKED = "test_bond_and_vlan.py"
BGP = "test_bgp.py"
PARTS: dict[str, tuple[Table, ...]] = {
    "stacked": ({STACKED: PATHS[STACKED]},),
    "flat": (
        {BGP: STORIES[BGP]},
        {name: twists for name, twists in PATHS.items() if name != STACKED},
        SERVICES,
        {name: twists for name, twists in STORIES.items() if name != BGP},
    ),
}
"""What some kernels lack, and the rest. A part's tables are gone through at once: most of a twist is waiting."""


def every_scenario() -> Iterator[str]:
    """`FILE::FUNCTION` of every scenario there is."""
    for path in sorted(SCENARIOS.glob("test_*.py")):
        module = importlib.import_module(f"scenarios.{path.stem}")
        yield from (f"{path.name}::{name}" for name in vars(module) if name.startswith("test_"))


def twisted() -> set[str]:
    return {f"{name}::{twist.scenario}" for name, twists in TWISTS.items() for twist in twists}


def test_every_scenario_has_a_cause() -> None:
    """Write down what a new scenario stands on, in tests/causes."""
    missing = set(every_scenario()) - twisted() - set(ONLY_REAL)
    assert not missing, f"nothing says what these stand on: {', '.join(sorted(missing))}"


def test_nothing_is_said_of_scenarios_that_are_not_there() -> None:
    assert twisted() | set(ONLY_REAL) <= set(every_scenario())
    assert not twisted() & set(ONLY_REAL)


@able
@pytest.mark.timeout(300)
@pytest.mark.parametrize("part", PARTS)
def test_without_its_cause_a_scenario_fails(part: str, tmp_path: Path) -> None:
    """By an assertion of its own, in a lab that was built, was measured, and did what is predicted."""
    tables = PARTS[part]
    places = [tmp_path / str(number) for number, _ in enumerate(tables)]
    with ThreadPoolExecutor(len(tables)) as pool:
        became = {test: phases for found in pool.map(_run, tables, places) for test, phases in found.items()}
    for name, twists in (named for table in tables for named in table.items()):
        for number, twist in enumerate(twists):
            place = re.compile(rf"{re.escape(name)}::{twist.scenario}\[{number}-")
            assert any(map(place.search, became)), f"{name}: no test is {twist.scenario} with {twist.only!r}"
    lacking = {test: phases["setup"][2] for test, phases in became.items() if phases["setup"][0] == "skipped"}
    wrong = {test: why for test, phases in became.items() if test not in lacking and (why := _complaint(phases))}
    assert not wrong, "\n".join(f"{test}: {why}" for test, why in wrong.items())
    assert all(why.startswith("needs ") for why in lacking.values()), lacking
    if lacking:
        told = ", ".join(f"{test.partition('::')[2].partition('[')[0]} {why}" for test, why in lacking.items())
        pytest.skip(f"{len(became) - len(lacking)} failed as they must, {len(lacking)} cannot run here: {told}")


def _run(table: Table, directory: Path) -> dict[str, dict[str, tuple[str, str, str]]]:
    """Test → phase → what became of it: outcome, kinds of the exception, what it said."""
    directory.mkdir()
    told = directory / "became.json"
    command = [sys.executable, "-m", "pytest", *(str(SCENARIOS / name) for name in table)]
    command += [
        "-p",
        "tests.mutations.causes.plugin",
        "--twisted",
        str(told),
        "--artifacts",
        str(directory / "artifacts"),
    ]
    command += ["--datapath", "builtin", "--cilium", "1.18", "--cilium", "1.20", "--tb=no", "-q"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert told.is_file(), done.stdout + done.stderr
    found: dict[str, dict[str, tuple[str, str, str]]] = json.loads(told.read_text())
    return found


def _complaint(phases: dict[str, tuple[str, str, str]]) -> str:
    """Why a test did not fail as it must; empty when it did."""
    for name in ("setup", "teardown"):
        if phases[name][0] != "passed":
            return f"its {name} failed: {phases[name][2]}"
    outcome, kinds, reported = phases["call"]
    if outcome == "passed":
        return "it passes all the same: strengthen it"
    if "AssertionError" not in kinds.split("/"):
        return f"it broke off with {kinds.split('/')[0]}: {reported}"
    return f"nothing was measured: {reported}" if "Unmeasured" in kinds else ""
