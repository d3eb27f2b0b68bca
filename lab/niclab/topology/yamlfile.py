"""YAML and JSON files with line numbers: documents as plain data, and the line of every field in them."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import yaml
from yaml.reader import Reader

from niclab.errors import InputError, Problem, Problems

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from yaml import SafeLoader as _BaseLoader
else:
    # libyaml is about ten times faster, which a topology of a hundred nodes notices.
    _BaseLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Field = tuple[str | int, ...]
"""The way to a field: mapping keys and sequence indices from the document's root."""

# A topology of a thousand nodes and the ConfigMap with every flag are far below each of these.
_MAX_BYTES = 4 * 2**20
_MAX_VALUES = 100_000
_MAX_NESTING = 100
_TAG = "tag:yaml.org,2002:"


LineOf = Callable[[int, Field], int]
"""The line of a document's field, counted from 1; its nearest ancestor's when it is not there; 0 without the document.
"""


def read_text(path: Path) -> str:
    """The text of an input file; every reason why it cannot be read is an InputError."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)  # no more: what is named may be endless
        refuse_long(len(content), str(path))
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        why, fix = f"not UTF-8 text (byte {error.start})", "save the file as UTF-8"
    except IsADirectoryError:
        why, fix = "this is a directory", "name a file in it"
    except FileNotFoundError:
        why, fix = "no such file", "check the path"
    except (OSError, ValueError) as error:
        why, fix = getattr(error, "strerror", None) or str(error), "make the file readable"
    raise InputError([Problem(str(path), 0, "", why, fix)])


def data_lines(package: str, name: str) -> list[str]:
    """The lines of one of a package's data files, without comments and empty ones."""
    text = resources.files(package).joinpath("data", name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def load_with_lines(text: str, name: str) -> tuple[list[object], LineOf]:
    """The documents of a YAML (or JSON) text, and where each field stands; `name` is the file's name in errors.

    A mapping key given twice, an alias that contains itself and a tag that is not plain data are errors.
    """
    refuse_long(len(text), name)
    text = _readable(text, name)
    try:
        _check_extent(text, name)
        loader = _Loader(text)
        try:
            roots = list(_nodes(loader))
            if problems := [problem for root in roots for problem in _problems(root, name)]:
                raise InputError(problems)
            documents: list[object] = [loader.construct_document(root) for root in roots]
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        raise InputError([_syntax_problem(error, name)]) from None
    except ValueError as error:  # an integer with more digits than Python reads
        raise InputError([Problem(name, 0, "", str(error), "quote the value")]) from None

    @cache
    def children(node: yaml.Node) -> dict[str | int, tuple[yaml.Node, yaml.Node]]:
        # The last one wins: construction puts what `<<` merges in before the mapping's own keys.
        return {part: (named_by, child) for part, named_by, child in _children(node)}

    def line_of(document: int, field: Field) -> int:
        if not 0 <= document < len(roots):
            return 0
        node = roots[document]
        line = _first_line(node)
        for part in field:
            place = children(node).get(str(part) if isinstance(node, yaml.MappingNode) else part)
            if place is None:
                break
            line, node = _first_line(place[0]), place[1]
        return line

    return documents, line_of


def dotted(field: Field) -> str:
    """A field as people write it: `spec.devices[1]`."""
    text = ""
    for part in field:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)  # a key may be null
    return text


class Reading:
    """A file whose documents are taken over: what is wrong with them, each at its line, and what is worth a warning.

    Fields begin with the number of their document.
    """

    def __init__(self, name: str, line_of: LineOf, warnings: list[str] | None = None) -> None:
        self.name = name
        self.problems = Problems()
        self.warnings = [] if warnings is None else warnings
        self._line_of = line_of

    def again(self) -> Reading:
        """The same file, as if nothing were wrong with it so far."""
        return Reading(self.name, self._line_of, self.warnings)

    def line(self, at: Field) -> int:
        document, *field = at
        return self._line_of(int(document), tuple(field))

    def problem(self, at: Field, why: str, fix: str, *, line: int | None = None) -> None:
        _, *field = at
        line = self.line(at) if line is None else line
        self.problems.append(Problem(self.name, line, dotted(tuple(field)), why, fix))

    def warn(self, words: str, at: Field | None = None) -> None:
        _, *field = at or (0,)
        line = self.line(at) if at else 0
        where = f"{self.name}:{line}" if line else self.name
        self.warnings.append(": ".join(filter(None, (where, dotted(tuple(field)), words))))

    def mapping(self, value: Any, at: Field, fix: str, why: str = "a mapping is wanted") -> dict[Any, Any]:
        """The value, which must be a mapping; an empty one stands for what is none."""
        if not isinstance(value, dict):
            self.problem(at, why, fix)
            return {}
        return value


