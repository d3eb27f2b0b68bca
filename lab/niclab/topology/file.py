"""Topology files: found by name, their ranges written out, read to models; what is wrong with them, in words and lines.

Ranges make eight nodes as many lines as one.
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from niclab.errors import Finding, InputError, LabError, Problem, Problems, nearest
from niclab.topology.model import Topology
from niclab.topology.yamlfile import Field, LineOf, data_lines, dotted, load_with_lines, read_text


def directories() -> tuple[Path, ...]:
    """Where topologies are looked up by name: ./topologies, then the ones shipped with the package."""
    package = Path(__file__).resolve().parent.parent
    return Path.cwd() / "topologies", package / "_topologies", package.parents[1] / "topologies"


def names() -> list[str]:
    """Every topology that can be named without a path."""
    return sorted({path.stem for directory in directories() for path in directory.glob("*.yaml")})


def find(name: str) -> Path:
    """The file of a topology given by name or path. Raises LabError."""
    given = Path(name)
    if given.suffix in (".yaml", ".yml", ".json") or "/" in name:
        return given
    for directory in directories():
        for path in directory.glob("*.yaml"):
            if path.stem == name:
                return path
    raise LabError(
        f"no topology is named {name!r}",
        why=f"looked for {name}.yaml in {directories()[0]} and among the shipped ones",
        fix=nearest(name, names()) + ", or give the path of a YAML file",
    )


_MOST = 200
"""Places in one file that are complained of."""


def is_topology(path: Path) -> bool:
    """A topology has `fabrics` or `nodes`; a file that cannot be read is one by its name."""
    try:
        documents, _ = load_with_lines(read_text(path), str(path))
    except InputError:
        return path.suffix in (".yaml", ".yml")
    return any(isinstance(data, dict) and not {"fabrics", "nodes"}.isdisjoint(data) for data in documents)


def parse(text: str, name: str, check: Callable[[Topology], Iterable[Finding]]) -> Topology:
    """A topology from YAML text; `name` is the file's name in errors, `check` finds what must hold between fields.

    Raises InputError with what was found, each at its line.
    """
    document, line_of = _only_document(text, name)
    try:
        data, origin = _expanded(document)
    except _RangeError as error:
        path, why, fix = error.args
        raise InputError([Problem(name, line_of(0, path), dotted(path), why, fix)]) from None
    places = _Places(name, line_of, data, origin)
    try:
        topology = Topology.model_validate(data)
    except ValidationError as error:
        raise InputError(places.problems(_explain(dict(details)) for details in error.errors())) from None
    places.problems(check(topology)).finish()
    return topology


def _only_document(text: str, name: str) -> tuple[dict[Any, Any], LineOf]:
    documents, line_of = load_with_lines(text, name)
    held = [number for number, document in enumerate(documents) if document is not None]
    if len(held) == 1 and isinstance(only := documents[held[0]], dict):
        return only, lambda _, field: line_of(held[0], field)
    if not held:
        line, why = 1, "the file is empty"
    elif len(held) > 1:
        line, why = line_of(held[1], ()), f"the file holds {len(held)} documents; here the second begins"
    else:
        kind = "a list" if isinstance(documents[held[0]], list) else "a single value"
        line, why = line_of(held[0], ()), f"the file holds {kind}, not a mapping"
    raise InputError([Problem(name, line, "", why, "a topology is one mapping with name, fabrics and nodes")])


_RANGE = re.compile(r"\[([0-9]{1,9})-([0-9]{1,9})\]")
_NUMBER = "{n}"
_EXPRESSIONS = frozenset({"interfaces"})
"""Fields of regular expressions, which have brackets of their own."""
_LIMIT = 4096
_TOTAL_LIMIT = 100_000


class _RangeError(ValueError):
    """A range that cannot be expanded. `args`: where it stands in the source, why, and how to write it."""


def _expanded(data: Any) -> tuple[Any, dict[Field, Field]]:
    """The data with every range written out, and for each path in it the path in the source. Raises _RangeError.

    A key's range (`node[1-8]`) makes one entry per number, with `{n}` in its keys and values replaced by the number; a
    list entry's ranges (`10.244.[1-8].0/24 via 10.0.0.[1-8]`) advance together, one entry per step.
    """
    return (expansion := _Expansion()).walk(data, (), (), None), expansion.origin


class _Expansion:
    """One walk over the data. `number` is that of the range the walk is inside of: the outermost one."""

    def __init__(self) -> None:
        self.origin: dict[Field, Field] = {}

    def walk(self, value: Any, here: Field, there: Field, number: str | None) -> Any:
        self.origin[here] = there
        if len(self.origin) > _TOTAL_LIMIT:
            raise _RangeError(there, f"its ranges make more than {_TOTAL_LIMIT} values", "use shorter ranges")
        if isinstance(value, dict):
            return self._mapping(value, here, there, number)
        if isinstance(value, list):
            plain = here[-1:] and here[-1] in _EXPRESSIONS
            return self._list(value, here, there, number, plain=bool(plain))
        return _substituted(value, there, number)

    def _mapping(self, value: dict[Any, Any], here: Field, there: Field, number: str | None) -> dict[Any, Any]:
        result: dict[Any, Any] = {}
        for key, item in value.items():
            source = (*there, key)
            for name, inner in _names(_substituted(key, source, number), source):
                if name in result:
                    raise _RangeError(source, f"{name!r} is there twice", "give each entry its own name")
                result[name] = self._value(key, item, (*here, name), source, number or inner)
        return result

    def _value(self, key: Any, item: Any, here: Field, there: Field, number: str | None) -> Any:
        """A field's value; a text with a range, where a list may stand, is the list of what it stands for."""
        if isinstance(item, str) and key in _lists() and _RANGE.search(item):
            self.origin[here] = there
            entries = _steps(_substituted(item, there, number), there)
            return [self.walk(entry, (*here, n), (*there, 0), number) for n, entry in enumerate(entries)]
        return self.walk(item, here, there, number)

    def _list(self, value: list[Any], here: Field, there: Field, number: str | None, *, plain: bool) -> list[Any]:
        """`plain`: its entries' brackets are their own."""
        items: list[Any] = []
        for index, item in enumerate(value):
            source = (*there, index)
            many = not plain and isinstance(item, str) and _RANGE.search(item)
            for entry in _steps(_substituted(item, source, number), source) if many else [item]:
                items.append(self.walk(entry, (*here, len(items)), source, number))
        return items


