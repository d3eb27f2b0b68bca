"""What differs between versions is written in one place, is read by the model, and is documented."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from niclab.cilium.version import VERSIONS, Behaviour, Version, behaviours, changes
from niclab.cli import COULD_NOT_RUN, PASS, main
from niclab.cli.behaviours import markdown

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "lab" / "niclab"
TABLE = PACKAGE / "cilium" / "version.py"
OTHERS = {str(path.relative_to(PACKAGE)): path.read_text() for path in sorted(PACKAGE.rglob("*.py")) if path != TABLE}
HINT = re.compile(r"\(1, |Version|\.minor|\.major")


def is_number(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, int)


def is_version(node: ast.expr) -> bool:
    """`(1, 19)`, `Version(1, 19)`, `Version.parse("1.19")`."""
    if isinstance(node, ast.Tuple):
        return len(node.elts) == 2 and all(map(is_number, node.elts)) and ast.literal_eval(node.elts[0]) == 1
    words = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
    made = words.split(".")[0] == "Version" and isinstance(node, ast.Call)
    return made and isinstance(node, ast.Call) and all(isinstance(one, ast.Constant) for one in node.args)


def is_minor(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and node.attr in ("minor", "major") and "version" in ast.unparse(node.value)


def compared(path: str, source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            if any(map(is_version, sides)) or (any(map(is_minor, sides)) and any(map(is_number, sides))):
                yield f"{path}:{node.lineno}: {ast.unparse(node)}"


def test_versions_are_compared_with_numbers_in_one_place_only() -> None:
    hinted = {path: text for path, text in OTHERS.items() if HINT.search(text)}
    assert [line for path, text in hinted.items() for line in compared(path, text)] == []


@pytest.mark.parametrize(
    "text",
    [
        "node.version < (1, 19)",
        "(1, 17) <= version",
        "version >= Version(1, 20)",
        'version in (Version.parse("1.19"), 3) or version == Version.parse("1.19")',
        "node.version.minor > 18",
    ],
)
def test_such_a_comparison_is_seen(text: str) -> None:
    assert HINT.search(text)
    assert list(compared("x", text))


def names(source: str) -> Iterator[str]:
    """The behaviours that are asked for by a name which stands there: `version.has("skips-fib")`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "has":
            yield from (one.value for one in node.args if isinstance(one, ast.Constant) and isinstance(one.value, str))


def test_only_behaviours_of_the_table_are_asked_for() -> None:
    asked = {name for text in OTHERS.values() for name in names(text)}
    assert len(asked) > 50
    assert asked - behaviours().keys() == set()


def test_every_behaviour_is_read_by_the_model() -> None:
    text = "\n".join(OTHERS.values())
    assert [name for name in behaviours() if f'"{name}"' not in text] == []


@pytest.mark.parametrize("behaviour", behaviours().values(), ids=behaviours())
def test_a_behaviour_is_a_difference_that_is_known(behaviour: Behaviour) -> None:
    assert {behaviour.holds(version) for version in VERSIONS} == {True, False}
    assert behaviour.words != behaviour.otherwise and not (behaviour.words + behaviour.otherwise).endswith(".")
    assert behaviour.source and behaviour.known and behaviour.span
    for version in VERSIONS:
        within = (behaviour.since or VERSIONS[0]) <= version and (behaviour.until is None or version < behaviour.until)
        assert version.has(behaviour.name) is within
        assert behaviour.words_in(version) == (behaviour.words if within else behaviour.otherwise)


@pytest.mark.parametrize(("before", "after"), [(one, other) for one in VERSIONS for other in VERSIONS])
def test_changes_are_what_holds_at_one_end_only(before: Version, after: Version) -> None:
    found = changes(before, after)
    assert found == changes(after, before)
    assert set(found) == {one for one in behaviours().values() if one.words_in(before) != one.words_in(after)}


def test_the_document_is_what_the_table_says() -> None:
    committed = (ROOT / "docs" / "behaviours.md").read_text()
    assert committed == markdown(behaviours().values()), "python scripts/docs.py"


def test_an_upgrade_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["behaviours", "--from", "1.18", "--to", "1.20", "-o", "json"]) == PASS
    document = json.loads(capsys.readouterr().out)
    assert (document["from"], document["to"]) == ("1.18", "1.20")
    rows = {row["behaviour"]: row for row in document["behaviours"]}
    assert rows["skips-fib"]["until"] == "1.19" and rows["skips-fib"]["since"] is None
    assert "without a FIB lookup" in rows["skips-fib"]["before"] and "routes" in rows["skips-fib"]["after"]
    assert "direct-routing-always" not in rows, "the same in both"


@pytest.mark.parametrize("words", [["--from", "1.18"], ["--to", "1.20"], ["--from", "1.20", "--to", "1.18"], []])
def test_as_a_table_for_people(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["behaviours", *words]) == PASS
    assert "measured on" in capsys.readouterr().out


def test_an_upgrade_to_the_same_version_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["behaviours", "--from", "1.19", "--to", "v1.19.3"]) == PASS
    assert "0 behaviours differ" in capsys.readouterr().out
    assert main(["behaviours", "--from", "1.19", "--to", "1.19", "-o", "markdown"]) == PASS


@pytest.mark.parametrize(("words", "option"), [(["--from", "1.9"], "--from"), (["--to", "soon"], "--to")])
def test_a_version_that_nobody_knows(words: list[str], option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["behaviours", *words]) == COULD_NOT_RUN
    assert option in capsys.readouterr().err
