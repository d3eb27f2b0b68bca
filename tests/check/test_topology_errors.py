"""What is wrong in a topology file is reported with file, line, field, why and how to fix it.

Each NAME.yaml in tests/golden/topology-errors is one mistake, NAME.txt what is printed about it. To add one, drop the
YAML file in and run NICLAB_GOLDEN=update pytest on this file.
"""

from __future__ import annotations

import contextlib
import difflib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from niclab.check import loads
from niclab.errors import InputError, LabError
from niclab.topology.file import find

from tests.support.golden_files import DIRECTORY, assert_golden
from tests.support.topologies import BASE, CLOUD, GATED, POOLED, SERVED, SPEAKING

BASES = (BASE, SERVED, GATED, POOLED, CLOUD, SPEAKING)
MISTAKES = sorted(path.stem for path in (DIRECTORY / "topology-errors").glob("*.yaml"))
"""The mistakes' names."""
ELSEWHERE = {"pod-name-twice", "subnet-outside-the-vpc", "subnet-without-its-gateway"}
"""Mistakes that show at another line than the one that was changed."""


def reported(text: str) -> str:
    return str(refused(text))


def refused(text: str) -> InputError:
    with pytest.raises(InputError) as caught:
        loads(text, "lab.yaml")
    return caught.value


def mistaken(name: str) -> str:
    return (DIRECTORY / "topology-errors" / f"{name}.yaml").read_text()


@pytest.mark.parametrize("name", MISTAKES)
def test_every_mistake_is_explained(name: str) -> None:
    """Whoever makes the mistake reads nothing else."""
    assert_golden(f"topology-errors/{name}.txt", f"{reported(mistaken(name))}\n")


def test_no_explanation_is_without_its_mistake() -> None:
    assert sorted(path.stem for path in (DIRECTORY / "topology-errors").glob("*.txt")) == MISTAKES
    assert len(MISTAKES) > 180


@pytest.mark.parametrize("name", [name for name in MISTAKES if name not in ELSEWHERE])
def test_the_line_is_one_that_was_changed(name: str) -> None:
    """A problem stands in what was changed of the base; where something was only taken away, anywhere."""
    text = mistaken(name)
    changes = min((_changes(base, text) for base in BASES), key=lambda lines: sum(map(len, lines)))
    problems = refused(text).problems
    lines = {problem.line for problem in problems}
    near = {line for change in changes for line in range(change.start - 1, change.stop + 3)}
    assert lines & near or not any(changes), (lines, changes)
    assert all(problem.why and problem.fix and problem.file == "lab.yaml" for problem in problems)


def _changes(base: str, text: str) -> list[range]:
    """The lines of the text that the base does not have, counted from 1."""
    codes = difflib.SequenceMatcher(None, base.splitlines(), text.splitlines(), autojunk=False).get_opcodes()
    return [range(begin + 1, end + 1) for tag, _, _, begin, end in codes if tag != "equal"]


def test_an_external_ip_of_a_pool() -> None:
    text = SERVED.replace("    pod_cidrs:", "    pools: {disks: '192.0.{n}.0/24'}\n    pod_cidrs:")
    words = reported(text.replace("port: 80", "port: 80, external_ips: 192.0.2.80"))
    assert words.splitlines()[0].endswith("192.0.2.80 is inside node2's pod CIDR 192.0.2.0/24")


def test_the_base_is_right() -> None:
    assert loads(BASE, "lab.yaml").name == "base"
    assert [*loads(SERVED, "lab.yaml").services] == ["web"]


def test_what_a_range_multiplies_is_said_once() -> None:
    text = BASE.replace("node[1-2]", "node[1-90]").replace("dev eth0", "dev eth5")
    with pytest.raises(InputError) as caught:
        loads(text, "lab.yaml")
    assert [problem.line for problem in caught.value.problems] == [18]
    assert "and so for 89 more" in caught.value.problems[0].why


def test_every_problem_is_found_at_once_in_the_files_order() -> None:
    text = (
        BASE.replace("fabric: f1\n", "fabric: f7\n").replace("pod1 -> ext1", "pod1 -> ext2").replace("p1: {", "lo: {")
    )
    with pytest.raises(InputError) as caught:
        loads(text, "lab.yaml")
    assert [problem.line for problem in caught.value.problems] == [9, 15, 32]


@pytest.mark.parametrize("key", ["~", "5", "1.5", "true", "2001-01-01", "[a]", "!!binary aGk=", "''"])
def test_a_key_may_be_anything(key: str) -> None:
    """Beside `name`, as a node, as a NIC; with a value and with a range that nothing gives a number to."""
    for text in (f"{BASE}{key}: {{}}\n", f"{BASE}{key}: ['{{n}}']\n", f"{BASE}{key}: {{[1-2]: 'a[1-2]'}}\n"):
        assert refused(text).problems
    for place in ("  ext1:", "      eth1:\n"):
        indent = " " * (len(place) - len(place.lstrip()))
        assert refused(BASE.replace(place, f"{indent}{key}: {{a: '{{n}}'}}\n{place}")).problems


def test_of_very_many_problems_the_first_are_reported() -> None:
    flows = "".join(f"  - a{number} -> b\n" for number in range(20_000))
    assert len(refused(BASE.replace("  - pod1 -> pod2\n", flows)).problems) == 200
    assert len(refused(BASE.replace("  - pod1 -> pod2\n", "  - 1\n" * 20_000)).problems) == 200


def test_a_topology_that_is_not_there() -> None:
    with pytest.raises(LabError) as caught:
        find("two-nick")
    assert caught.value.what == "no topology is named 'two-nick'"
    assert caught.value.fix.startswith("did you mean 'two-nic'?")
    for odd in ("x" * 5000, "a\0b"):
        with pytest.raises(LabError):
            find(odd)


_LINES = BASE.splitlines(keepends=True)
_JUNK = st.sampled_from(
    ["{n}", "[1-3]", "[3-1]", "~", "[]", "{}", "- ", ": ", '"', "true", "-1", "0x", "&a", "*a", "é", "\0"]
)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.lists(_JUNK | st.text(max_size=3), min_size=1, max_size=4))
def test_nothing_but_an_input_error_is_raised(seed: int, junk: list[str]) -> None:
    chance = random.Random(seed)
    lines = list(_LINES)
    for piece in junk:
        at = chance.randrange(len(lines))
        line = lines[at]
        cut = chance.randrange(max(len(line), 1))
        end = min(len(line), cut + chance.randrange(6))
        lines[at] = chance.choice((line[:cut] + piece + line[end:], line[: line.find(":") + 1] + f" {piece}\n", ""))
    with contextlib.suppress(InputError):
        loads("".join(lines), "lab.yaml")


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
        max_leaves=6,
    ),
    st.sampled_from(
        ["fabrics", "nodes", "externals", "flows", "name", "node", "nics", "pods", "routes", "sysctls", "rules"]
    ),
)
def test_a_field_may_hold_anything(value: object, field: str) -> None:
    import json

    nic = {"fabric": "f0", "addresses": ["10.0.0.1/24"]}
    node: dict[str, object] = {"nics": {"eth0": nic}, "pod_cidrs": "10.244.0.0/24", "pods": ["a"]}
    document: dict[str, object] = {"name": "x", "fabrics": {"f0": {}}, "nodes": {"node1": node}}
    if field in ("nics", "pods", "routes", "sysctls", "rules"):
        node[field] = value
    elif field == "node":
        document["nodes"] = {"node1": value}
    else:
        document[field] = value
    with contextlib.suppress(InputError):
        loads(json.dumps(document), "lab.json")