@functools.cache
def _lists() -> frozenset[str]:
    """The fields whose value is a list of texts with ranges, or one entry without one."""
    names = {"pods"}
    models: list[type[BaseModel]] = [Topology]
    while models:
        for name, field in models.pop().model_fields.items():
            if tuple in [get_origin(each) for each in (field.annotation, *get_args(field.annotation))]:
                names.add(name)
            if (below := _model_in(field.annotation)) is not None:
                models.append(below)
    return frozenset(names - _EXPRESSIONS)


def _names(key: Any, path: Field) -> Iterator[tuple[Any, str | None]]:
    """The keys that one key stands for, each with the number that `{n}` becomes below it."""
    first = _RANGE.search(key) if isinstance(key, str) else None
    if first is None:
        yield key, None
        return
    for step, name in enumerate(_steps(key, path)):
        yield name, str(int(first[1]) + step)


def _steps(text: str, path: Field) -> list[str]:
    spans = [(int(low), int(high)) for low, high in _RANGE.findall(text)]
    lengths = [high - low + 1 for low, high in spans]
    if min(lengths) < 1:
        raise _RangeError(path, f"a range of {text!r} runs backwards", "write node[1-8], the lower number first")
    if len(set(lengths)) > 1:
        raise _RangeError(
            path, f"the ranges of {text!r} differ in length", "ranges of one line advance together: make them equal"
        )
    if lengths[0] > _LIMIT:
        raise _RangeError(path, f"{text!r} makes {lengths[0]} entries, more than {_LIMIT}", "use a shorter range")
    return [_RANGE.sub(functools.partial(_number, step), text) for step in range(lengths[0])]


def _number(step: int, span: re.Match[str]) -> str:
    """A range's number at this step; `node[01-12]` keeps its zeros."""
    number = str(int(span[1]) + step)
    return number.zfill(len(span[1])) if span[1].startswith("0") else number


def _substituted(value: Any, path: Field, number: str | None) -> Any:
    if not isinstance(value, str) or _NUMBER not in value:
        return value
    if number is None:
        raise _RangeError(
            path, f"{value!r} has {_NUMBER}, which is a number only below a key such as node[1-8]", "write the number"
        )
    return value.replace(_NUMBER, number)


@dataclass(frozen=True)
class _Places:
    """Where the fields of a topology stand in its file. `origin`: path in the data → path in the file."""

    name: str
    line_of: LineOf
    data: Any
    origin: dict[Field, Field]

    def problems(self, findings: Iterable[Finding]) -> Problems:
        """The findings in the file's order; what the entries of one range have in common is listed once. Of very many
        only the first are listed: the rest is not asked for.
        """
        first: dict[Field, Field] = {}
        repeats: dict[Field, set[Field]] = {}
        kept: list[tuple[Field, Finding]] = []
        for finding in findings:
            source = self._source(finding.path)
            if first.setdefault(source, finding.path) == finding.path:
                if len(kept) == _MOST:
                    break
                kept.append((source, finding))
            else:
                repeats.setdefault(source, set()).add(finding.path)
        made = [self._problem(source, finding, len(repeats.get(source, ()))) for source, finding in kept]
        return Problems(sorted(made, key=lambda problem: problem.line))

    def _problem(self, source: Field, finding: Finding, more: int) -> Problem:
        why = finding.why + (f" (and so for {more} more of the range)" if more else "")
        # Names as the topology has them, indices as the file has them.
        both = zip(finding.path, source, strict=True)
        field = tuple(there if isinstance(here, int) and isinstance(there, int) else here for here, there in both)
        return Problem(self.name, self.line_of(0, source), dotted(field), why, finding.fix)

    def _source(self, path: Field) -> Field:
        known = path
        while known not in self.origin:
            known = known[:-1]
        rest = path[len(known) :]
        if rest:
            # Pods by name may be written as a list of names.
            value = functools.reduce(operator.getitem, known, self.data)
            if isinstance(value, list) and rest[0] in value:
                return (*self.origin[*known, value.index(rest[0])], *rest[1:])
        return (*self.origin[known], *rest)