def scalar(value: Any) -> str:
    """A scalar as text, as Helm's `quote` writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


class _Loader(_BaseLoader):
    """Reads as SafeLoader does, but leaves two surprises of YAML 1.1 as the text they are written as."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        inherited: Callable[[Any, Any, Any], Any] = super().resolve  # PyYAML's stub says no types
        tag = inherited(kind, value, implicit)
        if kind is yaml.ScalarNode and implicit[0]:
            # A date would be an object that no input here wants; 10:20:30:40:50:51 is a MAC address, not base 60.
            base_60 = tag in (f"{_TAG}int", f"{_TAG}float") and ":" in value
            if base_60 or tag == f"{_TAG}timestamp":
                return f"{_TAG}str"
        return tag


def _readable(text: str, name: str) -> str:
    text = text.removeprefix("\ufeff")
    if unprintable := Reader.NON_PRINTABLE.search(text):
        line = text.count("\n", 0, unprintable.start()) + 1
        why = f"the character U+{ord(unprintable.group()):04X} is not allowed in YAML"
        raise InputError([Problem(name, line, "", why, "remove it, or write it escaped in double quotes")])
    if "\t" in text and text.lstrip()[:1] in ("{", "["):
        try:
            json.loads(text)
        except (ValueError, RecursionError):
            return text
        return text.replace("\t", " ")  # JSON may be indented with tabs, YAML may not; no JSON string holds a raw tab
    return text


def refuse_long(length: int, name: str) -> None:
    if length > _MAX_BYTES:
        why = f"longer than {_MAX_BYTES // 2**20} MiB, which no topology and no settings are"
        raise InputError([Problem(name, 0, "", why, "name the right file, or leave out what is not needed")])


def _check_extent(text: str, name: str) -> None:
    """Refuses what is nested too deep or holds too much before anything is made of it."""
    # libyaml's composer recurses on the C stack: without this a file of brackets ends the process.
    depth = values = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.NodeEvent):
            values += 1
            depth += isinstance(event, yaml.CollectionStartEvent)
            line = event.start_mark.line + 1 if event.start_mark else 0
            if depth > _MAX_NESTING:
                raise InputError(
                    [Problem(name, line, "", f"nested more than {_MAX_NESTING} levels deep", "flatten it")]
                )
            if values > _MAX_VALUES:
                why = f"the file holds more than {_MAX_VALUES} values"
                raise InputError([Problem(name, line, "", why, "leave out what is not needed")])


def _nodes(loader: _Loader) -> Iterator[yaml.Node]:
    while loader.check_node():
        if (node := loader.get_node()) is not None:
            yield node


def _children(node: yaml.Node) -> Iterator[tuple[str | int, yaml.Node, yaml.Node]]:
    """Each child's part of the path, the node that names it (its own line) and the child."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield str(key.value), key, value
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield index, value, value


def _problems(root: yaml.Node, name: str) -> list[Problem]:
    """Keys given twice, aliases inside themselves, and aliases that multiply beyond reason."""
    problems = Problems()
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def visit(node: yaml.Node, field: Field, line: int) -> int:
        if id(node) in open_nodes:
            problems.append(Problem(name, line, dotted(field), "an alias contains itself", "write the value out"))
            return 1
        if id(node) in sizes:
            return sizes[id(node)]
        open_nodes.add(id(node))
        size = 1
        seen: dict[str | int, int] = {}
        for part, named_by, child in _children(node):
            line = _first_line(named_by)
            if part in seen and named_by.tag != f"{_TAG}merge":
                why = f"the key is given twice (first in line {seen[part]})"
                problems.append(Problem(name, line, dotted((*field, part)), why, "keep one of them"))
            seen.setdefault(part, line)
            size += visit(child, (*field, part), line)
        open_nodes.discard(id(node))
        sizes[id(node)] = size
        return size

    if visit(root, (), _first_line(root)) > _MAX_VALUES and not problems:
        why = f"its aliases stand for more than {_MAX_VALUES} values"
        problems.append(Problem(name, _first_line(root), "", why, "write the values out"))
    return problems


def _first_line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _syntax_problem(error: yaml.MarkedYAMLError, name: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    why = " ".join(part for part in (error.context, error.problem) if part)
    if isinstance(error, yaml.constructor.ConstructorError):
        fix = "write plain data: mappings, lists, text, numbers, true and false"
    elif "\\t" in why or "tab" in why or "cannot start any token" in why:
        fix = "indent with spaces"
    else:
        fix = "check indentation, colons and quotes in this line and the one above"
    return Problem(name, mark.line + 1 if mark else 0, "", why, fix)
