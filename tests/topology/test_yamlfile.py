"""YAML with lines: data, the line of each field, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from niclab.errors import InputError, Problem
from niclab.topology.yamlfile import dotted, load_with_lines, read_text


def problems(text: str) -> tuple[Problem, ...]:
    with pytest.raises(InputError) as caught:
        load_with_lines(text, "in.yaml")
    return caught.value.problems


def test_documents_and_lines() -> None:
    documents, line_of = load_with_lines(
        "# a comment\nnodes:\n  - name: a\n    mtu: 9000\n  - name: b\n---\nx: 1\n", "f"
    )
    assert documents == [{"nodes": [{"name": "a", "mtu": 9000}, {"name": "b"}]}, {"x": 1}]
    assert line_of(0, ()) == 2
    assert line_of(0, ("nodes",)) == 2
    assert line_of(0, ("nodes", 0, "mtu")) == 4
    assert line_of(0, ("nodes", 1)) == 5
    assert line_of(1, ("x",)) == 7


def test_a_field_that_is_not_there_has_its_nearest_ancestors_line() -> None:
    _, line_of = load_with_lines("a: 1\nb:\n  c: [1,\n      2]\n", "f")
    assert line_of(0, ("b", "missing")) == 2
    assert line_of(0, ("b", "c", 1)) == 4
    assert line_of(0, ("b", "c", 7, "x")) == 3
    assert line_of(0, ("a", "below", "a", "scalar")) == 1
    assert line_of(3, ("a",)) == 0


def test_no_document_and_an_empty_one() -> None:
    assert load_with_lines("", "f")[0] == []
    assert load_with_lines("# only a comment\n", "f")[0] == []
    assert load_with_lines("---\n---\na: 1\n", "f")[0] == [None, {"a": 1}]


def test_json_is_yaml_with_tabs_too() -> None:
    documents, line_of = load_with_lines('{\n\t"a": {\n\t\t"b": ["x\\ty"]\n\t}\n}\n', "f.json")
    assert documents == [{"a": {"b": ["x\ty"]}}]
    assert line_of(0, ("a", "b", 0)) == 3


def test_a_byte_order_mark_is_no_content() -> None:
    assert load_with_lines("\ufeffa: 1\n", "f")[0] == [{"a": 1}]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2024-01-02", "2024-01-02"),
        ("2024-01-02T03:04:05Z", "2024-01-02T03:04:05Z"),
        ("10:20:30:40:50:51", "10:20:30:40:50:51"),
        ("1:30.5", "1:30.5"),
        ("0x10", 16),
        ("8472", 8472),
        ("1.5", 1.5),
        ("yes", True),
        ("'yes'", "yes"),
        ("fd00::1", "fd00::1"),
        ("", None),
    ],
)
def test_scalars(text: str, value: object) -> None:
    assert load_with_lines(f"a: {text}\n", "f")[0] == [{"a": value}]


def test_an_anchor_a_merge_and_their_lines() -> None:
    text = "base: &b\n  mtu: 1500\n  up: true\none:\n  <<: *b\n  mtu: 9000\n"
    documents, line_of = load_with_lines(text, "f")
    assert documents == [{"base": {"mtu": 1500, "up": True}, "one": {"mtu": 9000, "up": True}}]
    assert line_of(0, ("one", "mtu")) == 6
    assert line_of(0, ("one", "up")) == 3


def test_every_duplicate_is_found_with_both_lines() -> None:
    found = problems("a: 1\nb:\n  c: 1\n  c: 2\na: 3\n")
    assert [(p.line, p.field) for p in found] == [(4, "b.c"), (5, "a")]
    assert "first in line 3" in found[0].why
    assert str(found[0]).startswith("in.yaml:4: b.c: the key is given twice")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: [1, 2\nb: 3\n", 2),
        ("a: 1\n b: 2\n", 2),
        ("a:\n\tb: 1\n", 2),
        ("a: 'x\n", 2),
        ("a: !!python/object:os.system x\n", 1),
        ("a: 1\nb: !secret x\n", 2),
        ("a: *nowhere\n", 1),
        ("? [1, 2]\n: x\n{}: y\n", 1),
        ("a: b: c\n", 1),
        ("a: 1\nb: \x00\n", 2),
        ("a: 1\n\n\x07", 3),
        ("&a [*a]\n", 1),
        ("a: &x\n  b: *x\n", 2),
        ("[" * 100_000, 1),
        ("a: 1\nb: " + "{x: " * 5000 + "1" + "}" * 5000, 2),
        ("- " * 3000 + "x", 1),
    ],
)
def test_what_is_refused_says_where(text: str, line: int) -> None:
    found = problems(text)
    assert found
    assert found[0].line == line
    assert found[0].why
    assert found[0].fix


def test_aliases_do_not_multiply() -> None:
    laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    laughs += "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9))
    assert "aliases" in problems(laughs)[0].why


def test_an_endless_number_is_a_clear_error() -> None:
    assert problems("a: " + "9" * 5000)[0].fix == "quote the value"


def test_reading_files(tmp_path: Path) -> None:
    good = tmp_path / "good.yaml"
    good.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_text(good) == "a: 1\n"
    bad = tmp_path / "bad.yaml"
    bad.write_bytes(b"a: \xff\xfe")
    for path, why in ((tmp_path / "none", "no such file"), (tmp_path, "directory"), (bad, "UTF-8")):
        with pytest.raises(InputError, match=why):
            read_text(path)


def test_dotted() -> None:
    assert dotted(()) == ""
    assert dotted(("spec", "devices", 1, "name")) == "spec.devices[1].name"
    assert dotted((0, "a")) == "[0].a"


_keys = st.text(st.characters(min_codepoint=97, max_codepoint=122), min_size=1, max_size=5)
_leaves = st.none() | st.booleans() | st.integers() | st.text(st.characters(min_codepoint=32, max_codepoint=126))
_data = st.recursive(_leaves, lambda v: st.lists(v, max_size=4) | st.dictionaries(_keys, v, max_size=4), max_leaves=12)


@given(st.dictionaries(_keys, _data, min_size=1, max_size=4), st.sampled_from([None, 2, "\t"]))
def test_any_json_document_is_read_as_itself(data: dict[str, Any], indent: int | str | None) -> None:
    text = json.dumps(data, indent=indent)
    documents, line_of = load_with_lines(text, "f.json")
    assert documents == [data]
    lines = text.splitlines()
    for key in data:
        assert f'"{key}"' in lines[line_of(0, (key,)) - 1]


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_with_a_problem(text: str) -> None:
    try:
        load_with_lines(text, "f")
    except InputError as error:
        assert error.problems


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("- 1\n" * 13_000_000, "longer than 4 MiB"),
        ("- 1\n" * 200_000, "more than 100000 values"),
        ("[" + "{a: 1}, " * 50_000 + "]", "more than 100000 values"),
    ],
    ids=["50 MB", "many values", "many mappings"],
)
def test_a_file_that_is_too_large_is_refused_before_it_is_read(text: str, why: str) -> None:
    assert why in problems(text)[0].why


@pytest.mark.parametrize("size", [50_000_000, None], ids=["50 MB", "endless"])
def test_no_more_than_the_largest_file_is_read(tmp_path: Path, size: int | None) -> None:
    path = Path("/dev/zero") if size is None else tmp_path / "large.yaml"
    if size is not None:
        with path.open("wb") as file:
            file.truncate(size)
    with pytest.raises(InputError, match="longer than 4 MiB"):
        read_text(path)


def test_lines_are_looked_up_not_searched() -> None:
    """A lookup among fifty thousand keys is as fast as among ten: all of them are asked for here."""
    text = "".join(f"k{number}: 1\n" for number in range(45_000))
    _, line_of = load_with_lines(text, "f")
    assert [line_of(0, (f"k{number}",)) for number in range(45_000)] == list(range(1, 45_001))