_HOST_NAME = "lower-case letters, digits and dashes, at most 32"
_NIC_NAME = "letters, digits, `_`, `.` and `-`, at most 15"
_SERVICE_NAME = "lower-case letters, digits and dashes, at most 32, a letter first"
_PLAIN = {
    "less_than_equal": "{given} is more than {le}",
    "greater_than_equal": "{given} is less than {ge}",
    "literal_error": "{given} is none of {expected}",
    "bool_type": "{given} is neither true nor false",
    "too_short": "there is none",
}


@functools.cache
def _fixes() -> dict[str, str]:
    """How to fix a field, by its name."""
    return dict(line.split(" ", 1) for line in data_lines("niclab.topology", "fixes.txt"))


def _explain(error: dict[str, Any]) -> Finding:
    """One entry of `ValidationError.errors()`."""
    path: Field = error["loc"]
    if path[-1:] == ("[key]",):
        path = path[:-1]
        return Finding(path, f"{path[-1]!r} is not a name that can be used here", _fix_name(path, error))
    kind, given, context = error["type"], _shown(error.get("input")), error.get("ctx", {})
    if kind == "extra_forbidden":
        return Finding(
            path,
            f"there is no field {path[-1]!r} here",
            nearest(str(path[-1]), (_model(path[:-1]) or Topology).model_fields),
        )
    if kind == "missing":
        fix = _fix(path) if path[-1] in _fixes() else f"add `{path[-1]}: …`"
        fix = _fixes()["bgp"] if path[0] == "bgp" and len(path) == 2 else fix
        return Finding(path, f"the field {path[-1]!r} is missing", fix)
    if kind == "value_error":
        return Finding(path, str(context["error"]), _fix(path))
    if kind == "string_pattern_mismatch":
        return Finding(path, f"{given} is no {_field(path)}", _fix(path))
    if kind == "string_type":
        return Finding(path, f"{given} is not text", "put it in quotes")
    if kind.startswith("int_"):
        return Finding(path, f"{given} is not a whole number", _fix(path))
    if kind in ("dict_type", "model_type", "model_attributes_type"):
        return Finding(path, f"{given} is not a mapping", _fix_mapping(path))
    if kind in _PLAIN:
        return Finding(path, _PLAIN[kind].format(given=given, **context), _fix(path))
    return Finding(path, f"{error['msg'][0].lower()}{error['msg'][1:]} (got {given})", _fix(path))


def _shown(value: Any) -> str:
    """A value as the file has it, not too long."""
    if isinstance(value, dict | list | tuple):
        return "a mapping" if isinstance(value, dict) else "a list"
    if value is None:
        return "nothing"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:56]}…{text[-1]}"


def _model(path: Field) -> type[BaseModel] | None:
    """The model whose fields stand at a path such as `nodes.NAME`; None where names stand, or a value."""
    model: type[BaseModel] = Topology
    parts = iter(path)
    for part in parts:
        field = model.model_fields.get(str(part))
        below = _model_in(field.annotation) if field else None
        if field is None or below is None or (get_origin(field.annotation) is dict and next(parts, None) is None):
            return None
        model = below
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for inner in get_args(annotation) if (model := _model_in(inner))), None)


def _fix_mapping(path: Field) -> str:
    if path == ("bgp", "routers"):
        return "routers: {tor0: {asn: 65010}}"
    if model := _model(path):
        return f"write its fields: {', '.join(model.model_fields)}"
    return _fixes().get(_field(path), "write `name: …` entries below it")


def _fix_name(path: Field, error: dict[str, Any]) -> str:
    if error["type"] == "string_type":
        return f'put it in quotes: "{path[-1]}"'
    if len(path) >= 2 and path[-2] == "services":
        return _SERVICE_NAME
    return _NIC_NAME if len(path) >= 2 and path[-2] in ("nics", "links") else _HOST_NAME


def _field(path: Field) -> str:
    return next((str(part) for part in reversed(path) if isinstance(part, str)), "")


def _fix(path: Field) -> str:
    if path[2:3] == ("pods",) and path[4:5] == ("addresses",):
        return "write the address alone, e.g. 10.244.1.10"
    return _fixes().get(_field(path), "see the JSON Schema: niclab validate --schema")
